//! Nobody pays for what is taken away, and no change waits that could cost otherwise.

use reqwest::Method;
use serde_json::{Value, json};

use super::{ASKS, required};
use crate::subscriptions::metered::sell_the_catalogue;
use crate::subscriptions::world::{START, SUBSCRIPTION, VISA, World, text};

#[tokio::test]
async fn a_first_subscription_that_was_just_paid_is_not_ended() {
    for (method, path, body, status) in [
        (Method::DELETE, "/pending-change", None, 404),
        (Method::DELETE, "", None, 200),
        (Method::PUT, "", Some(json!({"planTier": "free"})), 200),
    ] {
        let world = World::start().await;
        let customer = world.customer(ASKS).await;
        let asked = required(world.create("standard").await);
        world.settle().await;
        world.deliver_nothing().await;
        world.authenticate(&asked, "succeed").await;
        let path = format!("{SUBSCRIPTION}{path}");
        let answer = world.call(method, &path, body).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        let current = world.current().await;
        assert_eq!(
            (&current["planTier"], &current["status"]),
            (&json!("standard"), &json!("active")),
            "{path}"
        );
        let subscriptions = world.stripe.subscriptions(&customer).await;
        assert_eq!(subscriptions[0]["status"], "active", "{path}");
        assert_eq!(world.charged(&customer).await, [9_900]);
    }
}

#[tokio::test]
async fn an_invoice_made_by_hand_is_neither_shown_nor_voided() {
    let (world, _, customer) = World::asking(START).await;
    let asked = required(world.change("enterprise").await);
    let subscription = text(&world.stripe.subscriptions(&customer).await[0], "id");
    let item = [
        ("customer", &*customer),
        ("amount", "700"),
        ("currency", "usd"),
    ];
    world.stripe.post("/v1/invoiceitems", &item).await;
    let manual = [
        ("customer", &*customer),
        ("auto_advance", "false"),
        ("pending_invoice_items_behavior", "include"),
    ];
    let manual = world.stripe.post("/v1/invoices", &manual).await;
    let manual = text(&manual, "id");
    let finalize = format!("/v1/invoices/{manual}/finalize");
    world.stripe.post(&finalize, &[]).await;
    world.mirrored().await;
    // As Stripe has it where the invoice is the subscription's.
    let latest = format!(
        "UPDATE billing_subscriptions SET latest_invoice_id = '{manual}'
          WHERE stripe_subscription_id = '{subscription}'"
    );
    world.service.db.execute(&latest).await;
    let again = required(world.change("enterprise").await);
    assert_eq!(again["nextAction"], asked["nextAction"]);
    world.service.db.execute(&latest).await;
    world.call_off().await.ok();
    let status = async |id: &str| {
        let path = format!("/v1/invoices/{id}");
        world.stripe.get(&path, &[]).await["status"].clone()
    };
    assert_eq!(status(&manual).await, "open");
    let invoice = text(&asked["pendingChange"], "stripeInvoiceId");
    assert_eq!(status(&invoice).await, "void");
}

#[tokio::test]
async fn beside_usage_that_is_due_no_change_waits() {
    let world = World::start().await;
    sell_the_catalogue(&world).await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    world.stripe.use_card(&customer, ASKS).await;
    let event = json!({"id": "e1", "metric": "api_calls", "quantity": 150_000});
    let path = "/api/billing/usage/events";
    world.call(Method::POST, path, Some(event)).await.ok();
    let refused = world.change("enterprise").await;
    assert_eq!(refused.problem(), (402, "authentication_required"));
    let detail = text(&refused.body, "detail");
    assert!(detail.contains("period_end"), "{detail}");
    assert_eq!(world.current().await["pendingChange"], Value::Null);
    assert_eq!(world.stripe.invoices(&customer).await.len(), 1);
}

#[tokio::test]
async fn a_card_declined_at_the_second_asking_leaves_nothing_to_pay() {
    let (world, _, customer) = World::asking(START).await;
    let fault = [
        ("fault", "decline"),
        ("decline_code", "insufficient_funds"),
        ("every", "2"),
        ("next", "1"),
    ];
    world.stripe.fault(&fault).await;
    let declined = world.change("enterprise").await;
    assert_eq!(declined.problem(), (402, "card_declined"));
    assert_eq!(declined.body["declineCode"], "insufficient_funds");
    assert_eq!(world.current().await["pendingChange"], Value::Null);
    let invoices = world.stripe.invoices(&customer).await;
    assert!(invoices.iter().all(|one| one["status"] != "open"));
    world.mirrored().await;
    assert_eq!(world.plan().await.0, "standard");
    assert_eq!(world.charged(&customer).await, [9_900]);
}

#[tokio::test]
async fn a_checkout_with_consent_says_where_to_pay_what_waits() {
    let world = crate::subscriptions::checkouts::world().await;
    world.customer(ASKS).await;
    let asked = required(world.create("standard").await);
    let wish = json!({
        "planTier": "standard", "confirm": true,
        "successUrl": "https://app.example.com/ok", "cancelUrl": "https://app.example.com/no",
    });
    let path = "/api/billing/checkout";
    let begun = world.call(Method::POST, path, Some(wish)).await;
    assert_eq!(
        (begun.status, &begun.body["status"], &begun.body["url"]),
        (
            202,
            &json!("open"),
            &asked["nextAction"]["hostedInvoiceUrl"]
        ),
        "{begun:?}"
    );
}

#[tokio::test]
async fn the_same_key_says_what_became_of_it() {
    let world = World::start().await;
    let customer = world.customer(ASKS).await;
    let create = || {
        let body = json!({"planTier": "standard"});
        world.call_with(Method::POST, SUBSCRIPTION, Some(body), Some("k-1"))
    };
    let asked = required(create().await);
    assert_eq!(required(create().await), asked);
    world.authenticate(&asked, "succeed").await;
    world.mirrored().await;
    let done = create().await;
    assert_eq!((done.status, &done.body["status"]), (201, &json!("active")));
    assert_eq!(world.charged(&customer).await, [9_900]);
}
