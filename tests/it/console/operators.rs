//! The page of operators and keys.

use std::collections::BTreeSet;

use reqwest::Method;
use uuid::Uuid;

use super::{Browser, Desk, OPERATOR, READER, is_ok};

const PATH: &str = "/console/operators";

impl Desk {
    async fn looks(&self, key: &str) -> u16 {
        let request = self.service.get("/api/operator/organizations");
        let request = request.bearer_auth(key);
        request.send().await.unwrap().status().as_u16()
    }
}

#[tokio::test]
async fn a_key_is_made_shown_once_and_revoked_after_asking() {
    let desk = Desk::open().await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let once = format!("{PATH}?once={}", Uuid::now_v7());
    let make = [
        ("do", "create-key"),
        ("name", "nightly <b>"),
        ("role", "operator.read"),
        ("lasts", "30"),
    ];
    let page = browser.post_to(&once, &make).await;
    is_ok(&page);
    let key = format!("vco_{}", page.after("vco_").split('<').next().unwrap());
    assert_eq!(desk.looks(&key).await, 200);
    let again = browser.post_to(&once, &make).await;
    assert_eq!(again.status, 409, "{}", again.text);
    assert!(!again.text.contains(&key));
    assert_eq!(desk.service.db.count("operator_api_keys").await, 1);

    let page = browser.get(PATH).await;
    is_ok(&page);
    assert!(!page.text.contains(&key) && !page.text.contains("<b>"));
    assert!(page.text.contains("nightly"), "{}", page.text);
    let id = page.after("name=\"key\" value=\"");
    let ask = [("do", "ask-revoke"), ("kind", "operator"), ("key", &*id)];
    let asked = browser.post(PATH, &ask).await;
    is_ok(&asked);
    assert!(asked.text.contains("Revoke the key?"), "{}", asked.text);
    assert_eq!(desk.looks(&key).await, 200);
    let revoke = [("do", "revoke-key"), ("kind", "operator"), ("key", &*id)];
    assert_eq!(browser.post(PATH, &revoke).await.status, 303);
    assert_eq!(desk.looks(&key).await, 401);
    assert_eq!(browser.post(PATH, &revoke).await.status, 404);
    for action in ["operator_key_created", "operator_key_revoked"] {
        assert_eq!(desk.entries(action, OPERATOR).await, 1, "{action}");
    }
    assert!(desk.entries("operators_listed", OPERATOR).await > 0);
}

#[tokio::test]
async fn who_only_reads_sees_operators_and_keys_and_no_buttons() {
    let desk = Desk::open().await;
    desk.service
        .operator_key(valuecanvas_billing::tenancy::auth::Role::Operator)
        .await;
    let mut reader = Browser::of(&desk.service, READER).await;
    let page = reader.get(PATH).await;
    is_ok(&page);
    assert!(page.text.contains(OPERATOR) && page.text.contains("vco_"));
    assert!(!page.text.contains("name=\"do\""), "{}", page.text);
    let id = "SELECT id::text FROM operator_api_keys";
    let id = desk.service.db.value(id).await;
    for act in [
        vec![
            ("do", "create-key"),
            ("name", "a"),
            ("role", "operator"),
            ("lasts", "0"),
        ],
        vec![("do", "revoke-key"), ("kind", "operator"), ("key", &*id)],
    ] {
        assert_eq!(reader.post(PATH, &act).await.status, 403);
    }
    let left = "operator_api_keys WHERE revoked_at IS NULL";
    assert_eq!(desk.service.db.count(left).await, 1);
}

#[tokio::test]
async fn a_form_of_another_session_does_nothing() {
    let desk = Desk::open().await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let mut other = Browser::of(&desk.service, OPERATOR).await;
    let token = other.get("/console").await.form_token();
    for (path, act) in [
        (PATH, "create-key"),
        ("/console/account", "end-others"),
        ("/console/account", "remove-second-factor"),
    ] {
        let path = format!("{path}?once={}", Uuid::now_v7());
        let form = [
            ("csrf", &*token),
            ("do", act),
            ("name", "a"),
            ("role", "operator"),
            ("lasts", "0"),
        ];
        let page = browser.send(Method::POST, &path, &form).await;
        assert_eq!(page.status, 403, "{act}: {}", page.text);
    }
    assert_eq!(desk.service.db.count("operator_api_keys").await, 0);
    assert_eq!(other.get("/console").await.status, 200);
}

#[tokio::test]
async fn lists_that_are_longer_than_a_page_go_on_and_hide_nobody() {
    let desk = Desk::open().await;
    desk.service
        .db
        .execute(
            "INSERT INTO users (id, email, operator)
               SELECT gen_random_uuid(), 'further' || lpad(n::text, 3, '0') || '@example.com', true
                 FROM generate_series(1, 60) n;
             INSERT INTO operator_api_keys (id, name, prefix, key_hash, reads_only)
               SELECT gen_random_uuid(), 'own' || lpad(n::text, 3, '0'), 'vco_', sha256(n::text::bytea), true
                 FROM generate_series(1, 60) n;
             INSERT INTO service_api_keys (id, name, prefix, key_hash, scopes)
               SELECT gen_random_uuid(), 'service' || lpad(n::text, 3, '0'), 'vcs_', sha256(n::text::bytea),
                      ARRAY['billing.read']
                 FROM generate_series(1, 60) n;
             INSERT INTO user_sessions (token_hash, user_id, expires_at, user_agent)
               SELECT sha256(n::text::bytea), (SELECT id FROM users WHERE email = 'further001@example.com'),
                      now() + interval '1 hour', 'device' || lpad(n::text, 3, '0')
                 FROM generate_series(1, 60) n",
        )
        .await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    for (list, name) in [
        ("operators", "further"),
        ("keys", "own"),
        ("service-keys", "service"),
    ] {
        let mut seen = BTreeSet::new();
        let mut path = PATH.to_owned();
        for _ in 0..10 {
            let page = browser.get(&path).await;
            is_ok(&page);
            let all = (1..=60).map(|n| format!("{name}{n:03}"));
            seen.extend(all.filter(|name| page.text.contains(name.as_str())));
            let next = format!("href=\"{PATH}?{list}=");
            let Some(rest) = page.text.split(&next).nth(1) else {
                break;
            };
            let cursor = rest.split('"').next().unwrap();
            path = format!("{PATH}?{list}={cursor}");
        }
        assert_eq!(seen.len(), 60, "{list}: {seen:?}");
    }
    // Who is on none of the first pages has a page, and all sessions are on it or behind.
    let last = "SELECT id::text FROM users WHERE email = 'further001@example.com'";
    let one = format!("{PATH}/{}", desk.service.db.value(last).await);
    let mut seen = BTreeSet::new();
    let mut path = one.clone();
    for _ in 0..10 {
        let page = browser.get(&path).await;
        is_ok(&page);
        let all = (1..=60).map(|n| format!("device{n:03}"));
        seen.extend(all.filter(|name| page.text.contains(name.as_str())));
        let Some(rest) = page.text.split(&format!("href=\"{one}?cursor=")).nth(1) else {
            break;
        };
        path = format!("{one}?cursor={}", rest.split('"').next().unwrap());
    }
    assert_eq!(seen.len(), 60, "{seen:?}");
}
