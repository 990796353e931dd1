//! What a preview has shown, where usage is charged with the change or waits to be.

use std::time::Duration;

use serde_json::{Value, json};

use super::random_terms::plans;
use super::shop::Shop;
use crate::subscriptions::promotion_codes::{code, coupon, invoiced};
use crate::subscriptions::world::{DAY, START};

const PRICE: &str = "price = { amount = 9_900, currency = \"usd\", interval = \"month\", lookup_key = \"valuecanvas_standard_monthly\" }\n";
const PRICES: &str = "prices = [
  { interval = \"month\", currency = \"usd\", amount = 9_900, lookup_key = \"valuecanvas_standard_monthly\" },
  { interval = \"year\", currency = \"usd\", amount = 99_000, lookup_key = \"standard_usd_year\" },
]
";

#[tokio::test]
async fn what_is_used_while_a_quoted_change_is_made_is_not_added_to_it() {
    let mut shop = Shop::open(&[(PRICE, PRICES)]).await;
    let customer = shop.subscriber("standard").await;
    shop.uses("agent_executions", "5100").await;
    // What is used in the second in which a period ends is not of that period.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let yearly = json!({"planTier": "standard", "interval": "year"});
    let shown = shop.previewed(yearly.clone()).await.ok();
    let usage = shown["lines"].as_array().unwrap().iter();
    let usage = usage.filter(|line| line["amount"] == 1_000).count();
    assert_eq!(usage, 1, "{shown:#}");

    // Stripe takes its time to say whether the price still holds.
    let path = "/v1/invoices/create_preview";
    let slow = [("fault", "timeout"), ("path", path), ("next", "2")];
    shop.world.stripe.fault(&slow).await;
    let mut quoted = yearly;
    quoted["previewToken"] = shown["previewToken"].clone();
    let meanwhile = async {
        while shop.world.stripe.get("/_sandbox/faults", &[]).await["data"][0]["struck"] == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shop.uses("agent_executions", "900").await;
    };
    let (answer, ()) = tokio::join!(shop.put(quoted), meanwhile);
    answer.ok();
    shop.world.settle().await;
    let invoice = shop.invoice(&customer).await;
    assert_eq!(
        (&invoice["total"], &invoice["billing_reason"]),
        (&shown["dueNowAmountMinor"], &json!("subscription_update"))
    );
}

#[tokio::test]
async fn usage_that_waits_to_be_charged_is_shown_beside_a_schedule() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("enterprise").await;
    shop.uses("agent_executions", "50100").await;
    // The credit and the usage over the quota wait for the next invoice.
    shop.world.change("standard").await.ok();
    let fields = [("customer", customer.as_str())];
    let items = shop.world.stripe.list("/v1/invoiceitems", &fields).await;
    let amount = |item: &Value| item["amount"].as_i64().unwrap();
    assert!(items.iter().any(|item| amount(item) == 500), "{items:#?}");
    let waiting: i64 = items.iter().map(amount).sum();

    shop.world
        .change_when("enterprise", "period_end")
        .await
        .ok();
    shop.world.settle().await;
    shop.world.settled_in_the_background().await;
    for (tier, fee) in [("enterprise", 49_900), ("free", 0)] {
        let shown = shop.world.preview_when(tier, "period_end").await.ok();
        assert_eq!(
            shown["nextInvoiceAmountMinor"],
            waiting + fee,
            "{tier}: {shown:#}"
        );
    }
}

#[tokio::test]
async fn what_flexible_billing_credits_is_shown_before_it_is_charged() {
    let mut shop = Shop::selling(plans("always_invoice", "always_invoice")).await;
    let (customer, clock) = shop.customer_at(START).await;
    let world = &shop.world;
    let half = coupon(
        &world.stripe,
        &[("percent_off", "50"), ("duration", "once")],
    )
    .await;
    code(&world.stripe, "HALF", &half, &[]).await;
    // A fee by the year without usage is in classic billing.
    let bought = json!({"planTier": "each", "interval": "year", "quantity": 10,
                        "currency": "usd", "promotionCode": "HALF"});
    shop.put(bought).await.ok();
    world.stripe.advance(&clock, START + 30 * DAY).await;
    world.settle().await;

    // Usage by the month beside it is not.
    let wish = json!({"planTier": "beside", "interval": "year", "quantity": 5, "when": "now"});
    let quoted = async || {
        let shown = shop.previewed(wish.clone()).await.ok();
        let mut body = wish.clone();
        body["previewToken"] = shown["previewToken"].clone();
        (shown["dueNowAmountMinor"].as_i64().unwrap(), body)
    };
    let paid = invoiced(world, &customer).await;
    let (classic, body) = quoted().await;
    assert_eq!(shop.put(body).await.problem(), (409, "preview_stale"));
    assert_eq!(invoiced(world, &customer).await, paid);
    let (flexible, body) = quoted().await;
    assert_ne!(classic, flexible);
    shop.put(body).await.ok();
    assert_eq!(invoiced(world, &customer).await - paid, flexible);
}
