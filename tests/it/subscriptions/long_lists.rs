//! Subscriptions and invoices of which Stripe's objects show the first ten
//! items and lines: the others are fetched.

use std::time::Duration;

use serde_json::{Value, json};

use super::world::{VISA, World, text};
use crate::webhooks::workbench::rows;

/// Waits until the one row of `query` is `expected`.
async fn shows(world: &World, query: &str, expected: Value) {
    let mut found = Value::Null;
    for _ in 0..300 {
        found = rows(&world.service.db, query).await;
        if found == json!([expected]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{found}, not {expected}");
}

#[tokio::test]
async fn items_beyond_the_first_ten_are_fetched() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let id = text(&world.stripe.subscriptions(&customer).await[0], "id");
    // Somebody adds what only the dashboard sells.
    for n in 0..12 {
        let price = world.stripe.price(&format!("addon{n}"), "100").await;
        let fields = [
            ("subscription", id.as_str()),
            ("price", &text(&price, "id")),
        ];
        world.stripe.post("/v1/subscription_items", &fields).await;
    }
    world.settle().await;
    let items = world
        .stripe
        .list("/v1/subscription_items", &[("subscription", &id)])
        .await;
    assert!(items.len() > 12);
    shows(
        &world,
        "SELECT has_more_items, ask_again_since IS NULL AS settled, plan_tier,
                (SELECT count(*) FROM billing_subscription_items) AS items FROM billing_subscriptions",
        json!({"has_more_items": false, "settled": true, "plan_tier": "standard",
               "items": items.len()}),
    )
    .await;
}

#[tokio::test]
async fn lines_beyond_the_first_ten_are_fetched() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    for n in 1..=12 {
        let amount = n.to_string();
        let fields = [
            ("customer", customer.as_str()),
            ("amount", &amount),
            ("currency", "usd"),
        ];
        world.stripe.post("/v1/invoiceitems", &fields).await;
    }
    let fields = [
        ("customer", customer.as_str()),
        ("pending_invoice_items_behavior", "include"),
    ];
    world.stripe.post("/v1/invoices", &fields).await;
    world.settle().await;
    shows(
        &world,
        "SELECT has_more_items, ask_again_since IS NULL AS settled,
                (SELECT count(*) FROM billing_invoice_items) AS lines,
                (SELECT sum(amount) FROM billing_invoice_items) AS sum FROM billing_invoices",
        json!({"has_more_items": false, "settled": true, "lines": 12, "sum": 78}),
    )
    .await;
}
