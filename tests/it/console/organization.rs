//! One organization: its timeline, and whether it is as in Stripe.

use serde_json::Value;

use super::{Browser, Desk, OPERATOR, is_ok};
use crate::subscriptions::world::Stripe;
use crate::support::service::Options;

#[tokio::test]
async fn the_timeline_has_everything_by_time_in_pages_without_gaps() {
    let desk = Desk::open().await;
    let organization = desk.organization;
    let ids: Vec<String> = (0..30).map(|n| format!("evt_{n:02}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    desk.deliver("cus_1", &ids).await;
    desk.service
        .db
        .execute(&format!(
            "INSERT INTO billing_stripe_requests (organization_id, id, subject, operation, params)
               VALUES ('{organization}', gen_random_uuid(), 'subscription', 'subscriptions.update', '{{}}');
             INSERT INTO outbound_deliveries (organization_id, endpoint_id, sequence)
               SELECT '{organization}', gen_random_uuid(), n FROM generate_series(1, 30) n"
        ))
        .await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let path = format!("/console/organizations/{organization}/timeline");
    // Each delivery was made at the same moment, and is on one page.
    let (mut next, mut deliveries, mut events, mut pages) = (path.clone(), 0, 0, 0);
    loop {
        let page = browser.get(&next).await;
        is_ok(&page);
        pages += 1;
        deliveries += page.text.matches("endpoint ").count();
        events += page.text.matches(">evt_").count();
        match page.text.split("class=\"button\" href=\"").nth(1) {
            Some(rest) => next = rest.split('"').next().unwrap().replace("&#38;", "&"),
            None => break,
        }
        assert!(pages < 20);
    }
    assert_eq!((deliveries, events), (30, 30), "on {pages} pages");
    assert!(pages > 3, "{pages}");
    let one = browser.get(&format!("{path}?kind=stripe_request")).await;
    assert!(one.text.contains("subscriptions.update"), "{}", one.text);
    assert!(!one.text.contains("evt_"), "{}", one.text);
    assert_eq!(browser.get(&format!("{path}?kind=other")).await.status, 400);
    assert!(desk.entries("timeline_listed", OPERATOR).await > 3);
}

#[tokio::test]
async fn a_page_does_not_wait_for_stripe_and_its_part_says_what_differs() {
    let stripe = Stripe::start().await;
    let customer = stripe.post("/v1/customers", &[("name", "Acme")]).await;
    let customer = text(&customer["id"]);
    let desk = Desk::with(Options {
        stripe_api: Some(stripe.api()),
        key_is_live: Some(false),
        ..Options::default()
    })
    .await;
    let organization = desk.service.db.organization(&customer).await;
    let path = format!("/console/organizations/{organization}");
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let page = browser.get(&path).await;
    is_ok(&page);
    let part = format!("{path}/drift/part");
    assert!(
        page.text.contains(&format!("data-live=\"{part}\"")),
        "{}",
        page.text
    );
    assert!(
        page.text.contains("It is not compared yet"),
        "{}",
        page.text
    );
    let compared = browser.get(&part).await;
    assert!(compared.text.contains("In sync"), "{}", compared.text);
    assert!(!compared.text.contains("data-live"), "{}", compared.text);

    // What it has in Stripe, nobody has told us of. A comparison that is fresh is shown again.
    let other = stripe.post("/v1/customers", &[("name", "Other")]).await;
    let other = text(&other["id"]);
    let method = stripe
        .post(
            "/v1/payment_methods/pm_card_visa/attach",
            &[("customer", &other)],
        )
        .await;
    let prices = stripe.get("/v1/prices", &[]).await;
    let price = text(&prices["data"][0]["id"]);
    stripe
        .post(
            "/v1/subscriptions",
            &[
                ("customer", &other),
                ("items[0][price]", &price),
                ("default_payment_method", &text(&method["id"])),
            ],
        )
        .await;
    let organization = desk.service.db.organization(&other).await;
    let page = browser
        .get(&format!("/console/organizations/{organization}/drift"))
        .await;
    is_ok(&page);
    for said in [
        "Mismatch",
        "missing here",
        "sub_",
        "subscriptions reconcile --apply",
    ] {
        assert!(page.text.contains(said), "{said}: {}", page.text);
    }
    assert_eq!(desk.entries("organization_compared", OPERATOR).await, 2);
    let gone = "/console/organizations/019aab70-0000-7000-8000-00000000000f/drift";
    assert_eq!(browser.get(gone).await.status, 404);
}

#[tokio::test]
async fn a_stripe_that_does_not_answer_is_a_warning_and_no_error() {
    let stripe = Stripe::start().await;
    let desk = Desk::with(Options {
        stripe_api: Some(stripe.api()),
        key_is_live: Some(false),
        ..Options::default()
    })
    .await;
    drop(stripe);
    let path = format!("/console/organizations/{}/drift/part", desk.organization);
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let page = browser.get(&path).await;
    is_ok(&page);
    assert!(page.text.contains("Warning"), "{}", page.text);
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value}"))
        .to_owned()
}

#[tokio::test]
async fn the_timeline_has_dead_letters_where_they_were_given_up() {
    let desk = Desk::open().await;
    let organization = desk.organization;
    desk.deliver("cus_1", &["evt_1", "evt_2"]).await;
    desk.service
        .db
        .execute(&format!(
            "INSERT INTO webhook_dead_letter_queue
               (bucket, stripe_event_id, event_type, livemode, event_created_at, payload,
                received_at, organization_id, retry_count, error_message, attempts,
                dead_lettered_at)
             SELECT 1, 'evt_dead_' || n, 'invoice.finalized', false, now(), '{{}}',
                    now() - interval '3 days', '{organization}', 20, 'the line has no amount', '[]',
                    now() - interval '1 day'
               FROM generate_series(1, 2) n"
        ))
        .await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let path = format!("/console/organizations/{organization}/timeline");
    let whole = browser.get(&path).await;
    is_ok(&whole);
    let place = |said: &str| whole.text.find(said).unwrap_or_else(|| panic!("{said}"));
    // Newest first, by the time at which they were given up.
    assert!(place(">evt_1<") < place("evt_dead_2"));
    assert!(place("evt_dead_2") < place("evt_dead_1"));
    assert!(
        whole
            .text
            .contains("given up after 20 retries: the line has no amount"),
        "{}",
        whole.text
    );
    let one = browser.get(&format!("{path}?kind=dead_letter")).await;
    assert!(one.text.contains("evt_dead_1"), "{}", one.text);
    assert!(!one.text.contains(">evt_1<"), "{}", one.text);
}
