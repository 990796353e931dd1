//! Whatever is bought, changed and told in whatever order: what was previewed is charged,
//! and quotas are the plan's with those of the add-ons.

use serde_json::{Value, json};
use valuecanvas_billing::catalogue::Catalogue;

use super::{ADDONS, LAST, PRICE, PRICES, STORAGE, of, selling};
use crate::catalogue::shop::Shop;
use crate::subscriptions::world::{DAY, START, seconds};
use crate::support::dice::Dice;
use crate::support::events::{event, subscription};
use crate::webhooks::workbench::Workbench;

fn cases() -> (u64, u64) {
    let cases = std::env::var("VCB_CASES").map_or(6, |cases| cases.parse().unwrap());
    let first = std::env::var("VCB_SEED").map_or(0, |seed| seed.parse().unwrap());
    (first, cases)
}

/// Some add-ons that go with standard, by the month or the year.
fn some(dice: &mut Dice, yearly: bool) -> Value {
    let mut addons = Vec::new();
    if !dice.one_in(3) {
        addons.push(of(
            "extra_tokens",
            u32::try_from(1 + dice.below(4)).unwrap(),
        ));
    }
    if !yearly && dice.one_in(2) {
        addons.push(of("care", 1));
    }
    if !yearly && dice.one_in(3) {
        addons.push(of("endless_calls", 1));
    }
    dice.shuffle(&mut addons);
    json!(addons)
}

fn wish(dice: &mut Dice, yearly: bool) -> Value {
    let mut wish = json!({"planTier": "standard"});
    let yearly = yearly || dice.one_in(5);
    wish["interval"] = json!(if yearly { "year" } else { "month" });
    wish["addons"] = some(dice, yearly);
    wish
}

/// What the quotas are to be, from what the subscription shows.
async fn check(shop: &Shop) {
    let addons = shop.addons().await;
    let number = |id: &str| {
        let mut list = addons.as_array().unwrap().iter();
        let found = list.find(|one| one["id"] == id);
        found.map_or(0, |one| one["quantity"].as_i64().unwrap())
    };
    let tokens = 1_000_000 + 500_000 * number("extra_tokens");
    assert_eq!(shop.limit_of("llm_tokens").await, tokens, "{addons}");
    assert_eq!(
        shop.limit_of("storage_gb").await,
        100 + 50 * number("extra_tokens")
    );
    let calls = match number("endless_calls") {
        0 => json!(100_000),
        _ => Value::Null,
    };
    assert_eq!(shop.limit_of("api_calls").await, calls, "{addons}");
    let cares = number("care") > 0;
    assert_eq!(
        shop.features().await,
        json!({"projects": 20 + 5 * number("extra_tokens"), "sso": cares,
               "support": if cares { "personal" } else { "business" }})
    );
}

async fn charged(shop: &Shop, customer: &str) -> i64 {
    let invoices = shop.world.stripe.invoices(customer).await;
    let totals = invoices.iter().map(|one| one["total"].as_i64().unwrap());
    totals.sum()
}

async fn live(shop: &mut Shop, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut now = START + i64::try_from(dice.below(300 * 86_400)).unwrap();
    let (customer, clock) = shop.customer_at(now).await;
    let first = wish(&mut dice, false);
    let mut yearly = first["interval"] == "year";
    let shown = shop.previewed(first.clone()).await.ok();
    take(shop, &first, &shown, &customer).await;
    for _ in 0..2 + dice.below(2) {
        let step = dice.pick(&[1, 86_399, 7 * DAY, 20 * DAY]);
        now += 1 + i64::try_from(dice.below(usize::try_from(step).unwrap())).unwrap();
        shop.world.stripe.advance(&clock, now).await;
        shop.world.settle().await;
        check(shop).await;
        let next = wish(&mut dice, yearly);
        let shown = shop.previewed(next.clone()).await;
        if shown.problem() == (409, "same_plan") {
            continue;
        }
        let shown = shown.ok();
        take(shop, &next, &shown, &customer).await;
        yearly = next["interval"] == "year";
        if dice.one_in(2) && !yearly {
            let count = shop.world.stripe.invoices(&customer).await.len();
            now = seconds(&shown["nextInvoiceDate"]) + 7_200;
            shop.world.stripe.advance(&clock, now).await;
            shop.world.settle().await;
            let invoices = shop.world.stripe.invoices(&customer).await;
            assert_eq!(
                invoices[count]["total"], shown["nextInvoiceAmountMinor"],
                "{shown:#}"
            );
            check(shop).await;
        }
    }
}

/// Makes the change that was previewed, and compares.
async fn take(shop: &Shop, wish: &Value, shown: &Value, customer: &str) {
    let before = charged(shop, customer).await;
    let mut body = wish.clone();
    body["previewToken"] = shown["previewToken"].clone();
    let changed = shop.put(body).await.ok();
    assert_eq!(changed["addons"], shown["addons"], "{wish}");
    let due = charged(shop, customer).await - before;
    assert_eq!(due, shown["dueNowAmountMinor"], "{wish} {shown:#}");
    check(shop).await;
    shop.world.settle().await;
    check(shop).await;
}

#[tokio::test]
async fn whatever_is_bought_beside_a_plan_costs_what_was_previewed() {
    let (first, cases) = cases();
    let mut shop = selling(&[(PRICE, PRICES)]).await;
    for case in first..first + cases {
        println!("case {case}");
        live(&mut shop, case).await;
    }
}

/// A licensed item of a price that has this lookup key.
fn item(n: usize, key: &str, quantity: i64) -> Value {
    let mut item = subscription("sub_1", "cus_1", "active", "standard")["items"]["data"][0].clone();
    item["id"] = json!(format!("si_{n}"));
    item["price"]["id"] = json!(format!("price_{key}"));
    item["price"]["lookup_key"] = json!(key);
    item["price"]["product"] = json!(format!("prod_{key}"));
    item["quantity"] = json!(quantity);
    item
}

/// Any order of the events of one subscription, each told once or twice, ends in the
/// quotas of the newest.
#[tokio::test]
async fn in_any_order_of_events_quotas_are_the_plans_with_the_addons() {
    let text = std::fs::read_to_string("config/plans.toml").unwrap();
    let text = text.replacen(STORAGE.0, STORAGE.1, 1);
    let text = text.replacen(LAST, &format!("{LAST}{ADDONS}"), 1);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let (first, cases) = cases();
    for case in first..first + cases {
        println!("case {case}");
        let mut dice = Dice::new(case);
        let mut bench = Workbench::new().await;
        bench.processor.catalogue = Catalogue::load(Some(file.path())).unwrap();
        let (mut events, mut last) = (Vec::new(), (0, 0));
        for n in 0..5 {
            let (tokens, more, care) = (dice.below(4), dice.below(3), dice.below(2));
            let mut items = vec![item(0, "valuecanvas_standard_monthly", 1)];
            // Two items of one add-on add up, as somebody may have made them in Stripe.
            for (n, (key, quantity)) in (1..).zip([
                ("extra_tokens_month", tokens),
                ("extra_tokens_year", more),
                ("care_month", care),
            ]) {
                if quantity > 0 {
                    items.push(item(n, key, i64::try_from(quantity).unwrap()));
                }
            }
            dice.shuffle(&mut items);
            let mut object = subscription("sub_1", "cus_1", "active", "standard");
            object["items"]["data"] = json!(items);
            let kind = match n {
                0 => "customer.subscription.created",
                _ => "customer.subscription.updated",
            };
            events.push(event(&format!("evt_{n}"), kind, 100 + n, object));
            last = (tokens + more, care);
        }
        let again: Vec<Value> = events.iter().filter(|_| dice.one_in(2)).cloned().collect();
        events.extend(again);
        dice.shuffle(&mut events);
        for one in events {
            bench.process(&[one]).await;
        }
        let (tokens, care) = last;
        bench
            .shows(
                "SELECT (SELECT quota::integer FROM usage_quotas
                          WHERE organization_id = o.id AND metric = 'llm_tokens') AS tokens,
                        (SELECT added_quota::integer FROM usage_quotas
                          WHERE organization_id = o.id AND metric = 'storage_gb') AS added,
                        (SELECT value FROM organization_features
                          WHERE organization_id = o.id AND feature = 'support') AS support,
                        coalesce((plan_addons ->> 'extra_tokens')::integer, 0) AS held
                   FROM organizations o JOIN billing_customers c ON c.organization_id = o.id",
                json!({
                    "tokens": 1_000_000 + 500_000 * tokens, "added": 50 * tokens,
                    "support": if care > 0 { "personal" } else { "business" }, "held": tokens,
                }),
            )
            .await;
        bench.verify_audit().await;
    }
}
