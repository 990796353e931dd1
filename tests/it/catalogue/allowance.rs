//! Allowances by the month of plans that are paid by the year: counted, shown and billed by
//! the month, whatever becomes of the subscription.

use std::sync::Arc;
use std::time::Duration;

use billing_domain::period::{Cadence, Period};
use billing_domain::usage_period::{self, CurrentSubscription};
use jiff::Timestamp;
use serde_json::{Value, json};
use valuecanvas_billing::catalogue::When;
use valuecanvas_billing::stripe::client::Client;
use valuecanvas_billing::subscriptions::{Migration, Moved, Subscriptions};

use super::shop::Shop;
use crate::subscriptions::world::{DAY, START, seconds};
use crate::support::dice::Dice;

pub const PRICE: &str = "price = { amount = 9_900, currency = \"usd\", interval = \"month\", lookup_key = \"valuecanvas_standard_monthly\" }\n";
pub const PRICES: &str = "prices = [
  { interval = \"month\", currency = \"usd\", amount = 9_900, lookup_key = \"valuecanvas_standard_monthly\" },
  { interval = \"year\", currency = \"usd\", amount = 99_000, lookup_key = \"standard_usd_year\" },
]
";
/// As it was before allowances had periods of their own.
const BILLING: &str = "allowance_period = \"billing\"\n";
pub const HIGHER: &str = "price = { amount = 49_900, currency = \"usd\", interval = \"month\", lookup_key = \"valuecanvas_enterprise_monthly\" }\n";
pub const HIGHER_PRICES: &str = "prices = [
  { interval = \"month\", currency = \"usd\", amount = 49_900, lookup_key = \"valuecanvas_enterprise_monthly\" },
  { interval = \"year\", currency = \"usd\", amount = 499_000, lookup_key = \"enterprise_usd_year\" },
]
";

pub async fn market() -> Shop {
    Shop::open(&[(PRICE, PRICES), (HIGHER, HIGHER_PRICES)]).await
}

pub fn year(tier: &str) -> Value {
    json!({"planTier": tier, "interval": "year"})
}

pub fn month(tier: &str) -> Value {
    json!({"planTier": tier, "interval": "month"})
}

/// Stripe counts in whole seconds: what comes next is in another one.
pub async fn second() {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
}

/// The items that charge usage: id, price, and the period that they are in.
pub async fn metered(shop: &Shop, customer: &str) -> Vec<(String, String, i64, i64)> {
    let subscription = shop.world.stripe.subscriptions(customer).await.remove(0);
    let items = subscription["items"]["data"].as_array().unwrap();
    let metered = items
        .iter()
        .filter(|item| item["price"]["recurring"]["usage_type"] == "metered");
    let mut metered: Vec<_> = metered
        .map(|item| {
            assert_eq!(item["price"]["recurring"]["interval"], "month");
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (
                text(&item["id"]),
                text(&item["price"]["id"]),
                item["current_period_start"].as_i64().unwrap(),
                item["current_period_end"].as_i64().unwrap(),
            )
        })
        .collect();
    metered.sort();
    metered
}

pub async fn compare(shop: &Shop, customer: &str) {
    shop.world.settle().await;
    shop.world.settled_in_the_background().await;
    shop.report().await;
    let ours = shop.overage().await;
    assert_eq!(ours, shop.metered_lines(customer).await);
    // Each metric counts in the period in which Stripe bills it.
    let items = metered(shop, customer).await;
    let usage = shop.get("/api/billing/usage").await;
    for one in usage["data"].as_array().unwrap() {
        let shown = (seconds(&one["periodStart"]), seconds(&one["periodEnd"]));
        assert_eq!(shown, (items[0].2, items[0].3), "{one:#}");
    }
}

#[tokio::test]
async fn a_year_has_months_whose_overage_is_billed_by_the_month() {
    let mut shop = market().await;
    let first = shop.customer().await;
    shop.subscribe(month("standard")).await.ok();
    shop.world.settle().await;
    let by_month = metered(&shop, &first).await;
    let customer = shop.customer().await;
    let made = shop.subscribe(year("standard")).await.ok();
    let paid = seconds(&made["currentPeriodEnd"]) - seconds(&made["currentPeriodStart"]);
    assert!(paid >= 365 * DAY, "{made:#}");
    shop.world.settle().await;
    // The month and the year are metered at the same prices.
    let by_year = metered(&shop, &customer).await;
    let prices = |items: &[(String, String, i64, i64)]| {
        let mut prices: Vec<String> = items.iter().map(|item| item.1.clone()).collect();
        prices.sort();
        prices
    };
    assert_eq!(prices(&by_year), prices(&by_month));
    assert_eq!(by_year.len(), 5);
    let key = [("lookup_keys[]", "standard_usd_year_api_calls")];
    assert!(shop.world.stripe.list("/v1/prices", &key).await.is_empty());
    shop.uses("api_calls", "104000").await;
    compare(&shop, &customer).await;
    assert_eq!(shop.overage().await, 400);
    let usage = shop.usage("api_calls").await;
    let month = seconds(&usage["periodEnd"]) - seconds(&usage["periodStart"]);
    assert!(month <= 31 * DAY, "{usage:#}");
}

#[tokio::test]
async fn who_pays_by_the_month_keeps_the_metered_items_with_the_year_and_back() {
    let mut shop = market().await;
    let customer = shop.customer().await;
    shop.subscribe(month("standard")).await.ok();
    shop.world.settle().await;
    let ids = |items: Vec<(String, String, i64, i64)>| -> Vec<String> {
        items.into_iter().map(|item| item.0).collect()
    };
    let before = ids(metered(&shop, &customer).await);
    shop.uses("api_calls", "103000").await;
    for wish in [year("standard"), month("standard"), year("standard")] {
        second().await;
        let preview = shop.previewed(wish.clone()).await.ok();
        let mut asked = wish.clone();
        asked["previewToken"] = preview["previewToken"].clone();
        let changed = shop.put(asked).await.ok();
        assert_eq!(changed["interval"], wish["interval"]);
        assert_eq!(ids(metered(&shop, &customer).await), before);
        let invoice = shop.invoice(&customer).await;
        assert_eq!(
            invoice["total"], preview["dueNowAmountMinor"],
            "{invoice:#}"
        );
        compare(&shop, &customer).await;
        assert_eq!(shop.overage().await, 0, "it was charged with the change");
        shop.uses("api_calls", "102000").await;
        compare(&shop, &customer).await;
        assert_eq!(shop.overage().await, 200);
    }
}

#[tokio::test]
async fn a_change_of_plan_within_the_year_settles_the_months_usage() {
    let mut shop = market().await;
    let customer = shop.customer().await;
    shop.subscribe(year("standard")).await.ok();
    shop.world.settle().await;
    shop.uses("agent_executions", "9000").await;
    compare(&shop, &customer).await;
    assert_eq!(shop.overage().await, 40_000);
    second().await;
    let preview = shop.previewed(year("enterprise")).await.ok();
    let due = preview["dueNowAmountMinor"].as_i64().unwrap();
    // Nearly the whole year is left, and the month's overage comes to it.
    let year_left = 499_000 - 99_000;
    assert!(
        (year_left + 39_000..=year_left + 40_000).contains(&due),
        "{preview:#}"
    );
    shop.world.change_as(&preview).await.ok();
    assert_eq!(shop.invoice(&customer).await["total"], due);
    compare(&shop, &customer).await;
    let next = seconds(&preview["nextInvoiceDate"]);
    assert_eq!(next, metered(&shop, &customer).await[0].3);
}

#[tokio::test]
async fn a_year_ends_with_the_year_and_can_be_kept() {
    let mut shop = market().await;
    let customer = shop.customer().await;
    let made = shop.subscribe(year("standard")).await.ok();
    let end = made["currentPeriodEnd"].clone();
    for _ in 0..2 {
        let ending = shop.world.cancel(false).await.ok();
        assert_eq!(
            (&ending["cancelAtPeriodEnd"], &ending["cancelAt"]),
            (&json!(true), &end)
        );
        let subscription = shop.world.stripe.subscriptions(&customer).await.remove(0);
        assert_eq!(subscription["cancel_at"], seconds(&end));
        let kept = shop.world.reactivate().await.ok();
        assert_eq!(
            (&kept["cancelAtPeriodEnd"], &kept["cancelAt"]),
            (&json!(false), &Value::Null)
        );
    }
    compare(&shop, &customer).await;
}

#[tokio::test]
async fn a_change_with_the_next_year_waits_for_it() {
    let mut shop = market().await;
    let (customer, clock) = shop.customer_at(START).await;
    shop.subscribe(year("enterprise")).await.ok();
    shop.world.settle().await;
    let mut wish = month("standard");
    wish["when"] = json!("period_end");
    let changed = shop.put(wish).await.ok();
    assert_eq!(
        (
            &changed["planTier"],
            &changed["pendingChange"]["planTier"],
            &changed["pendingChange"]["interval"]
        ),
        (&json!("enterprise"), &json!("standard"), &json!("month"))
    );
    let end = seconds(&changed["currentPeriodEnd"]);
    assert_eq!(seconds(&changed["pendingChange"]["effectiveAt"]), end);
    let mut at = START;
    while at < end {
        at = Cadence::MONTHLY
            .period_containing(START, at)
            .unwrap()
            .end_secs();
        shop.world.stripe.advance(&clock, at + 3_600).await;
    }
    shop.world.settle().await;
    let now = shop.world.current().await;
    assert_eq!(
        (&now["planTier"], &now["interval"], &now["pendingChange"]),
        (&json!("standard"), &json!("month"), &Value::Null)
    );
    let items = metered(&shop, &customer).await;
    assert_eq!((items.len(), items[0].2), (5, end));
}

/// `plans migrate` of the only subscription to the second version of its plan.
async fn migrated(shop: &Shop, when: When) -> Moved {
    let pool = shop.world.service.db.service_pool();
    let catalogue = shop.catalogue();
    catalogue.record_versions(&pool, true).await.unwrap();
    let terms = catalogue.terms("standard", Some(2)).unwrap();
    let migration = Migration {
        tier: "standard".to_owned(),
        to: 2,
        from: None,
        organization: None,
        when,
    };
    let api = shop.world.stripe.api();
    let client = Client::new(api.base, api.key, api.patience).unwrap();
    let catalogue = Arc::new(catalogue);
    let subscriptions = Subscriptions::new(pool.clone(), pool.clone(), catalogue, Some(client));
    let candidates = migration.candidates(&pool).await.unwrap();
    assert_eq!(candidates.len(), 1);
    subscriptions
        .migrate(&candidates[0], &terms, &migration)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_migration_with_the_next_year_begins_its_months_then() {
    let name = "name = \"Standard\"\n";
    let before = format!("{name}{BILLING}");
    let mut shop = Shop::open(&[(PRICE, PRICES), (name, before.as_str())]).await;
    let (customer, clock) = shop.customer_at(START).await;
    let made = shop.subscribe(year("standard")).await.ok();
    let end = seconds(&made["currentPeriodEnd"]);
    shop.world.settle().await;
    shop.change(&[(before.as_str(), name)]).await;
    let moved = migrated(&shop, When::PeriodEnd).await;
    assert_eq!(
        (moved.problem.as_ref(), moved.next_invoice_amount),
        (None, Some(99_000)),
        "{moved:#?}"
    );
    let usage = "SELECT count(usage_period_start) FROM billing_subscriptions";
    assert_eq!(shop.value(usage).await, "0", "the year goes on");
    shop.world.stripe.advance(&clock, end + 7_200).await;
    shop.world.settle().await;
    let items = metered(&shop, &customer).await;
    let month = Cadence::MONTHLY.boundary(end, 1).unwrap();
    assert_eq!((items.len(), items[0].2, items[0].3), (5, end, month));
    assert_eq!(shop.invoice(&customer).await["total"], 99_000);
    let usage = "SELECT extract(epoch FROM usage_period_end)::bigint FROM billing_subscriptions";
    assert_eq!(shop.value(usage).await, month.to_string());
}

#[tokio::test]
async fn who_has_usage_by_the_year_keeps_it_until_it_is_migrated() {
    let name = "name = \"Standard\"\n";
    let before = format!("{name}{BILLING}");
    let mut shop = Shop::open(&[(PRICE, PRICES), (name, before.as_str())]).await;
    let customer = shop.customer().await;
    shop.subscribe(year("standard")).await.ok();
    shop.world.settle().await;
    shop.change(&[(before.as_str(), name)]).await;
    shop.touch(&customer).await;
    shop.uses("api_calls", "105000").await;
    shop.report().await;
    let usage = shop.usage("api_calls").await;
    let year = seconds(&usage["periodEnd"]) - seconds(&usage["periodStart"]);
    assert!(year >= 365 * DAY, "{usage:#}");
    assert_eq!(shop.overage().await, 500);
    assert_eq!(shop.metered_lines(&customer).await, 500);
    second().await;
    let moved = migrated(&shop, When::Now).await;
    assert_eq!(moved.problem, None, "{moved:#?}");
    // The period begins anew, and the usage of the old one is charged with it.
    let invoice = shop.invoice(&customer).await;
    assert_eq!(
        Some(invoice["total"].as_i64().unwrap()),
        moved.due_now_amount
    );
    compare(&shop, &customer).await;
    shop.uses("api_calls", "101000").await;
    compare(&shop, &customer).await;
    assert_eq!(shop.overage().await, 100);
}

/// What our rules say of a moment, from what is mirrored of a subscription then.
fn counted(item: &Value, anchor: i64, known: (i64, i64), at: i64) -> (i64, i64) {
    let period = |start: &Value, end: &Value| {
        Period::from_seconds(start.as_i64().unwrap(), end.as_i64().unwrap()).unwrap()
    };
    let paid = CurrentSubscription {
        period: period(&item["current_period_start"], &item["current_period_end"]),
        anchor_secs: anchor,
        cadence: Cadence::YEARLY,
        created_secs: anchor,
        ends_secs: None,
    };
    let known = Period::from_seconds(known.0, known.1).unwrap();
    let held = paid.by_month(known).unwrap();
    let at = Timestamp::from_second(at).unwrap();
    let period = usage_period::current(Some(&held), None, at).unwrap();
    (period.start_secs(), period.end_secs())
}

#[tokio::test]
async fn our_month_is_the_metered_items_at_every_moment_of_long_histories() {
    const MIRRORED: &str = "SELECT extract(epoch FROM usage_period_start)::bigint || ' ' ||
                extract(epoch FROM usage_period_end)::bigint
           FROM billing_subscriptions WHERE organization_id = $org";
    let mut shop = market().await;
    let mut dice = Dice::new(17);
    for anchor in [
        "2023-12-31T23:59:59Z",
        "2024-02-29T00:00:00Z",
        "2025-01-30T12:00:00Z",
        "2027-08-28T06:00:01Z",
    ] {
        let anchor = anchor.parse::<Timestamp>().unwrap().as_second();
        let (customer, clock) = shop.customer_at(anchor).await;
        shop.subscribe(year("standard")).await.ok();
        let mut known = None;
        for index in 0..14 {
            shop.world.settle().await;
            let subscription = shop.world.stripe.subscriptions(&customer).await.remove(0);
            let items = subscription["items"]["data"].as_array().unwrap();
            let fee = items
                .iter()
                .find(|item| item["price"]["recurring"]["interval"] == "year")
                .unwrap();
            let (start, end) = metered(&shop, &customer)
                .await
                .pop()
                .map(|i| (i.2, i.3))
                .unwrap();
            assert_eq!(start, Cadence::MONTHLY.boundary(anchor, index).unwrap());
            assert_eq!(shop.value(MIRRORED).await, format!("{start} {end}"));
            // However old the month is that we know of.
            let known = *known.get_or_insert((start, end));
            let length = usize::try_from(end - start).unwrap();
            let within = i64::try_from(dice.below(length)).unwrap();
            for at in [start, start + within, end - 1] {
                for known in [known, (start, end)] {
                    assert_eq!(
                        counted(fee, anchor, known, at),
                        (start, end),
                        "{known:?} {at}"
                    );
                }
            }
            shop.world.stripe.advance(&clock, end).await;
        }
    }
}

#[tokio::test]
async fn overage_is_what_stripe_bills_through_random_changes_of_plan_and_interval() {
    let cases = std::env::var("VCB_CASES").map_or(200, |text| text.parse().unwrap());
    for seed in 1..=u64::div_ceil(cases, 200) {
        let mut shop = market().await;
        let customer = shop.customer().await;
        shop.subscribe(year("standard")).await.ok();
        let mut log = vec![format!("seed {seed}: standard by the year")];
        let mut dice = Dice::new(seed);
        for _ in 0..10 {
            match dice.below(5) {
                0 => shop.restart().await,
                1 => shop.touch(&customer).await,
                2 => {
                    let tier = dice.pick(&["standard", "enterprise"]);
                    let wish = if dice.one_in(2) {
                        year(tier)
                    } else {
                        month(tier)
                    };
                    second().await;
                    log.push(format!("to {wish}"));
                    let answer = shop.put(wish).await;
                    assert!(
                        answer.status == 200 || answer.problem().1 == "same_plan",
                        "{log:#?} {answer:?}"
                    );
                }
                3 => shop.uses("agent_executions", "2500").await,
                _ => shop.uses("api_calls", "60000").await,
            }
            shop.world.settle().await;
            shop.world.settled_in_the_background().await;
            shop.report().await;
            let (ours, theirs) = (shop.overage().await, shop.metered_lines(&customer).await);
            log.push(format!("overage {ours}"));
            assert_eq!(ours, theirs, "{log:#?}");
            compare(&shop, &customer).await;
        }
    }
}
