//! What others wrote is shown as text, whatever it is: nothing of it is markup.

use serde_json::json;

use super::{Browser, Desk, OPERATOR, is_ok};
use crate::support::events::event;

const EVIL: &str = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&";

#[tokio::test]
async fn names_payloads_and_user_agents_are_never_markup() {
    let desk = Desk::open().await;
    desk.deliver("cus_1", &["evt_1"]).await;
    let evil = EVIL.replace('\'', "''");
    desk.service
        .db
        .execute(&format!(
            "UPDATE organizations SET name = '{evil}', external_id = 'a{evil}',
                    email = '{evil}@a' WHERE id = '{}'",
            desk.organization
        ))
        .await;
    let object = json!({"id": "re_1", "object": EVIL, "note": EVIL});
    let unknown = event("evt_2", &format!("made.{EVIL}"), 1_760_000_000, object);
    desk.service.deliver(&unknown).await;
    desk.service.settle().await;
    desk.deliver("cus_2", &["evt_3"]).await;
    desk.service
        .db
        .execute(&format!(
            "UPDATE webhook_dead_letter_queue SET error_message = '{evil}'"
        ))
        .await;
    // A look whose user agent is written into the log.
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let request = desk.service.get("/console/webhooks/evt_1");
    let cookie = format!("console={}", browser.cookies["console"]);
    let request = request.header("cookie", cookie).header("user-agent", EVIL);
    assert_eq!(request.send().await.unwrap().status(), 200);

    let mut shown = 0;
    let further = [
        "/console/webhooks/evt_3".to_owned(),
        format!("/console/explain?org={}", desk.organization),
        "/console/audit-log?resource=webhook_event".to_owned(),
    ];
    for path in desk.pages().into_iter().chain(further) {
        let page = browser.get(&path).await;
        is_ok(&page);
        // A code to be scanned is a picture that the page brings along.
        let text = page
            .text
            .replace("<img src=\"data:image/svg+xml;base64,", "");
        for markup in ["<script", "<img", "onerror=alert(1)>"] {
            assert!(!text.contains(markup), "{path}: {text}");
        }
        shown += usize::from(page.text.contains("alert(1)"));
    }
    assert!(shown >= 6, "it is shown on {shown} pages");
    let path = "/console/webhooks?type=%3Cscript%3E&org=%22%3E%3Cscript%3E";
    let page = browser.get(path).await;
    assert!(!page.text.contains("<script"), "{}", page.text);
}

#[tokio::test]
async fn a_payload_is_shown_as_it_came_with_its_size_and_digest() {
    use sha2::{Digest as _, Sha256};

    let desk = Desk::open().await;
    let body = "{ \"id\":\"evt_1\", \"object\":\"event\",\n  \"type\":\"made.up\", \"created\":1760000000, \
                \"livemode\":false, \"data\":{\"object\":{\"id\":\"x_1\", \"large\":123456789012345678901234567890.10}}}";
    let signature = crate::support::events::sign_with(desk.service.secrets[0], body.as_bytes());
    let stored = desk.service.deliver_raw(body, &signature).await;
    assert_eq!(stored.status(), 200);
    desk.service.settle().await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let page = browser.get("/console/webhooks/evt_1").await;
    is_ok(&page);
    let text = page.text.replace("&#34;", "\"").replace("&quot;", "\"");
    assert!(text.contains(body), "{text}");
    let digest = hex::encode(Sha256::digest(body));
    assert!(text.contains(&digest), "{text}");
    assert!(text.contains(&format!("{} bytes", body.len())), "{text}");
}
