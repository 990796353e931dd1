//! Logging in, tokens, API keys, and who may call which route.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::auth::{
    self, Access, Hasher, NewUser, Permission, ROUTES, Role, access_of,
};

use crate::support::{TestDatabase, TestService};

const EMAIL: &str = "test@example.com";
const PASSWORD: &str = "test123";

async fn user(db: &TestDatabase, organization: Uuid, role: Role) {
    let new = NewUser {
        email: EMAIL.to_owned(),
        role,
        organization_id: Some(organization).filter(|_| role != Role::Operator),
        password: PASSWORD.to_owned(),
    };
    auth::create_user(&db.service_pool(), &Hasher::default(), new)
        .await
        .unwrap();
}

async fn log_in(service: &TestService, email: &str, password: &str) -> (StatusCode, Value) {
    let request = service
        .post("/api/auth/login")
        .json(&json!({"email": email, "password": password}));
    let response = request.send().await.unwrap();
    let status = response.status();
    (status, response.json().await.unwrap())
}

#[tokio::test]
async fn an_unknown_address_is_answered_as_a_wrong_password_is() {
    let service = TestService::intake_only().await;
    let organization = service.db.organization("cus_1").await;
    user(&service.db, organization, Role::Owner).await;
    let (status, wrong) = log_in(&service, EMAIL, "wrong password").await;
    assert_eq!(
        (status.as_u16(), &wrong["code"]),
        (401, &json!("invalid_credentials"))
    );
    let nul = "with\0nul".to_owned();
    for (email, password) in [
        ("nobody@example.com", PASSWORD.to_owned()),
        ("", PASSWORD.to_owned()),
        ("no address", PASSWORD.to_owned()),
        (EMAIL, String::new()),
        (EMAIL, nul),
        (EMAIL, "x".repeat(500_000)),
        ("test@example.com\u{0}", PASSWORD.to_owned()),
    ] {
        let answer = log_in(&service, email, &password).await;
        assert_eq!(answer, (status, wrong.clone()), "{email:?}");
    }
}

#[tokio::test]
async fn guessing_is_slowed_down_on_every_replica() {
    let service = TestService::intake_only().await;
    let other = TestService::beside(&service).await;
    let organization = service.db.organization("cus_1").await;
    user(&service.db, organization, Role::Owner).await;
    for n in 0..5 {
        let replica = if n % 2 == 0 { &service } else { &other };
        assert_eq!(log_in(replica, EMAIL, "a wrong guess").await.0, 401);
    }
    // The fifth has its delay, which is a second; the test may take longer.
    let blocked = "login_throttles WHERE blocked_until > last_attempt_at";
    assert_eq!(service.db.count(blocked).await, 1);
    service
        .db
        .execute("UPDATE login_throttles SET blocked_until = blocked_until + interval '1 hour'")
        .await;
    for replica in [&service, &other] {
        let (status, answer) = log_in(replica, EMAIL, PASSWORD).await;
        assert_eq!(
            (status.as_u16(), &answer["code"]),
            (429, &json!("too_many_attempts"))
        );
    }
    // Other accounts are free, and the delay ends.
    let (status, _) = log_in(&service, "other@example.com", PASSWORD).await;
    assert_eq!(status, 401);
    service
        .db
        .execute("UPDATE login_throttles SET blocked_until = now() WHERE blocked_until IS NOT NULL")
        .await;
    let (status, _) = log_in(&service, EMAIL, PASSWORD).await;
    assert_eq!(status, 200);
}

/// Every role and kind of key, on every route that is served.
#[tokio::test]
async fn each_route_admits_whom_the_table_says() {
    let service = TestService::intake_only().await;
    let organization = service.db.organization("cus_1").await;
    let mut callers = Vec::new();
    for role in Role::ALL {
        let permissions = role.permissions().to_vec();
        callers.push((
            role.as_str(),
            service.token(organization, role).await,
            permissions,
            false,
        ));
    }
    for scope in Permission::ALL {
        let key = service.api_key(organization, &[scope]).await;
        callers.push((scope.as_str(), key, vec![scope], true));
    }
    for (method, path, access) in ROUTES {
        for (name, credential, permissions, is_key) in &callers {
            let operator = *name == "operator";
            let admitted = match access {
                Access::Public => continue,
                // It would end the session.
                Access::Token => continue,
                Access::Tenant(needed) => !operator && permissions.contains(needed),
                Access::ApiKey(needed) => *is_key && permissions.contains(needed),
                Access::Operator => operator,
            };
            let path = path.replace("{id}", "none").replace("{metric}", "none");
            let path = path.replace("{organization}", &Uuid::nil().to_string());
            let url = format!("{}{path}", service.base);
            let method = Method::from_bytes(method.as_str().as_bytes()).unwrap();
            let request = service
                .client
                .request(method.clone(), url)
                .bearer_auth(credential);
            let status = request.send().await.unwrap().status().as_u16();
            // Not admitted is 403; what has no handler yet is 404.
            if admitted {
                assert!(
                    !matches!(status, 401 | 403),
                    "{name} {method} {path}: {status}"
                );
            } else {
                assert!(
                    matches!(status, 403 | 404),
                    "{name} {method} {path}: {status}"
                );
            }
        }
    }
}

#[test]
fn every_route_in_the_source_is_in_the_table() {
    let mut routes = 0;
    for (name, source) in crate::architecture::sources("src") {
        for rest in source.split(".route(").skip(1) {
            let template = rest.split('"').nth(1).unwrap_or_default();
            let methods = rest.split_once(',').map_or("", |(_, methods)| methods);
            let methods = &methods[..methods.find(".route(").unwrap_or(methods.len())];
            let methods = &methods[..methods.find('\n').unwrap_or(methods.len())];
            routes += 1;
            assert!(template.starts_with('/'), "{name}: {rest:.60}");
            for (handler, method) in [
                ("get(", Method::GET),
                ("post(", Method::POST),
                ("put(", Method::PUT),
                ("delete(", Method::DELETE),
            ] {
                if methods.contains(handler) {
                    assert!(
                        access_of(&method, template).is_some(),
                        "{method} {template}"
                    );
                }
            }
        }
    }
    assert!(routes >= 6, "the routes are found");
}

#[test]
fn what_is_not_in_the_table_is_nobodys() {
    assert_eq!(access_of(&Method::DELETE, "/api/billing/invoices"), None);
    assert_eq!(access_of(&Method::GET, "/api/billing/other"), None);
    assert_eq!(access_of(&Method::HEAD, "/healthz"), Some(Access::Public));
}
