//! The page of operators and keys.

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
