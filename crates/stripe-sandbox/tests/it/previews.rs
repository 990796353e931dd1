//! Every preview is charged as previewed, whatever the change and the time.

use billing_domain::period::Cadence;
use billing_domain::preview::{
    BillingMode, ItemChange, ItemTerms, PlanChange, Preview, ProrationBehavior, preview,
};
use billing_domain::proration::Charge;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::runtime::Runtime;

use crate::support::{DAY, START, World, item, text};

/// One change of plan.
#[derive(Debug, Clone)]
struct Change {
    seconds_later: i64,
    /// How far before the change its proration date lies.
    backdated: i64,
    price: usize,
    quantity: u64,
    behavior: &'static str,
}

#[derive(Debug, Clone)]
struct History {
    mode: &'static str,
    first_price: usize,
    balance: i64,
    changes: Vec<Change>,
}

const AMOUNTS: [i64; 6] = [0, 999, 1_000, 2_999, 9_900, 49_901];

/// A single change, priced by the local engine and by the sandbox.
#[derive(Debug, Clone)]
struct Case {
    mode: &'static str,
    before: (usize, u64),
    after: (usize, u64),
    elapsed_secs: i64,
    behavior: &'static str,
}

fn cases() -> impl Strategy<Value = Case> {
    let terms = || (0..AMOUNTS.len(), 1..9_u64);
    (
        prop_oneof![Just("classic"), Just("flexible")],
        terms(),
        terms(),
        prop_oneof![Just(1), 1..28 * DAY],
        prop_oneof![
            Just("always_invoice"),
            Just("create_prorations"),
            Just("none")
        ],
    )
        .prop_map(|(mode, before, after, elapsed_secs, behavior)| Case {
            mode,
            before,
            after,
            elapsed_secs,
            behavior,
        })
}

fn terms(prices: &[String], (price, quantity): (usize, u64)) -> ItemTerms<'_> {
    ItemTerms {
        price_id: &prices[price],
        charge: Charge {
            unit_amount: AMOUNTS[price],
            quantity,
        },
        cadence: Cadence::MONTHLY,
    }
}

fn local(prices: &[String], case: &Case) -> Preview {
    let change = PlanChange {
        item: ItemChange {
            before: Some(terms(prices, case.before)),
            after: Some(terms(prices, case.after)),
            last_debited: None,
        },
        period: Cadence::MONTHLY
            .period_containing(START, START)
            .expect("in range"),
        change_at_secs: START + case.elapsed_secs,
        mode: match case.mode {
            "classic" => BillingMode::Classic,
            _ => BillingMode::Flexible,
        },
        proration_behavior: match case.behavior {
            "always_invoice" => ProrationBehavior::AlwaysInvoice,
            "create_prorations" => ProrationBehavior::CreateProrations,
            _ => ProrationBehavior::None,
        },
        on_trial: false,
    };
    preview(&change).expect("within range")
}

/// Changes a subscription and lets it renew. Both invoices must match the local
/// preview.
async fn compare(world: &World, prices: &[String], case: &Case) {
    let expected = local(prices, case);
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let (before, after) = (case.before.1.to_string(), case.after.1.to_string());
    let subscription = world
        .post(
            "/v1/subscriptions",
            &[
                ("customer", &customer),
                ("items[0][price]", &prices[case.before.0]),
                ("items[0][quantity]", &before),
                ("billing_mode[type]", case.mode),
            ],
        )
        .await
        .ok();
    let (id, item) = (text(&subscription, "id"), item(&subscription));
    world.advance(&clock, START + case.elapsed_secs).await;
    let changed = world
        .post(
            &format!("/v1/subscriptions/{id}"),
            &[
                ("items[0][id]", &item),
                ("items[0][price]", &prices[case.after.0]),
                ("items[0][quantity]", &after),
                ("proration_behavior", case.behavior),
            ],
        )
        .await
        .ok();
    let charged = if changed["latest_invoice"] == subscription["latest_invoice"] {
        0
    } else {
        facts(&world.latest_invoice(&id).await).0
    };
    assert_eq!(charged, expected.due_now, "{case:?}");
    let renewal = changed["items"]["data"][0]["current_period_end"].as_i64();
    assert_eq!(renewal, Some(expected.next_invoice_at_secs), "{case:?}");
    world
        .advance(&clock, expected.next_invoice_at_secs + 7_200)
        .await;
    let next = facts(&world.latest_invoice(&id).await).0;
    assert_eq!(next, expected.next_invoice, "{case:?}");
}

fn histories() -> impl Strategy<Value = History> {
    let change = (
        1..6 * DAY,
        prop_oneof![Just(0), 0..2 * DAY],
        0..AMOUNTS.len(),
        1..5_u64,
        prop_oneof![
            Just("always_invoice"),
            Just("create_prorations"),
            Just("none")
        ],
    )
        .prop_map(
            |(seconds_later, backdated, price, quantity, behavior)| Change {
                seconds_later,
                backdated,
                price,
                quantity,
                behavior,
            },
        );
    (
        prop_oneof![Just("classic"), Just("flexible")],
        0..AMOUNTS.len(),
        prop_oneof![Just(0), -20_000..20_000_i64],
        proptest::collection::vec(change, 1..5),
    )
        .prop_map(|(mode, first_price, balance, changes)| History {
            mode,
            first_price,
            balance,
            changes,
        })
}

/// Previews and applies each change with the same proration date, then previews
/// the renewal and lets the subscription renew.
async fn play(world: &World, prices: &[String], history: &History) {
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world
        .subscribe(&customer, &prices[history.first_price], history.mode)
        .await;
    let (id, item) = (text(&subscription, "id"), item(&subscription));
    let balance = history.balance.to_string();
    world
        .post(
            &format!("/v1/customers/{customer}"),
            &[("balance", &balance)],
        )
        .await
        .ok();
    let mut now = START;
    for change in &history.changes {
        now += change.seconds_later;
        world.advance(&clock, now).await;
        check_change(
            world,
            &prices[change.price],
            &customer,
            &id,
            &item,
            change,
            now,
        )
        .await;
    }
    let next = world
        .post("/v1/invoices/create_preview", &[("subscription", &id)])
        .await
        .ok();
    let end = world.subscription(&id).await["items"]["data"][0]["current_period_end"]
        .as_i64()
        .expect("an end");
    world.advance(&clock, end + 7_200).await;
    let invoice = world.latest_invoice(&id).await;
    assert_eq!(invoice["billing_reason"], "subscription_cycle");
    assert_eq!(facts(&invoice), facts(&next), "{history:?}");
    check_money(world, &customer, history).await;
}

/// No money appears or vanishes: every invoiced amount was paid by card or
/// changed the balance.
async fn check_money(world: &World, customer: &str, history: &History) {
    let fields = [("customer", customer), ("limit", "100")];
    let invoices = world.get("/v1/invoices", &fields).await.ok();
    let charges = world.get("/v1/charges", &fields).await.ok();
    let sum = |list: &serde_json::Value, key: &str| -> i64 {
        let data = list["data"].as_array().expect("a list");
        data.iter().filter_map(|object| object[key].as_i64()).sum()
    };
    let customer = world
        .get(&format!("/v1/customers/{customer}"), &[])
        .await
        .ok();
    let balance = customer["balance"].as_i64().expect("a balance");
    assert_eq!(
        sum(&invoices, "total"),
        sum(&charges, "amount") + balance - history.balance,
        "{history:?}"
    );
}

async fn check_change(
    world: &World,
    price: &str,
    customer: &str,
    id: &str,
    item: &str,
    change: &Change,
    now: i64,
) {
    let quantity = change.quantity.to_string();
    let current = world.subscription(id).await;
    let start = current["items"]["data"][0]["current_period_start"].as_i64();
    let date = start
        .expect("a start")
        .max(now - change.backdated)
        .to_string();
    let fields = [
        ("items[0][id]", item),
        ("items[0][price]", price),
        ("items[0][quantity]", &quantity),
        ("proration_behavior", change.behavior),
        ("proration_date", &date),
    ];
    let mut nested = vec![
        ("customer".to_owned(), customer),
        ("subscription".to_owned(), id),
    ];
    for (name, value) in fields {
        let (head, tail) = name
            .split_once('[')
            .map_or((name, String::new()), |(head, tail)| {
                (head, format!("[{tail}"))
            });
        nested.push((format!("subscription_details[{head}]{tail}"), value));
    }
    let nested: Vec<(&str, &str)> = nested
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    let preview = world
        .post("/v1/invoices/create_preview", &nested)
        .await
        .ok();
    let before = text(&current, "latest_invoice");
    let after = world
        .post(&format!("/v1/subscriptions/{id}"), &fields)
        .await
        .ok();
    if after["latest_invoice"] == before.as_str() {
        let pending = world
            .post("/v1/invoices/create_preview", &[("subscription", id)])
            .await
            .ok();
        assert_eq!(
            facts(&pending),
            facts(&preview),
            "the change waits for the renewal: {change:?}"
        );
    } else {
        let invoice = world.latest_invoice(id).await;
        assert_eq!(
            facts(&invoice),
            facts(&preview),
            "the change is charged at once: {change:?}"
        );
        assert_eq!(invoice["amount_paid"], preview["amount_due"], "{change:?}");
    }
}

/// What must agree: the total, the amount charged to the card, and each line.
fn facts(invoice: &serde_json::Value) -> (i64, i64, Vec<(i64, String)>) {
    let lines = invoice["lines"]["data"].as_array().expect("lines");
    let lines = lines
        .iter()
        .map(|line| {
            (
                line["amount"].as_i64().expect("an amount"),
                text(line, "description"),
            )
        })
        .collect();
    let number = |key: &str| invoice[key].as_i64().expect("a number");
    (number("total"), number("amount_due"), lines)
}

#[test]
fn local_previews_match_what_is_charged() {
    let runtime = Runtime::new().expect("a runtime");
    let (world, prices) = runtime.block_on(world_with_prices());
    runner()
        .run(&cases(), |case| {
            runtime.block_on(compare(&world, &prices, &case));
            Ok(())
        })
        .expect("every local preview is charged");
}

#[test]
fn a_preview_is_charged_to_the_cent_now_and_at_the_renewal() {
    let runtime = Runtime::new().expect("a runtime");
    let (world, prices) = runtime.block_on(world_with_prices());
    runner()
        .run(&histories(), |history| {
            runtime.block_on(play(&world, &prices, &history));
            Ok(())
        })
        .expect("every preview is charged");
}

async fn world_with_prices() -> (World, Vec<String>) {
    let world = World::new().await;
    let mut prices = Vec::new();
    for amount in AMOUNTS {
        prices.push(world.price(amount).await);
    }
    (world, prices)
}

fn runner() -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}
