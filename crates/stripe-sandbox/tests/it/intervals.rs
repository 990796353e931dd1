//! Prices of different intervals in one subscription: each item has a period of
//! its own, and the shortest renews the subscription.

use serde_json::Value;

use crate::support::{DAY, Fields, START, World, amounts, text};

/// 2026-02-28T10:00:00Z, the end of the first month.
const MONTH: i64 = START + 28 * DAY;
const YEAR: i64 = START + 365 * DAY;

async fn metered(world: &World) -> String {
    let meter = [
        ("display_name", "Calls"),
        ("event_name", "calls"),
        ("default_aggregation[formula]", "sum"),
    ];
    let meter = text(&world.post("/v1/billing/meters", &meter).await.ok(), "id");
    let fields = [
        ("currency", "usd"),
        ("unit_amount", "10"),
        ("recurring[interval]", "month"),
        ("recurring[usage_type]", "metered"),
        ("recurring[meter]", &meter),
        ("product_data[name]", "Calls"),
    ];
    text(&world.post("/v1/prices", &fields).await.ok(), "id")
}

struct Mixed {
    clock: String,
    customer: String,
    subscription: Value,
}

impl Mixed {
    async fn new(world: &World, prices: [&str; 2], more: Fields<'_>) -> Self {
        let clock = world.clock(START).await;
        let customer = world.customer(&clock, "pm_card_visa").await;
        let mut fields = vec![
            ("customer", customer.as_str()),
            ("items[0][price]", prices[0]),
            ("items[1][price]", prices[1]),
        ];
        fields.extend(more);
        let subscription = world.post("/v1/subscriptions", &fields).await.ok();
        Self {
            clock,
            customer,
            subscription,
        }
    }

    fn id(&self) -> String {
        text(&self.subscription, "id")
    }

    /// Previews the next invoice, lets it come, and compares the two.
    async fn renew(&self, world: &World, at: i64) -> Vec<i64> {
        let id = self.id();
        let preview = world
            .post("/v1/invoices/create_preview", &[("subscription", &id)])
            .await
            .ok();
        world.advance(&self.clock, at + 7_200).await;
        let invoice = world.latest_invoice(&id).await;
        assert_eq!(invoice["period_end"], at);
        assert_eq!(amounts(&invoice), amounts(&preview));
        amounts(&invoice)
    }

    async fn period(&self, world: &World, index: usize) -> (Value, Value) {
        let subscription = world.subscription(&self.id()).await;
        let item = &subscription["items"]["data"][index];
        (
            item["current_period_start"].clone(),
            item["current_period_end"].clone(),
        )
    }
}

#[tokio::test]
async fn a_yearly_plan_bills_its_usage_by_the_month() {
    let world = World::new().await;
    let yearly = world.price_every(36_500, "year").await;
    let it = Mixed::new(&world, [&yearly, &metered(&world).await], &[]).await;
    assert_eq!(
        amounts(&world.latest_invoice(&it.id()).await),
        [36_500],
        "the usage is charged in arrears"
    );
    assert_eq!(it.period(&world, 0).await, (START.into(), YEAR.into()));
    assert_eq!(it.period(&world, 1).await, (START.into(), MONTH.into()));
    let event = [
        ("event_name", "calls"),
        ("payload[stripe_customer_id]", it.customer.as_str()),
        ("payload[value]", "7"),
    ];
    world.post("/v1/billing/meter_events", &event).await.ok();
    assert_eq!(it.renew(&world, MONTH).await, [70]);
    assert_eq!(it.period(&world, 0).await, (START.into(), YEAR.into()));
    let second = START + 59 * DAY;
    assert_eq!(it.period(&world, 1).await, (MONTH.into(), second.into()));
    assert_eq!(it.renew(&world, second).await, [0]);
}

#[tokio::test]
async fn each_item_renews_and_is_prorated_in_its_own_period() {
    let world = World::new().await;
    let (monthly, yearly) = (
        world.price(2_800).await,
        world.price_every(36_500, "year").await,
    );
    let it = Mixed::new(&world, [&monthly, &yearly], &[]).await;
    let first = world.latest_invoice(&it.id()).await;
    assert_eq!(amounts(&first), [2_800, 36_500]);
    assert_eq!(first["lines"]["data"][1]["period"]["end"], YEAR);
    world.advance(&it.clock, START + 7 * DAY).await;
    let items = &it.subscription["items"]["data"];
    let path = format!("/v1/subscriptions/{}", it.id());
    for (index, lines) in [(0, [-2_100, 4_200]), (1, [-35_800, 71_600])] {
        let id = text(&items[index], "id");
        let fields = [
            ("items[0][id]", id.as_str()),
            ("items[0][quantity]", "2"),
            ("proration_behavior", "always_invoice"),
        ];
        world.post(&path, &fields).await.ok();
        assert_eq!(amounts(&world.latest_invoice(&it.id()).await), lines);
    }
    assert_eq!(it.renew(&world, MONTH).await, [5_600]);
    let mut at = MONTH;
    while at < YEAR {
        let (_, end) = it.period(&world, 0).await;
        at = end.as_i64().expect("an end");
        let expected = if at == YEAR {
            vec![5_600, 73_000]
        } else {
            vec![5_600]
        };
        assert_eq!(it.renew(&world, at).await, expected);
    }
    assert_eq!(at, YEAR);
}

#[tokio::test]
async fn usage_by_the_month_comes_to_a_year_and_goes_again() {
    let world = World::new().await;
    let yearly = world.price_every(36_500, "year").await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let fields = [
        ("customer", customer.as_str()),
        ("items[0][price]", &yearly),
        ("billing_mode[type]", "classic"),
    ];
    let subscription = world.post("/v1/subscriptions", &fields).await.ok();
    let it = Mixed {
        clock,
        customer,
        subscription,
    };
    let path = format!("/v1/subscriptions/{}", it.id());
    world.advance(&it.clock, START + 40 * DAY).await;
    let price = metered(&world).await;
    let added = [("items[0][price]", price.as_str())];
    assert_eq!(world.post(&path, &added).await.error(400)["param"], "items");
    let migrate = format!("{path}/migrate");
    let classic = [("billing_mode[type]", "classic")];
    world.post(&migrate, &classic).await.error(400);
    for _ in 0..2 {
        let flexible = [("billing_mode[type]", "flexible")];
        let migrated = world.post(&migrate, &flexible).await.ok();
        assert_eq!(migrated["billing_mode"]["type"], "flexible");
    }
    let mixed = world.post(&path, &added).await.ok();
    let second = START + 59 * DAY;
    assert_eq!(it.period(&world, 0).await, (START.into(), YEAR.into()));
    assert_eq!(it.period(&world, 1).await, (MONTH.into(), second.into()));
    assert_eq!(it.renew(&world, second).await, [0]);
    // Without the month, the year is all that renews.
    let item = text(&mixed["items"]["data"][1], "id");
    let gone = [
        ("items[0][id]", item.as_str()),
        ("items[0][deleted]", "true"),
    ];
    world.post(&path, &gone).await.ok();
    assert_eq!(it.period(&world, 0).await, (START.into(), YEAR.into()));
    assert_eq!(it.renew(&world, YEAR).await, [36_500]);
}

#[tokio::test]
async fn another_interval_of_the_fee_begins_all_periods_anew() {
    let world = World::new().await;
    let (monthly, yearly) = (
        world.price(2_800).await,
        world.price_every(36_500, "year").await,
    );
    let it = Mixed::new(&world, [&yearly, &metered(&world).await], &[]).await;
    let path = format!("/v1/subscriptions/{}", it.id());
    let at = START + 73 * DAY;
    for at in [START + 40 * DAY, at - 60] {
        world.advance(&it.clock, at).await;
    }
    let event = [
        ("event_name", "calls"),
        ("payload[stripe_customer_id]", it.customer.as_str()),
        ("payload[value]", "7"),
    ];
    world.post("/v1/billing/meter_events", &event).await.ok();
    world.advance(&it.clock, at).await;
    let fee = text(&it.subscription["items"]["data"][0], "id");
    let fields = [
        ("items[0][id]", fee.as_str()),
        ("items[0][price]", &monthly),
        ("billing_cycle_anchor", "now"),
        ("proration_behavior", "always_invoice"),
    ];
    let changed = world.post(&path, &fields).await.ok();
    let mut charged = amounts(&world.latest_invoice(&it.id()).await);
    charged.sort_unstable();
    // Four fifths of the year, the usage so far, and a month.
    assert_eq!(charged, [-29_200, 70, 2_800]);
    for (index, item) in [0, 1]
        .into_iter()
        .zip(changed["items"]["data"].as_array().unwrap())
    {
        let was = &it.subscription["items"]["data"][index];
        assert_eq!(item["id"], was["id"], "items stay");
        assert_eq!(item["current_period_start"], at);
        assert_eq!(item["current_period_end"], at + 30 * DAY);
    }
}

#[tokio::test]
async fn a_trial_goes_on_when_its_fee_becomes_the_years() {
    let world = World::new().await;
    let (monthly, yearly) = (
        world.price(2_800).await,
        world.price_every(36_500, "year").await,
    );
    let trial = [("trial_period_days", "14")];
    let it = Mixed::new(&world, [&monthly, &metered(&world).await], &trial).await;
    let path = format!("/v1/subscriptions/{}", it.id());
    let fee = text(&it.subscription["items"]["data"][0], "id");
    let fields = [("items[0][id]", fee.as_str()), ("items[0][price]", &yearly)];
    world.post(&path, &fields).await.ok();
    let end = START + 14 * DAY;
    for index in 0..2 {
        assert_eq!(it.period(&world, index).await, (START.into(), end.into()));
    }
    assert_eq!(it.renew(&world, end).await, [36_500]);
    assert_eq!(it.period(&world, 0).await.1, end + 365 * DAY);
    assert_eq!(it.period(&world, 1).await.1, end + 28 * DAY);
}

#[tokio::test]
async fn a_schedule_changes_the_fee_when_the_year_ends() {
    let world = World::new().await;
    let (monthly, yearly) = (
        world.price(2_800).await,
        world.price_every(36_500, "year").await,
    );
    let usage = metered(&world).await;
    let it = Mixed::new(&world, [&yearly, &usage], &[]).await;
    let from = [("from_subscription", &*it.id())];
    let schedule = world.post("/v1/subscription_schedules", &from).await.ok();
    let (start, end) = (START.to_string(), YEAR.to_string());
    let fields = [
        ("end_behavior", "release"),
        ("phases[0][start_date]", &*start),
        ("phases[0][end_date]", &end),
        ("phases[0][items][0][price]", &yearly),
        ("phases[0][items][0][quantity]", "1"),
        ("phases[0][items][1][price]", &usage),
        ("phases[1][items][0][price]", &monthly),
        ("phases[1][items][0][quantity]", "1"),
        ("phases[1][items][1][price]", &usage),
        ("phases[1][billing_cycle_anchor]", "phase_start"),
        ("phases[1][duration][interval]", "day"),
        ("phases[1][duration][interval_count]", "1"),
    ];
    let path = format!("/v1/subscription_schedules/{}", text(&schedule, "id"));
    world.post(&path, &fields).await.ok();
    let mut at = START;
    while at < YEAR {
        let (_, end) = it.period(&world, 1).await;
        at = end.as_i64().expect("an end");
        let expected = if at == YEAR { vec![0, 2_800] } else { vec![0] };
        let mut renewed = it.renew(&world, at).await;
        renewed.sort_unstable();
        assert_eq!(renewed, expected);
    }
    assert_eq!(at, YEAR);
    assert_eq!(it.period(&world, 0).await.0, YEAR);
}

#[tokio::test]
async fn what_is_not_known_of_mixed_intervals_is_refused() {
    let mut world = World::new().await;
    let (monthly, yearly, weekly) = (
        world.price(2_800).await,
        world.price_every(36_500, "year").await,
        world.price_every(700, "week").await,
    );
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let base = [
        ("customer", customer.as_str()),
        ("items[0][price]", &monthly),
    ];
    for (price, mode, unsupported) in [
        (&yearly, "classic", false),
        (&weekly, "flexible", true),
        (&yearly, "flexible", true),
    ] {
        let mut fields = base.to_vec();
        fields.extend([
            ("items[1][price]", price.as_str()),
            ("billing_mode[type]", mode),
            ("cancel_at_period_end", "true"),
        ]);
        let error = world.post("/v1/subscriptions", &fields).await.error(400);
        assert_eq!(
            error["code"] == "sandbox_unsupported",
            unsupported,
            "{mode}"
        );
    }
    let it = Mixed::new(&world, [&monthly, &yearly], &[]).await;
    let path = format!("/v1/subscriptions/{}", it.id());
    let short = text(&it.subscription["items"]["data"][0], "id");
    let other = world.price_every(30_000, "year").await;
    for fields in [
        &[("cancel_at_period_end", "true")][..],
        &[("cancel_at", "max_period_end")],
        &[("items[0][id]", &*short), ("items[0][price]", &other)],
    ] {
        let error = world.post(&path, fields).await.error(400);
        assert_eq!(error["code"], "sandbox_unsupported", "{fields:?}");
    }
    world.version = Some("2025-06-30.basil");
    let mut fields = base.to_vec();
    fields.extend([
        ("items[1][price]", yearly.as_str()),
        ("billing_mode[type]", "flexible"),
    ]);
    let error = world.post("/v1/subscriptions", &fields).await.error(400);
    assert_eq!(error["param"], "items");
}
