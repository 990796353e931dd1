//! Seats at the period's end, and seats beside a change that is pending.

use serde_json::{Value, json};

use super::shop::Shop;
use crate::subscriptions::later::RENEWAL;
use crate::subscriptions::world::{DAY, START};

const PRICE: &str = "price = { amount = 9_900, currency = \"usd\", interval = \"month\", lookup_key = \"valuecanvas_standard_monthly\" }\n";
const PRICES: &str = "prices = [
  { interval = \"month\", currency = \"usd\", amount = 9_900, lookup_key = \"valuecanvas_standard_monthly\" },
  { interval = \"year\", currency = \"usd\", amount = 99_000, lookup_key = \"standard_usd_year\" },
]
";
const QUOTA: &str =
    "user_seats = { quota = 25, over_limit = \"overage\", overage_rate = \"5.00\" }\n";
const TRIAL: &str = "trial_days_max = 30\n";
const BY_THE_SEAT: &str =
    "trial_days_max = 30\n\n[plans.seats]\nmetric = \"user_seats\"\nmode = \"licensed\"\n";
/// Three come with the fee.
const BESIDE: &str = "trial_days_max = 30\n\n[plans.seats]\nmetric = \"user_seats\"\nincluded = 3\n\
                      mode = \"licensed\"\nprice = [{ interval = \"month\", amount = 1_500 }, \
                      { interval = \"year\", amount = 15_000 }]\n";

/// A shop with one subscriber, who lives on a clock.
async fn subscribed(terms: &str, seats: u32) -> (Shop, String, String) {
    let mut shop = Shop::open(&[(PRICE, PRICES), (QUOTA, ""), (TRIAL, terms)]).await;
    let (customer, clock) = shop.customer_at(START).await;
    let first = json!({"planTier": "standard", "interval": "month", "quantity": seats});
    shop.subscribe(first).await.ok();
    shop.world.settle().await;
    shop.world.stripe.advance(&clock, START + 7 * DAY).await;
    shop.world.settle().await;
    (shop, customer, clock)
}

fn seats(quantity: u32, when: &str) -> Value {
    json!({"planTier": "standard", "quantity": quantity, "when": when})
}

fn yearly() -> Value {
    json!({"planTier": "standard", "interval": "year", "when": "period_end"})
}

/// What is pending: interval, seats and when.
fn pending(answer: &Value) -> (&str, i64, &str) {
    let pending = &answer["pendingChange"];
    let text = |name: &str| pending[name].as_str().unwrap_or_default();
    let quantity = pending["quantity"].as_i64().unwrap_or_default();
    (text("interval"), quantity, text("when"))
}

/// The period ends, and the invoice that begins the next one is paid.
async fn renewed(shop: &Shop, customer: &str, clock: &str) -> i64 {
    shop.world.stripe.advance(clock, RENEWAL + 7_200).await;
    shop.world.settle().await;
    let current = shop.world.current().await;
    assert_eq!(current["pendingChange"], Value::Null);
    shop.invoice(customer).await["amount_paid"]
        .as_i64()
        .unwrap()
}

#[tokio::test]
async fn fewer_seats_at_the_periods_end_are_the_limit_from_then_on() {
    let (shop, customer, clock) = subscribed(BY_THE_SEAT, 5).await;
    let shown = shop.previewed(seats(3, "period_end")).await.ok();
    assert_eq!(
        (&shown["when"], &shown["quantity"], &shown["interval"]),
        (&json!("period_end"), &json!(3), &json!("month"))
    );
    assert_eq!(shown["dueNowAmountMinor"], 0);
    assert_eq!(shown["nextInvoiceAmountMinor"], 3 * 9_900);
    // Other seats than those that were shown are another change.
    let mut other = seats(4, "period_end");
    other["previewToken"] = shown["previewToken"].clone();
    assert_eq!(shop.put(other).await.problem(), (409, "preview_stale"));
    let changed = shop.world.change_as(&shown).await.ok();
    assert_eq!(pending(&changed), ("month", 3, "period_end"));
    assert_eq!(changed["quantity"], 5);
    shop.world.settle().await;
    assert_eq!(shop.world.current().await, changed);
    assert_eq!(shop.usage("user_seats").await["quota"], 5);

    assert_eq!(renewed(&shop, &customer, &clock).await, 3 * 9_900);
    assert_eq!(shop.world.current().await["quantity"], 3);
    assert_eq!(shop.usage("user_seats").await["quota"], 3);
}

#[tokio::test]
async fn a_pending_change_survives_a_change_of_seats_and_has_the_new_ones() {
    for (terms, had, month, year) in [
        (BY_THE_SEAT, 4, 2 * 7_425, 6 * 99_000),
        // The next phase gets an item that it did not have.
        (BESIDE, 3, 3 * 1_125, 99_000 + 3 * 15_000),
    ] {
        let (shop, customer, clock) = subscribed(terms, had).await;
        let changed = shop.put(yearly()).await.ok();
        assert_eq!(
            pending(&changed),
            ("year", i64::from(had), "period_end"),
            "{changed:#}"
        );
        shop.world.settle().await;

        let shown = shop.previewed(seats(6, "now")).await.ok();
        assert_eq!(shown["dueNowAmountMinor"], month, "{shown:#}");
        assert_eq!(shown["nextInvoiceAmountMinor"], year, "{shown:#}");
        let changed = shop.world.change_as(&shown).await.ok();
        assert_eq!(changed["quantity"], 6);
        assert_eq!(pending(&changed), ("year", 6, "period_end"), "{changed:#}");
        assert_eq!(shop.invoice(&customer).await["total"], month);
        shop.world.settle().await;
        assert_eq!(shop.world.current().await, changed);

        assert_eq!(renewed(&shop, &customer, &clock).await, year);
        let current = shop.world.current().await;
        assert_eq!(
            (&current["interval"], &current["quantity"]),
            (&json!("year"), &json!(6))
        );
    }
}

#[tokio::test]
async fn seats_that_were_asked_for_at_the_periods_end_stay_whatever_there_are_until_then() {
    let (shop, customer, clock) = subscribed(BY_THE_SEAT, 5).await;
    shop.put(seats(3, "period_end")).await.ok();
    let changed = shop.put(seats(7, "now")).await.ok();
    assert_eq!(changed["quantity"], 7);
    assert_eq!(pending(&changed), ("month", 3, "period_end"), "{changed:#}");
    assert_eq!(renewed(&shop, &customer, &clock).await, 3 * 9_900);
    assert_eq!(shop.world.current().await["quantity"], 3);
}

#[tokio::test]
async fn other_seats_at_the_periods_end_are_those_of_the_plan_that_is_pending() {
    let (shop, customer, clock) = subscribed(BY_THE_SEAT, 5).await;
    shop.put(yearly()).await.ok();
    let changed = shop.put(seats(2, "period_end")).await.ok();
    assert_eq!(changed["quantity"], 5);
    assert_eq!(pending(&changed), ("year", 2, "period_end"), "{changed:#}");
    assert_eq!(renewed(&shop, &customer, &clock).await, 2 * 99_000);
}
