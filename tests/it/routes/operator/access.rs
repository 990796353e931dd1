//! Users and keys by `/api/operator`.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::app::api;
use valuecanvas_billing::server::routes::Access;
use valuecanvas_billing::tenancy::auth::Role;

use super::Desk;

impl Desk {
    async fn log_in(&self, email: &str, password: &str) -> (u16, Value) {
        let login = json!({"email": email, "password": password});
        let request = self.service.post("/api/auth/login").json(&login);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.ask(Method::POST, path, Some(body)).await
    }
}

#[tokio::test]
async fn a_user_gets_a_password_once_and_loses_access_at_once() {
    let desk = Desk::open().await;
    let email = "jo@example.com";
    let new = json!({"email": email, "role": "owner", "organizationId": desk.organization});
    let (status, user) = desk.post("/users", new.clone()).await;
    assert_eq!((status, &user["existed"]), (201, &json!(false)), "{user}");
    let password = user["password"].as_str().unwrap().to_owned();
    let id = user["id"].as_str().unwrap().to_owned();
    let (status, session) = desk.log_in(email, &password).await;
    assert_eq!((status, &session["role"]), (200, &json!("owner")));
    let token = session["token"].as_str().unwrap();
    let may = async |token: &str| {
        let request = desk.service.get("/api/billing/plans").bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(may(token).await, 200);

    assert_eq!(desk.post("/users", new).await.0, 409);
    let (status, set) = desk
        .ask(Method::POST, &format!("/users/{id}/password"), None)
        .await;
    assert_eq!(status, 200, "{set}");
    assert_eq!(may(token).await, 401);
    assert_eq!(desk.log_in(email, &password).await.0, 401);
    let password = set["password"].as_str().unwrap();
    assert_eq!(desk.log_in(email, password).await.0, 200);

    let (status, disabled) = desk
        .ask(Method::POST, &format!("/users/{id}/disable"), None)
        .await;
    assert_eq!(status, 200);
    assert!(disabled["disabledAt"].is_string(), "{disabled}");
    assert_eq!(desk.log_in(email, password).await.0, 401);
    let (_, enabled) = desk
        .ask(Method::POST, &format!("/users/{id}/enable"), None)
        .await;
    assert!(enabled["disabledAt"].is_null(), "{enabled}");
    assert_eq!(desk.log_in(email, password).await.0, 200);

    let of = format!("/users?organizationId={}&limit=1", desk.organization);
    let (_, listed) = desk.get(&of).await;
    assert_eq!(listed["data"][0]["email"], email);
    assert_eq!(listed["nextCursor"], Value::Null);
    assert!(!listed.to_string().contains(password));
    assert_eq!(desk.ids("/users", "id").await.len(), 2);
}

#[tokio::test]
async fn wrong_users_and_keys_are_refused() {
    let desk = Desk::open().await;
    let organization = desk.organization.to_string();
    for (body, status) in [
        (
            json!({"email": "jo", "role": "owner", "organizationId": organization}),
            422,
        ),
        (
            json!({"email": "jo@example.com", "role": "king", "organizationId": organization}),
            422,
        ),
        (json!({"email": "jo@example.com", "role": "owner"}), 422),
        (
            json!({"email": "jo@example.com", "role": "operator", "organizationId": organization}),
            422,
        ),
        (
            json!({"email": "jo@example.com", "role": "owner", "organizationId": Uuid::now_v7()}),
            404,
        ),
    ] {
        let (answered, problem) = desk.post("/users", body).await;
        assert_eq!(answered, status, "{problem}");
    }
    let keys = format!("/organizations/{organization}/api-keys");
    for scopes in [json!([]), json!(["all"]), json!(["organizations.manage"])] {
        let (answered, problem) = desk.post(&keys, json!({"scopes": scopes})).await;
        assert_eq!(
            (answered, &problem["code"]),
            (422, &json!("invalid_api_key"))
        );
    }
    let past = json!({"scopes": ["usage.write"], "expiresAt": "2020-01-01T00:00:00Z"});
    assert_eq!(desk.post("/service-keys", past).await.0, 422);
    let nobody = Uuid::now_v7();
    for (method, path) in [
        (Method::POST, format!("/users/{nobody}/disable")),
        (Method::DELETE, format!("{keys}/{nobody}")),
        (Method::DELETE, format!("/service-keys/{nobody}")),
    ] {
        assert_eq!(desk.ask(method, &path, None).await.0, 404, "{path}");
    }
    let own = "SELECT id::text FROM users WHERE operator";
    let own = desk.service.db.value(own).await;
    let (status, problem) = desk
        .ask(Method::POST, &format!("/users/{own}/disable"), None)
        .await;
    assert_eq!((status, &problem["code"]), (409, &json!("own_user")));
}

#[tokio::test]
async fn keys_are_shown_once_and_end_at_once() {
    let desk = Desk::open().await;
    let keys = format!("/organizations/{}/api-keys", desk.organization);
    let (status, made) = desk
        .post(
            &keys,
            json!({"scopes": ["billing.read"], "name": "nightly"}),
        )
        .await;
    assert_eq!(status, 201, "{made}");
    let key = made["key"].as_str().unwrap().to_owned();
    let may = async |key: &str| {
        let request = desk.service.get("/api/billing/plans").bearer_auth(key);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(may(&key).await, 200);
    let (_, listed) = desk.get(&keys).await;
    assert_eq!(listed["data"][0]["name"], "nightly");
    assert!(!listed.to_string().contains(&key));
    let path = format!("{keys}/{}", made["id"].as_str().unwrap());
    assert_eq!(desk.ask(Method::DELETE, &path, None).await.0, 204);
    assert_eq!(may(&key).await, 401);
    assert_eq!(desk.ask(Method::DELETE, &path, None).await.0, 404);

    let all = json!({"scopes": ["organizations.manage"]});
    let (status, made) = desk.post("/service-keys", all).await;
    assert_eq!(status, 201, "{made}");
    let key = made["key"].as_str().unwrap().to_owned();
    let manages = async || {
        let request = desk.service.get("/api/organizations").bearer_auth(&key);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(manages().await, 200);
    let path = format!("/service-keys/{}", made["id"].as_str().unwrap());
    assert_eq!(desk.ask(Method::DELETE, &path, None).await.0, 204);
    assert_eq!(manages().await, 401);
}

/// Whatever changes something refuses them, by the table of routes.
#[tokio::test]
async fn operators_who_only_look_change_nothing() {
    let mut desk = Desk::open().await;
    desk.operator = desk.service.token(Uuid::nil(), Role::OperatorRead).await;
    let before = desk.service.db.count("billing_audit_log").await;
    let (mut looks, mut changes) = (0, 0);
    for route in api::table() {
        let Some(method) = route.method.filter(|_| route.access == Access::Operator) else {
            continue;
        };
        let path = route.path.trim_start_matches("/api/operator");
        if method == Method::GET {
            if !path.contains('{') && path != "/explain" {
                let path = match path {
                    "/bulk-actions/matching" => format!("{path}?action=replay_dead_letters"),
                    "/figures/customers" => format!("{path}?standing=free"),
                    _ => path.to_owned(),
                };
                let (status, answer) = desk.get(&path).await;
                assert_eq!(status, 200, "{path}: {answer}");
                looks += 1;
            }
            continue;
        }
        changes += 1;
        let (status, problem) = desk.ask(method.clone(), path, Some(json!({}))).await;
        assert_eq!(
            (status, &problem["code"]),
            (403, &json!("forbidden")),
            "{method} {path}"
        );
    }
    assert!(changes > 15 && looks > 5, "{changes} {looks}");
    let after = desk.service.db.count("billing_audit_log").await;
    assert_eq!(after - before, looks as i64);
}

#[tokio::test]
async fn a_secret_is_answered_once_and_kept_nowhere() {
    let desk = Desk::open().await;
    let url = format!("{}/api/operator", desk.service.base);
    let new = json!({"email": "jo@example.com", "role": "owner",
                     "organizationId": desk.organization});
    let scopes = json!({"scopes": ["usage.write"]});
    let keys = format!("/organizations/{}/api-keys", desk.organization);
    let hook = json!({"url": "https://example.com/hook"});
    for (path, body, secret) in [
        ("/users", new, "password"),
        (&*keys, scopes.clone(), "key"),
        ("/service-keys", scopes, "key"),
        ("/operator-keys", json!({"role": "operator"}), "key"),
        ("/event-endpoints", hook, "secret"),
    ] {
        let send = async || {
            let request = desk.service.client.post(format!("{url}{path}"));
            let request = request.bearer_auth(&desk.operator).json(&body);
            let response = request.header("idempotency-key", path).send().await;
            let response = response.unwrap();
            let status = response.status().as_u16();
            (status, response.json::<Value>().await.unwrap())
        };
        let (status, made) = send().await;
        assert_eq!(status, 201, "{made}");
        let secret = made[secret].as_str().unwrap();
        let (status, again) = send().await;
        assert_eq!(
            (status, &again["code"]),
            (409, &json!("idempotency_answer_not_kept"))
        );
        let kept = format!(
            "request_idempotency WHERE position('{secret}' IN convert_from(coalesce(body, ''), 'UTF8')) > 0"
        );
        assert_eq!(desk.service.db.count(&kept).await, 0, "{path}");
        let done = "request_idempotency WHERE body IS NULL AND status = 201";
        assert!(desk.service.db.count(done).await > 0, "{path}");
    }
}

#[tokio::test]
async fn no_operator_gets_anothers_password() {
    let desk = Desk::open().await;
    let new = json!({"email": "op@example.com", "role": "operator"});
    let (status, made) = desk.post("/users", new).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/users/{}/password", made["id"].as_str().unwrap());
    let (status, problem) = desk.ask(Method::POST, &path, None).await;
    assert_eq!(
        (status, &problem["code"]),
        (409, &json!("another_operator"))
    );
    // Nor their own by a session alone.
    let password = made["password"].as_str().unwrap();
    let (_, session) = desk.log_in("op@example.com", password).await;
    let request = desk.service.post(&format!("/api/operator{path}"));
    let request = request.bearer_auth(session["token"].as_str().unwrap());
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 409);
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "own_user");
    assert_eq!(desk.log_in("op@example.com", password).await.0, 200);
}
