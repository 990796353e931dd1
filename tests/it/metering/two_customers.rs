//! One organization with two customers and a subscription of each: usage is told for the one
//! whose quota counts.

use jiff::Timestamp;
use valuecanvas_billing::catalogue::meter_event_name;

use super::billed::Billed;
use crate::subscriptions::world::{DAY, VISA, text};

/// A second customer, who lives by `clock`, subscribes to `tier` in Stripe, for one metric
/// and the fee.
async fn subscribes_beside(billed: &Billed, clock: &str, tier: &str, metric: &str) -> String {
    let stripe = &billed.world.stripe;
    let customer = stripe.customer(VISA, Some(clock)).await;
    billed.world.adopt(&customer).await;
    let prices = stripe.list("/v1/prices", &[("active", "true")]).await;
    let id_of = |key: &str| {
        let price = prices.iter().find(|price| price["lookup_key"] == key);
        text(price.unwrap_or_else(|| panic!("{key}")), "id")
    };
    let fee = id_of(&format!("valuecanvas_{tier}_monthly"));
    let usage = id_of(&format!("valuecanvas_{tier}_monthly_{metric}"));
    let fields = [
        ("customer", &*customer),
        ("items[0][price]", &*fee),
        ("items[1][price]", &*usage),
    ];
    stripe.post("/v1/subscriptions", &fields).await;
    billed.world.settle().await;
    customer
}

#[tokio::test]
async fn usage_is_told_for_the_customer_whose_subscription_the_quota_counts_for() {
    for (first, second, first_counts) in [
        ("enterprise", "standard", true),
        ("standard", "enterprise", false),
        // Of one plan, the newest counts.
        ("standard", "standard", false),
    ] {
        let now = Timestamp::now().as_second();
        let billed = Billed::without_subscription(Some(now - 34 * DAY)).await;
        billed.world.create(first).await.ok();
        billed.world.settle().await;
        let stripe = &billed.world.stripe;
        let clock = stripe.clock(now - 33 * DAY).await;
        let other = subscribes_beside(&billed, &clock, second, "api_calls").await;
        // Both have renewed: the period of either began after both were made.
        for clock in [billed.clock.as_deref().unwrap(), &clock] {
            stripe.advance(clock, now).await;
        }
        billed.world.settle().await;
        billed.record("a", "api_calls", "20000000").await;
        assert_eq!(billed.report(Timestamp::now()).await.sent, 1);
        let told = "SELECT stripe_customer_id || ' ' || event_name FROM usage_reports";
        let expected = if first_counts {
            &billed.customer
        } else {
            &other
        };
        let event = meter_event_name("api_calls");
        let db = &billed.service().db;
        assert_eq!(
            db.value(told).await,
            format!("{expected} {event}"),
            "{first}, {second}"
        );
    }
}
