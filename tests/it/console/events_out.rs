//! Endpoints and deliveries, by pages alone.

use reqwest::Method;

use super::{Browser, Desk, OPERATOR, READER, is_ok};
use crate::outbox::receiver::{Receiver, Reply, service, until_count};

const EVENTS: &str = "/console/events-out";
const DELIVERIES: &str = "/console/events-out/deliveries";

/// The address of the first link that begins with `path/` and an id.
fn link(text: &str, path: &str) -> String {
    let mut found = text.split("href=\"").filter_map(|rest| {
        let href = rest.split('"').next()?;
        let id = href.strip_prefix(path)?.strip_prefix('/')?;
        (id.len() == 36).then(|| href.to_owned())
    });
    found
        .next()
        .unwrap_or_else(|| panic!("no link to {path}: {text}"))
}

#[tokio::test]
async fn an_endpoint_lives_by_pages_and_each_act_is_entered() {
    let desk = Desk::of(service().await).await;
    let db = &desk.service.db;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let form = [
        ("do", "create"),
        ("url", &*receiver.url),
        ("description", "the app"),
    ];
    let made = browser.post(EVENTS, &form).await;
    is_ok(&made);
    let secret = made.text.split("whsec_").nth(1).unwrap();
    let secret = secret.split('<').next().unwrap().to_owned();
    assert!(secret.len() > 20, "{}", made.text);
    let list = browser.get(EVENTS).await;
    assert!(list.text.contains("the app") && !list.text.contains(&secret));
    let page_of = link(&list.text, EVENTS);
    assert!(!browser.get(&page_of).await.text.contains(&secret));
    let kept = format!("request_idempotency WHERE request_idempotency::text LIKE '%{secret}%'");
    assert_eq!(db.count(&kept).await, 0, "the secret is kept nowhere");

    let tested = browser.post(&page_of, &[("do", "test")]).await;
    assert!(
        tested.text.contains("The test was delivered"),
        "{}",
        tested.text
    );
    receiver.always(Reply::Status(500));
    let tested = browser.post(&page_of, &[("do", "test")]).await;
    assert!(tested.text.contains("not delivered"), "{}", tested.text);
    receiver.always(Reply::Status(200));

    desk.service.organization("Acme").await;
    let delivered = "outbound_deliveries WHERE status = 'delivered'";
    until_count(&desk.service, delivered, 1).await;
    let sent = receiver.all().len();
    let deliveries = browser.get(&format!("{DELIVERIES}?status=delivered")).await;
    let delivery = link(&deliveries.text, DELIVERIES);
    let one = browser.get(&delivery).await;
    assert!(
        one.text.contains("organization.state_changed"),
        "{}",
        one.text
    );
    let resent = browser.post(&delivery, &[("do", "resend")]).await;
    assert!(resent.text.contains("It is due"), "{}", resent.text);
    receiver.count(sent + 1).await;

    let asked = browser.post(&page_of, &[("do", "ask-rotate")]).await;
    assert!(
        asked.text.contains("Give it a new secret?"),
        "{}",
        asked.text
    );
    let rotated = browser
        .post(&format!("{page_of}/secret"), &[("do", "rotate")])
        .await;
    assert!(rotated.text.contains("whsec_") && !rotated.text.contains(&secret));
    let asked = browser.post(&page_of, &[("do", "ask-disable")]).await;
    assert!(
        asked.text.contains("Disable this endpoint?"),
        "{}",
        asked.text
    );
    is_ok(&browser.post(&page_of, &[("do", "disable")]).await);
    let again = browser.post(&page_of, &[("do", "disable")]).await;
    assert_eq!(again.status, 409);
    assert!(again.text.contains("disabled already"), "{}", again.text);
    is_ok(&browser.post(&page_of, &[("do", "enable")]).await);
    let recovered = browser
        .post(
            &page_of,
            &[("do", "recover"), ("since", "2020-01-01T00:00:00Z")],
        )
        .await;
    assert!(recovered.text.contains("0 of the"), "{}", recovered.text);
    let wrong = browser
        .post(&page_of, &[("do", "recover"), ("since", "yesterday")])
        .await;
    assert_eq!(wrong.status, 422, "{}", wrong.text);
    let asked = browser.post(&page_of, &[("do", "ask-remove")]).await;
    assert!(
        asked.text.contains("Remove this endpoint?"),
        "{}",
        asked.text
    );
    is_ok(&browser.post(&page_of, &[("do", "remove")]).await);
    assert_eq!(browser.get(&page_of).await.status, 404);
    for (action, count) in [
        ("event_endpoint_created", 1),
        ("event_endpoint_tested", 2),
        ("event_deliveries_resent", 1),
        ("event_endpoint_rotated", 1),
        ("event_endpoint_disabled", 1),
        ("event_endpoint_enabled", 1),
        ("event_deliveries_recovered", 1),
        ("event_endpoint_removed", 1),
    ] {
        assert_eq!(desk.entries(action, OPERATOR).await, count, "{action}");
    }
}

#[tokio::test]
async fn what_an_endpoint_may_not_be_is_said_and_nothing_is_made() {
    let desk = Desk::open().await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    for (url, types, org, status) in [
        ("https://127.0.0.1:1/", "", "", 422),
        ("nowhere", "", "", 422),
        ("https://app.example.com/", "no.such", "", 422),
        ("https://app.example.com/", "", "nobody", 404),
    ] {
        let form = [
            ("do", "create"),
            ("url", url),
            ("types", types),
            ("org", org),
        ];
        let page = browser.post(EVENTS, &form).await;
        assert_eq!(page.status, status, "{url} {types} {org}: {}", page.text);
    }
    assert_eq!(desk.service.db.count("outbound_endpoints").await, 0);
}

#[tokio::test]
async fn a_form_that_is_sent_twice_makes_one_endpoint_and_shows_its_secret_once() {
    let desk = Desk::open().await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let path = format!("{EVENTS}?once=0123456789abcdef");
    let form = [("do", "create"), ("url", "https://app.example.com/")];
    let first = browser.post_to(&path, &form).await;
    assert!(first.text.contains("whsec_"), "{}", first.text);
    let second = browser.post_to(&path, &form).await;
    assert_eq!(second.status, 409, "{}", second.text);
    assert!(!second.text.contains("whsec_"), "{}", second.text);
    assert_eq!(desk.service.db.count("outbound_endpoints").await, 1);
}

#[tokio::test]
async fn who_only_reads_sees_endpoints_and_acts_on_none() {
    let desk = Desk::open().await;
    let endpoint = "019aab70-0000-7000-8000-000000000001";
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    desk.service
        .db
        .execute(&format!(
            "INSERT INTO outbound_endpoints (id, source, url, secret)
               VALUES ('{endpoint}', 'operator', 'https://app.example.com/<b>', 'whsec_{key}');
             INSERT INTO outbound_events (organization_id, sequence, id, event_type, body)
               VALUES ('{endpoint}', 1, '{endpoint}', 'plan.changed', '{{\"a\": \"<b>\"}}');
             INSERT INTO outbound_deliveries
                    (organization_id, endpoint_id, sequence, id, response_excerpt, error_message)
               VALUES ('{endpoint}', '{endpoint}', 1, '{endpoint}', '<script>', '<script>')"
        ))
        .await;
    let mut reader = Browser::of(&desk.service, READER).await;
    let pages = [
        EVENTS.to_owned(),
        format!("{EVENTS}/{endpoint}"),
        format!("{DELIVERIES}?endpoint={endpoint}&status=pending"),
        format!("{DELIVERIES}/{endpoint}"),
    ];
    for path in &pages {
        let page = reader.get(path).await;
        is_ok(&page);
        assert_eq!(page.text.matches("method=\"post\"").count(), 1, "{path}");
        assert!(
            !page.text.contains("<script") && !page.text.contains(key),
            "{path}"
        );
    }
    for (path, act) in [
        (EVENTS.to_owned(), "create"),
        (pages[1].clone(), "ask-remove"),
        (pages[1].clone(), "test"),
        (pages[1].clone(), "remove"),
        (format!("{}/secret", pages[1]), "rotate"),
        (pages[3].clone(), "resend"),
    ] {
        let page = reader.post(&path, &[("do", act)]).await;
        assert_eq!(page.status, 403, "{path} {act}");
    }
    assert_eq!(desk.service.db.count("outbound_endpoints").await, 1);
    let mut nobody = Browser::new(&desk.service);
    for path in &pages {
        let page = nobody.send(Method::GET, path, &[]).await;
        assert_eq!(page.status, 303, "{path}");
    }
}
