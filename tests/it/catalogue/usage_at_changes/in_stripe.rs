//! The same, where the plan is changed in Stripe's dashboard.

use super::{OVER, charged, overage};
use crate::catalogue::shop::Shop;

/// The fields that give a subscription another plan in Stripe's dashboard.
async fn plan_in_stripe(
    shop: &Shop,
    customer: &str,
    tier: &str,
) -> (String, Vec<(String, String)>) {
    let subscription = shop.world.stripe.subscriptions(customer).await.remove(0);
    let prices = shop
        .world
        .stripe
        .list("/v1/prices", &[("active", "true")])
        .await;
    let mut fields = Vec::new();
    let items = subscription["items"]["data"].as_array().unwrap();
    for (n, item) in items.iter().enumerate() {
        fields.push((
            format!("items[{n}][id]"),
            item["id"].as_str().unwrap().to_owned(),
        ));
        fields.push((format!("items[{n}][deleted]"), "true".to_owned()));
    }
    let prefix = format!("valuecanvas_{tier}_monthly");
    let of_plan = prices.iter().filter(|price| {
        price["lookup_key"]
            .as_str()
            .is_some_and(|key| key.starts_with(&prefix))
    });
    for (n, price) in of_plan.enumerate() {
        let n = n + items.len();
        fields.push((
            format!("items[{n}][price]"),
            price["id"].as_str().unwrap().to_owned(),
        ));
    }
    (
        format!("/v1/subscriptions/{}", subscription["id"].as_str().unwrap()),
        fields,
    )
}

pub async fn change_in_stripe(shop: &Shop, customer: &str, tier: &str) {
    let (path, fields) = plan_in_stripe(shop, customer, tier).await;
    let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (&**n, &**v)).collect();
    shop.world.stripe.post(&path, &fields).await;
}

#[tokio::test]
async fn a_change_in_stripe_is_charged_by_an_item_once() {
    for fault in [
        None,
        Some("drop_after_acting"),
        Some("server_error_after_acting"),
        Some("drop"),
    ] {
        let mut shop = Shop::open(&[]).await;
        let customer = shop.subscriber("standard").await;
        shop.uses("agent_executions", "50000").await;
        shop.report().await;
        change_in_stripe(&shop, &customer, "enterprise").await;
        shop.world.settle().await;
        shop.world.settled_in_the_background().await;
        assert_eq!(shop.world.plan().await.0, "enterprise");
        // Nothing is lost in between: it is entered, and Stripe is told next.
        let open = "SELECT count(*) FROM usage_charges WHERE charged_at IS NULL";
        assert_eq!(shop.world.service.db.value(open).await, "1");
        if let Some(fault) = fault {
            let fields = [
                ("fault", fault),
                ("path", "/v1/invoiceitems"),
                ("next", "4"),
            ];
            shop.world.stripe.fault(&fields).await;
            shop.report().await;
            shop.world.stripe.clear_faults().await;
        }
        let report = shop.report().await;
        assert!(report.is_complete(), "{report:?}");
        shop.report().await;
        assert_eq!(charged(&shop, &customer).await, [OVER], "{fault:?}");
        assert_eq!(shop.world.service.db.value(open).await, "0");
        assert_eq!(overage(&shop, &customer).await, (0, 0));
        shop.uses("agent_executions", "45010").await;
        assert_eq!(overage(&shop, &customer).await, (50, 50));
    }
}

/// After a day Stripe may have forgotten the key, so it is asked what it has.
#[tokio::test]
async fn an_item_whose_answer_was_lost_for_a_day_is_looked_for() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.uses("agent_executions", "50000").await;
    change_in_stripe(&shop, &customer, "enterprise").await;
    shop.world.settle().await;
    shop.world.settled_in_the_background().await;
    shop.report().await;
    let db = &shop.world.service.db;
    db.execute(
        "UPDATE usage_charges SET charged_at = NULL, attempted_at = now() - interval '25 hours'",
    )
    .await;
    shop.report().await;
    assert_eq!(charged(&shop, &customer).await, [OVER]);
    let done = "SELECT count(*) FROM usage_charges WHERE charged_at IS NOT NULL";
    assert_eq!(shop.world.service.db.value(done).await, "1");
}

#[tokio::test]
async fn replayed_and_late_events_charge_nothing_again() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.uses("agent_executions", "50000").await;
    shop.world.deliver_nothing().await;
    shop.world.change("enterprise").await.ok();
    shop.world.change("standard").await.ok();
    shop.world.deliver_again().await;
    // Every event again, newest first.
    let events = shop.world.stripe.list("/v1/events", &[]).await;
    for event in &events {
        let path = format!("/_sandbox/events/{}/resend", event["id"].as_str().unwrap());
        shop.world.stripe.post(&path, &[]).await;
    }
    shop.world.settle().await;
    assert_eq!(charged(&shop, &customer).await, [OVER]);
    assert_eq!(overage(&shop, &customer).await, (0, 0));
}
