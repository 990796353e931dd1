//! Users' sessions by `/api/operator`.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::Role;

use super::Desk;

#[tokio::test]
async fn a_users_sessions_are_listed_and_ended_at_once() {
    let desk = Desk::open().await;
    let first = desk.service.token(desk.organization, Role::Owner).await;
    let id = "SELECT user_id::text FROM organization_members";
    let id = desk.service.db.value(id).await;
    desk.service
        .db
        .execute(&format!(
            "INSERT INTO user_sessions (token_hash, user_id, for_organization_id, expires_at,
                                        ip_address, user_agent, signed_in_by)
             VALUES (sha256('vcs_other'), '{id}', '{}', now() + interval '1 hour',
                     '192.0.2.7', 'telephone', 'password')",
            desk.organization
        ))
        .await;
    let may = async || {
        let request = desk.service.get("/api/billing/plans").bearer_auth(&first);
        request.send().await.unwrap().status().as_u16()
    };
    let path = format!("/users/{id}/sessions");
    let (status, listed) = desk.get(&path).await;
    assert_eq!(status, 200, "{listed}");
    let open = listed["data"].as_array().unwrap();
    assert_eq!(open.len(), 2, "{listed}");
    let other = open.iter().find(|one| one["userAgent"] == "telephone");
    let other = other.unwrap();
    assert_eq!(other["ipAddress"], "192.0.2.7");
    assert_eq!(other["signedInBy"], "password");
    assert!(!listed.to_string().contains(&first));

    let one = format!("{path}/{}", other["id"].as_str().unwrap());
    assert_eq!(desk.ask(Method::DELETE, &one, None).await.0, 204);
    assert_eq!(desk.ask(Method::DELETE, &one, None).await.0, 404);
    assert_eq!(may().await, 200);
    assert_eq!(desk.ask(Method::DELETE, &path, None).await.0, 204);
    assert_eq!(may().await, 401);
    let (_, listed) = desk.get(&path).await;
    assert_eq!(listed["data"], json!([]));
    let of_organization = format!(
        "billing_audit_log WHERE organization_id = '{}' AND resource_id = '{id}'
            AND action IN ('user_session_ended', 'user_sessions_ended')",
        desk.organization
    );
    assert_eq!(desk.service.db.count(&of_organization).await, 2);
    let nobody = format!("/users/{}/sessions", Uuid::now_v7());
    let (status, problem): (u16, Value) = desk.get(&nobody).await;
    assert_eq!((status, &problem["code"]), (404, &json!("not_found")));
}

#[tokio::test]
async fn long_lists_of_sessions_and_keys_come_in_pages() {
    let desk = Desk::open().await;
    desk.service.token(desk.organization, Role::Owner).await;
    let id = "SELECT user_id::text FROM organization_members";
    let id = desk.service.db.value(id).await;
    desk.service
        .db
        .execute(&format!(
            "INSERT INTO user_sessions (token_hash, user_id, expires_at)
               SELECT sha256(n::text::bytea), '{id}', now() + interval '1 hour'
                 FROM generate_series(1, 60) n;
             INSERT INTO operator_api_keys (id, name, prefix, key_hash, reads_only)
               SELECT gen_random_uuid(), 'own', 'vco_', sha256(n::text::bytea), true
                 FROM generate_series(1, 61) n;
             INSERT INTO service_api_keys (id, name, prefix, key_hash, scopes)
               SELECT gen_random_uuid(), 'service', 'vcs_', sha256(n::text::bytea), ARRAY['billing.read']
                 FROM generate_series(1, 61) n;
             INSERT INTO api_keys (organization_id, id, name, prefix, key_hash, scopes)
               SELECT '{}', gen_random_uuid(), 'key', 'vck_', sha256(n::text::bytea), ARRAY['billing.read']
                 FROM generate_series(1, 61) n",
            desk.organization
        ))
        .await;
    let of_organization = format!("/organizations/{}/api-keys", desk.organization);
    for path in [
        &*format!("/users/{id}/sessions"),
        "/operator-keys",
        "/service-keys",
        &*of_organization,
    ] {
        let mut seen = std::collections::BTreeSet::new();
        let mut query = "?limit=20".to_owned();
        loop {
            let (status, page) = desk.get(&format!("{path}{query}")).await;
            assert_eq!(status, 200, "{path}: {page}");
            let rows = page["data"].as_array().unwrap();
            assert!(rows.len() <= 20, "{path}");
            for row in rows {
                let id = row["id"].as_str().unwrap().to_owned();
                assert!(seen.insert(id), "{path}: twice");
            }
            match page["nextCursor"].as_str() {
                Some(next) => query = format!("?limit=20&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(seen.len(), 61, "{path}");
    }
}
