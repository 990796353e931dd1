//! Operators' keys: what they do, what they do not, and that they end at once.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use valuecanvas_billing::tenancy::auth::{Role, doubtful_operator_keys};

use super::Desk;
use crate::support::program::run_on;

impl Desk {
    /// An operators' key by the API, and its path.
    async fn key(&self, body: Value) -> (String, String) {
        let (status, made) = self.ask(Method::POST, "/operator-keys", Some(body)).await;
        assert_eq!(status, 201, "{made}");
        let id = made["id"].as_str().unwrap();
        let key = made["key"].as_str().unwrap().to_owned();
        (key, format!("/operator-keys/{id}"))
    }

    /// What a request with this credential is answered.
    async fn status(&self, credential: &str, method: Method, path: &str, body: Value) -> u16 {
        let url = format!("{}{path}", self.service.base);
        let request = self.service.client.request(method, url);
        let request = request.bearer_auth(credential).json(&body);
        request.send().await.unwrap().status().as_u16()
    }

    /// Waits until there are so many.
    async fn becomes(&self, counted: &str, expected: i64) {
        for _ in 0..1_500 {
            if self.service.db.count(counted).await == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{counted} never came to {expected}");
    }

    async fn looks(&self, credential: &str) -> u16 {
        let path = "/api/operator/organizations";
        self.status(credential, Method::GET, path, json!({})).await
    }
}

#[tokio::test]
async fn an_operators_key_is_shown_once_used_and_revoked_at_once() {
    let desk = Desk::open().await;
    let new = json!({"role": "operator", "name": "nightly", "expiresAt": "2099-01-01T00:00:00Z"});
    let (key, path) = desk.key(new).await;
    assert!(key.starts_with("vco_"), "{key}");
    let (_, listed) = desk.get("/operator-keys").await;
    let shown = &listed["data"][0];
    assert_eq!(shown["name"], "nightly");
    assert_eq!(shown["role"], "operator");
    assert_eq!(shown["expiresAt"], "2099-01-01T00:00:00Z");
    assert_eq!(shown["lastUsedAt"], Value::Null);
    let own = desk
        .service
        .db
        .value("SELECT id::text FROM users WHERE operator");
    assert_eq!(shown["createdBy"], own.await);
    assert!(!listed.to_string().contains(&key));

    assert_eq!(desk.looks(&key).await, 200);
    let quota = format!(
        "/api/operator/organizations/{}/quotas/api_calls",
        desk.organization
    );
    let set = desk.status(&key, Method::PUT, &quota, json!({"limit": "9"}));
    assert_eq!(set.await, 200);
    let entered = "billing_audit_log WHERE action = 'quota_set' AND actor_type = 'api_key'
                    AND metadata->>'operator' = 'true'
                    AND actor_id = (SELECT id FROM operator_api_keys)";
    assert_eq!(desk.service.db.count(entered).await, 1);
    let used = "operator_api_keys WHERE last_used_at IS NOT NULL";
    desk.becomes(used, 1).await;

    assert_eq!(desk.ask(Method::DELETE, &path, None).await.0, 204);
    assert_eq!(desk.looks(&key).await, 401);
    assert_eq!(desk.ask(Method::DELETE, &path, None).await.0, 404);
}

#[tokio::test]
async fn an_operators_key_ends_when_it_was_said_to() {
    let desk = Desk::open().await;
    let (key, _) = desk.key(json!({"role": "operator"})).await;
    assert_eq!(desk.looks(&key).await, 200);
    desk.service
        .db
        .execute("UPDATE operator_api_keys SET expires_at = now()")
        .await;
    assert_eq!(desk.looks(&key).await, 401);
}

#[tokio::test]
async fn a_key_reaches_no_tenants_route_makes_no_operator_and_opens_no_console() {
    let desk = Desk::open().await;
    let (key, path) = desk.key(json!({"role": "operator"})).await;
    let status =
        async |method: Method, path: &str, body: Value| desk.status(&key, method, path, body).await;
    for tenants in [
        "/api/billing/plans",
        "/api/billing/state",
        "/api/billing/usage",
    ] {
        assert_eq!(
            status(Method::GET, tenants, json!({})).await,
            403,
            "{tenants}"
        );
    }
    assert_eq!(
        status(Method::GET, "/api/organizations", json!({})).await,
        403
    );
    assert_eq!(
        status(Method::POST, "/api/auth/logout", json!({})).await,
        403
    );
    for (made, body) in [
        ("operator-keys", json!({"role": "operator.read"})),
        (
            "users",
            json!({"email": "jo@example.com", "role": "operator.read"}),
        ),
    ] {
        let path = format!("/api/operator/{made}");
        assert_eq!(status(Method::POST, &path, body).await, 403, "{made}");
    }
    // It may make a tenant's user, and end itself.
    let owner = json!({"email": "jo@example.com", "role": "owner",
                       "organizationId": desk.organization});
    assert_eq!(
        status(Method::POST, "/api/operator/users", owner).await,
        201
    );
    let cookie = format!("console={key}");
    let request = desk.service.get("/console").header("cookie", cookie);
    assert_eq!(request.send().await.unwrap().status(), 303);
    let named = desk.service.get("/api/operator/organizations");
    let named = named.bearer_auth(&key).header("x-organization", "acme");
    assert_eq!(named.send().await.unwrap().status(), 400);
    let own = format!("/api/operator{path}");
    assert_eq!(status(Method::DELETE, &own, json!({})).await, 204);
    assert_eq!(desk.looks(&key).await, 401);
}

#[tokio::test]
async fn wrong_operators_keys_are_refused() {
    let desk = Desk::open().await;
    for body in [
        json!({"role": "owner"}),
        json!({"role": "operator", "name": " "}),
        json!({"role": "operator", "name": "a\nb"}),
        json!({"role": "operator", "expiresAt": "2020-01-01T00:00:00Z"}),
    ] {
        let (status, problem) = desk.ask(Method::POST, "/operator-keys", Some(body)).await;
        assert_eq!(
            (status, &problem["code"]),
            (422, &json!("invalid_api_key")),
            "{problem}"
        );
    }
    let reader = desk.service.operator_key(Role::OperatorRead).await;
    assert_eq!(desk.looks(&reader).await, 200);
    let body = json!({"eventIds": ["evt_1"]});
    let path = "/api/operator/dead-letters/replay";
    assert_eq!(desk.status(&reader, Method::POST, path, body).await, 403);
}

#[tokio::test]
async fn a_command_makes_lists_and_revokes_them() {
    let desk = Desk::open().await;
    let db = &desk.service.db;
    let make = [
        "api-keys",
        "create",
        "--operator",
        "--name",
        "nightly",
        "--json",
    ];
    let ran = run_on(db, &make).await;
    assert_eq!(
        ran.status, 2,
        "it says what the key is to do: {}",
        ran.stderr
    );
    let scoped = [&make[..], &["--role", "operator", "--scope", "usage.write"]].concat();
    assert_eq!(run_on(db, &scoped).await.status, 2);
    let ran = run_on(db, &[&make[..], &["--role", "operator.read"]].concat()).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let made: Value = serde_json::from_str(&ran.stdout).unwrap();
    let key = made["key"].as_str().unwrap();
    assert_eq!(desk.looks(key).await, 200);
    let ran = run_on(db, &["api-keys", "list", "--operator"]).await;
    assert!(ran.stdout.contains("nightly") && ran.stdout.contains("operator.read"));
    assert!(!ran.stdout.contains(key));
    let id = made["id"].as_str().unwrap();
    let ran = run_on(db, &["api-keys", "revoke", "--operator", id]).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(desk.looks(key).await, 401);
    assert_eq!(
        run_on(db, &["api-keys", "revoke", "--operator", id])
            .await
            .status,
        1
    );
}

#[tokio::test]
async fn keys_that_are_unused_old_or_of_somebody_who_is_gone_are_named() {
    let desk = Desk::open().await;
    let db = &desk.service.db;
    db.execute(
        "INSERT INTO users (id, email, operator, disabled_at)
           VALUES ('019aab70-0000-7000-8000-000000000009', 'gone@example.com', true, now());
         INSERT INTO operator_api_keys (id, name, prefix, key_hash, reads_only, created_by,
                                        created_at, last_used_at, expires_at, revoked_at)
         SELECT gen_random_uuid(), name, 'vco_00000000', sha256(name::bytea), true,
                maker::uuid, now() - made::interval, now() - used::interval,
                now() + ends::interval, now() + revoked::interval
           FROM (VALUES ('good', NULL, '1 day', '1 hour', NULL, NULL),
                        ('unused', NULL, '100 days', NULL, '1 day', NULL),
                        ('old', NULL, '400 days', '1 day', NULL, NULL),
                        ('orphaned', '019aab70-0000-7000-8000-000000000009', '1 day', '1 hour',
                         '1 day', NULL),
                        ('over', NULL, '400 days', NULL, NULL, '-1 day'))
                AS keys(name, maker, made, used, ends, revoked)",
    )
    .await;
    let now = jiff::Timestamp::now();
    let found = doubtful_operator_keys(&db.service_pool(), now)
        .await
        .unwrap();
    let said = found.iter();
    let said: Vec<(&str, bool, bool, bool)> = said
        .map(|key| (&*key.name, key.unused, key.endless, key.orphaned))
        .collect();
    assert_eq!(
        said,
        [
            ("old", false, true, false),
            ("unused", true, false, false),
            ("orphaned", false, false, true)
        ]
    );
}
