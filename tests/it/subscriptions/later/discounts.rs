//! Discounts beside changes at the end of a period.

use serde_json::Value;

use super::RENEWAL;
use crate::subscriptions::promotion_codes::{code, coupon, invoiced};
use crate::subscriptions::world::{DAY, START, World};

const ONCE: [(&str, &str); 2] = [("percent_off", "25"), ("duration", "once")];

#[tokio::test]
async fn a_change_can_follow_one_whose_code_its_first_invoice_used_up() {
    let (world, clock, customer) = World::on_clock(START).await;
    let quarter = coupon(&world.stripe, &ONCE).await;
    code(&world.stripe, "QUARTER", &quarter, &[]).await;
    world.create("enterprise").await.ok();
    world.settle().await;
    let body = serde_json::json!({"planTier": "standard", "when": "period_end", "promotionCode": "QUARTER"});
    let put = reqwest::Method::PUT;
    world
        .call(put, "/api/billing/subscription", Some(body))
        .await
        .ok();
    world.stripe.advance(&clock, RENEWAL + 7_200).await;
    world.settle().await;
    assert_eq!(invoiced(&world, &customer).await, 49_900 + 7_425);

    // The phase goes on for a day, and names the discount for as long.
    let schedule = world.running(&customer).await["schedule"].clone();
    assert_ne!(schedule, Value::Null);
    let shown = world.preview_when("enterprise", "period_end").await.ok();
    assert_eq!(shown["nextInvoiceAmountMinor"], 49_900);
    let changed = world.change_as(&shown).await.ok();
    assert_eq!(changed["pendingChange"]["planTier"], "enterprise");
    world.settle().await;
    world.stripe.advance(&clock, RENEWAL + 32 * DAY).await;
    world.settle().await;
    assert_eq!(invoiced(&world, &customer).await, 49_900 + 7_425 + 49_900);
}
