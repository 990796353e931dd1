//! An organization with two subscriptions, of which one has a plan: the other one, a product
//! that the catalogue does not know, takes nothing of what the plan charges.

use jiff::Timestamp;

use super::billed::Billed;
use crate::subscriptions::world::{DAY, VISA, text};

/// Standard, of forty days ago, is in its second month; the other one, a week younger, is
/// about to renew. 400,000 calls are used over the quota.
async fn with_another(other_customer: bool) -> (Billed, i64) {
    let now = Timestamp::now().as_second();
    let billed = Billed::without_subscription(Some(now - 40 * DAY)).await;
    billed.world.create("standard").await.ok();
    let stripe = &billed.world.stripe;
    let clock = billed.clock.clone().unwrap();
    stripe.advance(&clock, now - 33 * DAY).await;
    billed.world.settle().await;
    let mut customer = billed.customer.clone();
    if other_customer {
        customer = stripe.customer(VISA, Some(&clock)).await;
        billed.world.adopt(&customer).await;
    }
    let price = stripe.price("support", "500").await;
    let fields = [
        ("customer", &*customer),
        ("items[0][price]", &text(&price, "id")),
    ];
    stripe.post("/v1/subscriptions", &fields).await;
    stripe.advance(&clock, now - 6 * DAY).await;
    billed.world.settle().await;
    billed.world.settled_in_the_background().await;
    billed.record("a", "api_calls", "500000").await;
    (billed, now)
}

const BILLED_BY: &str = "SELECT coalesce(billed_by, 'open') FROM usage_totals
    WHERE metric = 'api_calls' AND total > 0";
const TOLD: &str = "SELECT string_agg(stripe_customer_id || ' ' || trim_scale(units), ', ')
    FROM usage_reports WHERE metric = 'api_calls'";

#[tokio::test]
async fn the_renewal_of_another_subscription_leaves_a_running_period_alone() {
    let (billed, now) = with_another(false).await;
    let clock = billed.clock.clone().unwrap();
    billed.world.stripe.advance(&clock, now).await;
    billed.world.settle().await;
    billed.world.settled_in_the_background().await;
    let db = &billed.service().db;
    assert_eq!(db.value(BILLED_BY).await, "open");
    let report = billed.report(Timestamp::now()).await;
    assert!(report.unbilled.is_empty(), "{report:?}");
    let told = format!("{} 500000", billed.customer);
    assert_eq!(db.value(TOLD).await, told);
}

#[tokio::test]
async fn a_period_that_is_over_is_told_to_the_customer_that_had_its_price() {
    for is_kept in [true, false] {
        let (billed, _) = with_another(true).await;
        billed.catch_up().await;
        billed
            .in_dashboard(&[("billing_cycle_anchor", "now")])
            .await;
        billed.world.settle().await;
        billed.world.settled_in_the_background().await;
        let db = &billed.service().db;
        assert_ne!(db.value(BILLED_BY).await, "open");
        if !is_kept {
            // As an older replica left it.
            db.execute("UPDATE usage_totals SET billed_subscription_id = NULL")
                .await;
        }
        billed.report(Timestamp::now()).await;
        let told = format!("{} 500000", billed.customer);
        assert_eq!(db.value(TOLD).await, told, "{is_kept}");
    }
}
