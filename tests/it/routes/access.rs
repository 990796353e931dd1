//! Logging in, tokens, API keys, and who may call which route.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::app::api;
use valuecanvas_billing::server::routes::{Access, Route};
use valuecanvas_billing::tenancy::auth::{
    self, By, Hasher, NewApiKey, NewUser, Permission, Role, Which,
};

use crate::support::{TestDatabase, TestService};

const EMAIL: &str = "test@example.com";
const PASSWORD: &str = "test123";

async fn user(db: &TestDatabase, organization: Uuid, role: Role) {
    let new = NewUser {
        email: EMAIL.to_owned(),
        role,
        organization_id: Some(organization).filter(|_| !role.is_operator()),
        password: PASSWORD.to_owned(),
    };
    auth::create_user(&db.service_pool(), &Hasher::default(), new, &By::SYSTEM)
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

/// The status and code of a GET with these Authorization headers.
async fn get(service: &TestService, path: &str, authorization: &[&str]) -> (u16, String) {
    let mut request = service.get(path);
    for value in authorization {
        request = request.header("authorization", *value);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap_or_default();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

/// What a token is good for is tried on: logging out takes any session, and
/// says 204.
async fn works(service: &TestService, token: &str) -> bool {
    let request = service.get("/api/billing/invoices").bearer_auth(token);
    request.send().await.unwrap().status() != 401
}

async fn revoke(service: &TestService, token: &str) {
    let request = service.post("/api/auth/logout").bearer_auth(token);
    assert_eq!(request.send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn a_user_logs_in_and_the_token_dies_everywhere_with_the_logout() {
    let service = TestService::intake_only().await;
    let other = TestService::beside(&service).await;
    let organization = service.db.organization("cus_1").await;
    user(&service.db, organization, Role::Owner).await;

    let (status, answer) = log_in(&service, " Test@Example.COM", PASSWORD).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["tokenType"], "Bearer");
    assert_eq!(answer["organizationId"], organization.to_string());
    assert_eq!(answer["role"], "owner");
    let expires: jiff::Timestamp = answer["expiresAt"].as_str().unwrap().parse().unwrap();
    assert!(expires > jiff::Timestamp::now());

    let token = answer["token"].as_str().unwrap();
    assert!(works(&service, token).await && works(&other, token).await);
    revoke(&service, token).await;
    assert!(!works(&service, token).await && !works(&other, token).await);
    let hashes = "user_sessions WHERE encode(token_hash, 'escape') LIKE '%vcs_%'";
    assert_eq!(service.db.count(hashes).await, 0, "only hashes are kept");
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
    // A replica believes for a second that somebody is to wait.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let (status, _) = log_in(&service, EMAIL, PASSWORD).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_token_ends_with_its_time_its_use_its_user_and_its_password() {
    let service = TestService::intake_only().await;
    let organization = service.db.organization("cus_1").await;
    user(&service.db, organization, Role::Owner).await;
    let pool = service.db.service_pool();
    for ending in [
        "UPDATE user_sessions SET expires_at = now()",
        "UPDATE user_sessions SET last_used_at = now() - interval '2 hours'",
        "DELETE FROM organization_members",
    ] {
        let token = service.token(organization, Role::Member).await;
        assert!(works(&service, &token).await);
        service.db.execute(ending).await;
        assert!(!works(&service, &token).await, "{ending}");
    }
    service
        .db
        .execute("INSERT INTO organization_members (organization_id, user_id, role)
                  SELECT o.id, u.id, 'owner' FROM organizations o, users u WHERE u.email = 'test@example.com'")
        .await;
    let (_, answer) = log_in(&service, EMAIL, PASSWORD).await;
    auth::set_password(
        &pool,
        &Hasher::default(),
        Which::Email(EMAIL),
        "another one".to_owned(),
        &By::SYSTEM,
    )
    .await
    .unwrap();
    assert!(!works(&service, answer["token"].as_str().unwrap()).await);
    let (status, answer) = log_in(&service, EMAIL, "another one").await;
    assert_eq!(status, 200);
    auth::disable_user(&pool, Which::Email(EMAIL), &By::SYSTEM)
        .await
        .unwrap();
    assert!(!works(&service, answer["token"].as_str().unwrap()).await);
    assert_eq!(log_in(&service, EMAIL, "another one").await.0, 401);
    let entries = "SELECT string_agg(action, ' ' ORDER BY sequence) FROM billing_audit_log
                    WHERE resource_type = 'user'";
    assert_eq!(
        service.db.value(entries).await,
        "user_created user_password_set user_disabled"
    );
}

#[tokio::test]
async fn a_credential_that_is_none_is_refused() {
    let service = TestService::intake_only().await;
    let organization = service.db.organization("cus_1").await;
    let token = service.token(organization, Role::Owner).await;
    let bearer = format!("Bearer {token}");
    let unknown = format!("Bearer vcs_{}", "0".repeat(64));
    let basic = format!("Basic {token}");
    for headers in [
        &[][..],
        &[""],
        &["Bearer"],
        &["Bearer "],
        &[&token],
        &[&basic],
        &[&unknown],
        &["Bearer eyJhbGciOiJub25lIn0.e30."],
        &[&bearer[..bearer.len() - 1]],
        &[&bearer, &bearer],
    ] {
        let answer = get(&service, "/api/billing/invoices", headers).await;
        assert_eq!(answer, (401, "unauthenticated".to_owned()), "{headers:?}");
    }
    let response = service.get("/api/billing/invoices").send().await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn an_api_key_is_shown_once_and_ends_when_it_is_revoked() {
    let service = TestService::intake_only().await;
    let organization = service.db.organization("cus_1").await;
    let pool = service.db.service_pool();
    let new = |expires_at| NewApiKey {
        organization_id: organization,
        name: "product".to_owned(),
        scopes: vec![Permission::BillingRead],
        expires_at,
    };
    let now = jiff::Timestamp::now();
    let (key, secret) = auth::create_api_key(&pool, new(None), now, &By::SYSTEM)
        .await
        .unwrap();
    assert!(secret.starts_with(&key.prefix) && secret.len() > key.prefix.len() + 50);
    assert!(works(&service, &secret).await);
    // Its use is recorded behind the answer.
    let mut tries = 0;
    let all = auth::Part::default();
    while auth::list_api_keys(&pool, organization, all).await.unwrap()[0]
        .last_used_at
        .is_none()
    {
        tries += 1;
        assert!(tries < 500, "the use of the key is never recorded");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    auth::revoke_api_key(&pool, organization, key.id, &By::SYSTEM)
        .await
        .unwrap();
    assert!(!works(&service, &secret).await);

    let soon = now + jiff::SignedDuration::from_hours(1);
    let (_, secret) = auth::create_api_key(&pool, new(Some(soon)), now, &By::SYSTEM)
        .await
        .unwrap();
    assert!(works(&service, &secret).await);
    service
        .db
        .execute("UPDATE api_keys SET expires_at = now()")
        .await;
    assert!(!works(&service, &secret).await);
}

/// When a credential was last used is recorded beside the requests, and waits
/// for nobody.
#[tokio::test]
async fn keys_work_whose_rows_another_session_holds() {
    let service = TestService::intake_only().await;
    let organization = service.db.organization("cus_1").await;
    let mut held = service.db.pool.begin().await.unwrap();
    let mut keys = Vec::new();
    // More than there are connections for it.
    for _ in 0..4 {
        keys.push(
            service
                .api_key(organization, &[Permission::BillingRead])
                .await,
        );
    }
    sqlx::query("SELECT FROM api_keys FOR UPDATE")
        .execute(&mut *held)
        .await
        .unwrap();
    for key in &keys {
        let bearer = format!("Bearer {key}");
        let answer = get(&service, "/api/billing/invoices", &[&bearer]).await;
        assert_eq!(answer.0, 200, "{answer:?}");
    }
    held.rollback().await.unwrap();
    while service
        .db
        .count("api_keys WHERE last_used_at IS NULL")
        .await
        > 0
    {
        for key in &keys {
            assert!(works(&service, key).await);
        }
    }
}

/// What somebody may do who calls, and with what.
struct Credential {
    name: &'static str,
    /// Made anew for each request: logging out ends it.
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Nobody,
    User(Role),
    Key(Permission),
    Service(Permission),
    OperatorKey(Role),
}

impl Credential {
    fn all() -> Vec<Self> {
        let nobody = Self {
            name: "nobody",
            kind: Kind::Nobody,
        };
        let users = Role::ALL.map(|role| Self {
            name: role.as_str(),
            kind: Kind::User(role),
        });
        let keys = Permission::ALL.map(|scope| Self {
            name: scope.as_str(),
            kind: Kind::Key(scope),
        });
        let service_keys = Permission::OF_SERVICE.map(|scope| Self {
            name: scope.as_str(),
            kind: Kind::Service(scope),
        });
        let operator_keys = [Role::Operator, Role::OperatorRead].map(|role| Self {
            name: role.as_str(),
            kind: Kind::OperatorKey(role),
        });
        let all = [nobody].into_iter().chain(users).chain(keys);
        all.chain(service_keys).chain(operator_keys).collect()
    }

    async fn make(&self, service: &TestService, organization: Uuid) -> Option<String> {
        match self.kind {
            Kind::Nobody => None,
            Kind::User(role) => Some(service.token(organization, role).await),
            Kind::Key(scope) => Some(service.api_key(organization, &[scope]).await),
            Kind::Service(scope) => Some(service.service_key(&[scope]).await),
            Kind::OperatorKey(role) => Some(service.operator_key(role).await),
        }
    }

    /// The status of who is not let in; None: it is let in.
    fn refusal(&self, access: Access, method: &Method) -> Option<u16> {
        let may = match (self.kind, access) {
            (_, Access::Public | Access::Console | Access::Portal) => true,
            (_, Access::StripeSignature) => return Some(400),
            (Kind::Nobody, _) => return Some(401),
            (Kind::User(_), Access::Token) => true,
            (Kind::Key(_) | Kind::Service(_) | Kind::OperatorKey(_), Access::Token) => false,
            (Kind::OperatorKey(Role::OperatorRead), Access::Operator) => method == Method::GET,
            (Kind::OperatorKey(_), access) => access == Access::Operator,
            (Kind::User(role), Access::Tenant(needed) | Access::EachTenant(needed)) => {
                role.permissions().contains(&needed)
            }
            (
                Kind::Key(scope) | Kind::Service(scope),
                Access::Tenant(needed) | Access::EachTenant(needed) | Access::ApiKey(needed),
            )
            | (Kind::Service(scope), Access::Service(needed)) => scope == needed,
            (Kind::User(_), Access::ApiKey(_)) => false,
            (Kind::User(_) | Kind::Key(_), Access::Service(_)) => false,
            (Kind::User(Role::OperatorRead), Access::Operator) => method == Method::GET,
            (kind, Access::Operator) => matches!(kind, Kind::User(Role::Operator)),
        };
        (!may).then_some(403)
    }
}

/// The path of a route, with something in the place of each parameter.
fn path_of(route: &Route) -> String {
    let path = route.path.replace("{id}", "none");
    let path = path.replace("{metric}", "none").replace("{*rest}", "below");
    path.replace("{file}", "page.js")
        .replace("{organization}", &Uuid::nil().to_string())
        .replace("{externalId}", "none")
        .replace("{user}", &Uuid::nil().to_string())
        .replace("{key}", &Uuid::nil().to_string())
        .replace("{session}", &Uuid::nil().to_string())
}

/// Every role and kind of key, on every route that is served. None is left out:
/// a new route is tried as soon as it is in the table.
#[tokio::test]
async fn each_route_admits_whom_the_table_says() {
    let service = TestService::intake_only().await;
    let organization = service.db.organization("cus_1").await;
    let mut wrong = Vec::new();
    for route in api::table() {
        // Pages lead to where one signs in: tests/it/console and tests/it/portal.
        if route.access.is_of_browsers() {
            continue;
        }
        for credential in Credential::all() {
            let bearer = credential.make(&service, organization).await;
            let method = route.method.clone().unwrap_or(Method::GET);
            let url = format!("{}{}", service.base, path_of(&route));
            let mut request = service.client.request(method.clone(), url);
            if let Some(bearer) = bearer {
                request = request.bearer_auth(bearer);
            }
            let selects = matches!(credential.kind, Kind::Service(_));
            if selects && !matches!(route.access, Access::Service(_)) {
                request = request.header("x-organization", organization.to_string());
            }
            let status = request.send().await.unwrap().status().as_u16();
            let as_said = match credential.refusal(route.access, &method) {
                Some(refusal) => status == refusal,
                None => !matches!(status, 401 | 403 | 405),
            };
            if !as_said {
                wrong.push(format!(
                    "{} {method} {}: {status}",
                    credential.name, route.path
                ));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}
