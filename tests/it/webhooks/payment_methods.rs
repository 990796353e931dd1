//! Payment method events: attach and detach, in either order.

use serde_json::{Value, json};

use super::workbench::Workbench;
use crate::support::events::{event, recorded};

const CARD: &str = "SELECT status, type, brand, last4, exp_month, exp_year, funding, country,
                           stripe_customer_id AS customer FROM billing_payment_methods";

fn method(customer: Option<&str>) -> Value {
    json!({
        "id": "pm_1",
        "object": "payment_method",
        "card": {"brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2034,
                 "funding": "credit", "country": "US"},
        "created": 1_760_000_000,
        "customer": customer,
        "livemode": false,
        "metadata": {},
        "type": "card",
    })
}

fn attached() -> Value {
    event(
        "evt_1",
        "payment_method.attached",
        100,
        method(Some("cus_1")),
    )
}

/// Detached; Stripe says from whom in `previous_attributes`, or does not.
fn detached(from: Option<&str>) -> Value {
    let mut event = event("evt_2", "payment_method.detached", 200, method(None));
    if let Some(customer) = from {
        event["data"]["previous_attributes"] = json!({"customer": customer});
    }
    event
}

fn card(status: &str, customer: Option<&str>) -> Value {
    json!({
        "status": status,
        "type": "card",
        "brand": "visa",
        "last4": "4242",
        "exp_month": 12,
        "exp_year": 2034,
        "funding": "credit",
        "country": "US",
        "customer": customer,
    })
}

#[tokio::test]
async fn attached_and_detached_in_either_order_is_detached() {
    for order in [
        [attached(), detached(Some("cus_1"))],
        [detached(Some("cus_1")), attached()],
    ] {
        let bench = Workbench::new().await;
        for event in order {
            bench.process(&[event]).await;
        }
        bench.shows(CARD, card("detached", Some("cus_1"))).await;
    }
}

#[tokio::test]
async fn an_attached_one_shows_brand_last4_and_expiry() {
    let bench = Workbench::new().await;
    bench.process(&[attached()]).await;
    bench.shows(CARD, card("attached", Some("cus_1"))).await;
}

#[tokio::test]
async fn recorded_events_of_2020_are_mirrored() {
    let bench = Workbench::without_customers().await;
    bench.db.organization("cus_N4vaPItLFHBqRE").await;
    bench.db.organization("cus_N28ZFl95925GaB").await;
    bench.process(&[recorded("payment_method_attached")]).await;
    let mut detached = recorded("payment_method_detached");
    // Both were recorded under one event id.
    detached["id"] = json!("evt_detached");
    bench.process(&[detached]).await;
    assert_eq!(
        bench
            .rows(
                "SELECT stripe_payment_method_id AS id, status, stripe_customer_id AS customer
                     FROM billing_payment_methods ORDER BY status"
            )
            .await,
        json!([
            {"id": "pm_1MKlmhJDPojXS6LNV8Rcj3WO", "status": "attached", "customer": "cus_N4vaPItLFHBqRE"},
            {"id": "pm_1MJUwRJDPojXS6LNh4fFA1z7", "status": "detached", "customer": "cus_N28ZFl95925GaB"},
        ])
    );
}

#[tokio::test]
async fn a_detached_one_that_names_nobody_is_known_from_before() {
    let bench = Workbench::new().await;
    bench.process(&[attached()]).await;
    bench.process(&[detached(None)]).await;
    bench.shows(CARD, card("detached", None)).await;
}

#[tokio::test]
async fn one_batch_may_attach_and_detach() {
    let bench = Workbench::new().await;
    bench.process(&[detached(None), attached()]).await;
    bench.shows(CARD, card("detached", None)).await;
}

#[tokio::test]
async fn a_detached_one_that_names_nobody_waits_until_it_is_known() {
    let bench = Workbench::new().await;
    // It may be a guest's, so it is no failure.
    bench.process(&[detached(None)]).await;
    bench
        .shows(
            "SELECT outcome FROM webhook_events",
            json!({"outcome": "ignored"}),
        )
        .await;
    bench.process(&[attached()]).await;
    bench.shows(CARD, card("detached", None)).await;
}

#[tokio::test]
async fn a_bank_account_shows_its_bank() {
    let bench = Workbench::new().await;
    let mut object = method(Some("cus_1"));
    object["type"] = json!("us_bank_account");
    object["us_bank_account"] = json!({"bank_name": "STRIPE TEST BANK", "last4": "6789"});
    bench
        .process(&[event("evt_1", "payment_method.attached", 100, object)])
        .await;
    bench
        .shows(
            "SELECT type, brand, last4, exp_year FROM billing_payment_methods",
            json!({"type": "us_bank_account", "brand": "STRIPE TEST BANK", "last4": "6789", "exp_year": null}),
        )
        .await;
}
