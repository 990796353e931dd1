//! A checkout beside another subscription: what is paid twice is given back, once.

use reqwest::Method;
use serde_json::{Value, json};

use super::super::world::{VISA, text};
use super::{GOOD, world};

#[tokio::test]
async fn a_second_subscription_is_canceled_and_its_payment_given_back() {
    let world = world().await;
    let customer = world.customer(VISA).await;
    let begun = world.check_out(json!({})).await.ok();
    // Somebody subscribes the customer in Stripe's dashboard meanwhile.
    let price = world
        .stripe
        .get(
            "/v1/prices",
            &[("lookup_keys[]", "valuecanvas_standard_monthly")],
        )
        .await;
    let price = text(&price["data"][0], "id");
    world.deliver_nothing().await;
    let fields = [("customer", &*customer), ("items[0][price]", &*price)];
    let first = text(&world.stripe.post("/v1/subscriptions", &fields).await, "id");
    world.submit(&text(&begun, "url"), &GOOD).await;
    let id = text(&begun, "id");
    for _ in 0..2 {
        let refused = world.complete(&id).await;
        assert_eq!(
            refused.problem(),
            (409, "subscription_exists"),
            "{refused:?}"
        );
    }
    let running: Vec<Value> = world
        .all_subscriptions()
        .await
        .into_iter()
        .filter(|one| one["status"] != "canceled")
        .collect();
    assert_eq!(running.len(), 1);
    assert_eq!(running[0]["id"], json!(first));
    let refunds = world.stripe.list("/v1/refunds", &[]).await;
    assert_eq!(refunds.len(), 1);
    assert_eq!(refunds[0]["amount"], 9_900);
    assert_eq!(world.checkout_status(&id).await, "canceled");
    world.deliver_again().await;
    world.settle().await;
    let state = world.current().await;
    assert_eq!(state["stripeSubscriptionId"], json!(first));
    assert_eq!(state["otherSubscriptions"], json!([]));
}

#[tokio::test]
async fn a_debit_beside_another_subscription_is_given_back_once_it_is_paid() {
    for first_ends in [false, true] {
        let world = world().await;
        let customer = world.customer(VISA).await;
        let begun = world.check_out(json!({})).await.ok();
        let id = text(&begun, "id");
        world.deliver_nothing().await;
        let first = world.subscribe_in_stripe(&customer).await;
        let account = [("action", "pay"), ("account", "000123456789")];
        world.submit(&text(&begun, "url"), &account).await;
        let waiting = world.complete(&id).await;
        assert_eq!(
            (waiting.status, &waiting.body["checkout"]["status"]),
            (202, &json!("processing")),
            "{waiting:?}"
        );
        assert_eq!(waiting.body["stripeSubscriptionId"], json!(first));
        assert_eq!(waiting.body["otherSubscriptions"], json!([]));
        if first_ends {
            let path = format!("/v1/subscriptions/{first}");
            world.stripe.send(Method::DELETE, &path, &[]).await;
        }
        let settle = format!("/_sandbox/checkout/sessions/{id}/settle");
        world.stripe.post(&settle, &[("outcome", "paid")]).await;
        let refused = world.complete(&id).await;
        assert_eq!(
            refused.problem(),
            (409, "subscription_exists"),
            "{first_ends}: {refused:?}"
        );
        let refunds = world.stripe.list("/v1/refunds", &[]).await;
        assert_eq!(refunds.len(), 1);
        assert_eq!(refunds[0]["amount"], 9_900);
    }
}

#[tokio::test]
async fn a_debit_before_another_subscription_is_kept() {
    let world = world().await;
    let customer = world.customer(VISA).await;
    let begun = world.check_out(json!({})).await.ok();
    let id = text(&begun, "id");
    world.deliver_nothing().await;
    let account = [("action", "pay"), ("account", "000123456789")];
    world.submit(&text(&begun, "url"), &account).await;
    assert_eq!(world.complete(&id).await.status, 202);
    world.subscribe_in_stripe(&customer).await;
    let settle = format!("/_sandbox/checkout/sessions/{id}/settle");
    world.stripe.post(&settle, &[("outcome", "paid")]).await;
    let done = world.complete(&id).await;
    assert_eq!(done.status, 200, "{done:?}");
    let running = world.all_subscriptions().await;
    let running = running.iter().filter(|one| one["status"] == "active");
    assert_eq!(running.count(), 2);
    assert_eq!(world.stripe.list("/v1/refunds", &[]).await.len(), 0);
}

#[tokio::test]
async fn a_refund_that_failed_is_made_though_the_first_subscription_has_ended() {
    let world = world().await;
    let customer = world.customer(VISA).await;
    let begun = world.check_out(json!({})).await.ok();
    let id = text(&begun, "id");
    world.deliver_nothing().await;
    let first = world.subscribe_in_stripe(&customer).await;
    world.submit(&text(&begun, "url"), &GOOD).await;
    let fault = [
        ("fault", "rate_limit"),
        ("method", "POST"),
        ("path", "/v1/refunds"),
        ("next", "1000"),
    ];
    world.stripe.fault(&fault).await;
    let failed = world.complete(&id).await;
    assert!(failed.status >= 429, "{failed:?}");
    let path = format!("/v1/subscriptions/{first}");
    world.stripe.send(Method::DELETE, &path, &[]).await;
    world.stripe.clear_faults().await;
    let refused = world.complete(&id).await;
    assert_eq!(
        refused.problem(),
        (409, "subscription_exists"),
        "{refused:?}"
    );
    assert_eq!(world.stripe.list("/v1/refunds", &[]).await.len(), 1);
}
