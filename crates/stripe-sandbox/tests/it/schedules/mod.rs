//! Subscription schedules: phases that begin with a renewal or within a period,
//! and what is refused while a schedule drives a subscription.

mod refusals;

use serde_json::Value;

use crate::support::{DAY, Fields, START, World, amounts, item, text};

/// 2026-02-28T10:00:00Z, the end of the first period.
const RENEWAL: i64 = START + 28 * DAY;
/// 2026-03-31T10:00:00Z.
const SECOND_RENEWAL: i64 = START + 59 * DAY;

/// A subscription on a clock, and its schedule.
struct Scheduled {
    clock: String,
    customer: String,
    subscription: String,
    path: String,
}

async fn scheduled(world: &World, price: &str, mode: &str) -> Scheduled {
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = text(&world.subscribe(&customer, price, mode).await, "id");
    let fields = [("from_subscription", subscription.as_str())];
    let schedule = world.post("/v1/subscription_schedules", &fields).await.ok();
    Scheduled {
        clock,
        customer,
        path: format!("/v1/subscription_schedules/{}", text(&schedule, "id")),
        subscription,
    }
}

impl Scheduled {
    async fn schedule(&self, world: &World) -> Value {
        world.get(&self.path, &[]).await.ok()
    }

    /// Lets the current items end at `ends`, and those of `next` follow.
    async fn then(&self, world: &World, price: &str, ends: i64, next: Fields<'_>) -> Value {
        let (start, ends) = (START.to_string(), ends.to_string());
        let mut fields = vec![
            ("phases[0][items][0][price]", price),
            ("phases[0][start_date]", start.as_str()),
            ("phases[0][end_date]", ends.as_str()),
        ];
        fields.extend(next);
        world.post(&self.path, &fields).await.ok()
    }

    async fn upcoming(&self, world: &World) -> Value {
        let fields = [("subscription", self.subscription.as_str())];
        world
            .post("/v1/invoices/create_preview", &fields)
            .await
            .ok()
    }
}

#[tokio::test]
async fn a_phase_that_begins_with_the_renewal_is_invoiced_as_previewed() {
    let world = World::new().await;
    let (large, small) = (world.price(3_000).await, world.price(1_000).await);
    for mode in ["classic", "flexible"] {
        let it = scheduled(&world, &large, mode).await;
        let schedule = it.schedule(&world).await;
        assert_eq!(schedule["status"], "active");
        assert_eq!(schedule["current_phase"]["end_date"], RENEWAL);
        assert_eq!(schedule["phases"][0]["items"][0]["price"], large.as_str());
        let next = [
            ("phases[1][items][0][price]", small.as_str()),
            ("phases[1][items][0][quantity]", "2"),
            ("phases[1][duration][interval]", "month"),
            ("phases[1][metadata][tier]", "small"),
        ];
        let after = it.then(&world, &large, RENEWAL, &next).await;
        assert_eq!(after["phases"][1]["start_date"], RENEWAL);
        assert_eq!(after["phases"][1]["end_date"], START + 56 * DAY);
        let subscription = world.subscription(&it.subscription).await;
        assert_eq!(subscription["schedule"], after["id"]);
        assert_eq!(
            subscription["items"]["data"][0]["price"]["id"],
            large.as_str()
        );

        let upcoming = it.upcoming(&world).await;
        assert_eq!(amounts(&upcoming), [2_000], "{mode}");
        world.advance(&it.clock, RENEWAL + 7_200).await;
        let invoice = world.latest_invoice(&it.subscription).await;
        assert_eq!(invoice["billing_reason"], "subscription_cycle");
        assert_eq!(amounts(&invoice), [2_000], "{mode}");
        assert_eq!(invoice["amount_paid"], 2_000);
        let subscription = world.subscription(&it.subscription).await;
        let entered = &subscription["items"]["data"][0];
        assert_eq!(entered["price"]["id"], small.as_str());
        assert_eq!(entered["quantity"], 2);
        assert_eq!(entered["current_period_end"], SECOND_RENEWAL);
        assert_eq!(subscription["metadata"]["tier"], "small");
        let schedule = it.schedule(&world).await;
        assert_eq!(schedule["current_phase"]["start_date"], RENEWAL);

        // The last phase ends, and the subscription goes on without a schedule.
        world.advance(&it.clock, START + 56 * DAY + 60).await;
        let released = it.schedule(&world).await;
        assert_eq!(released["status"], "released");
        assert_eq!(released["released_at"], START + 56 * DAY);
        assert_eq!(released["released_subscription"], it.subscription.as_str());
        assert_eq!(released["subscription"], Value::Null);
        world.advance(&it.clock, SECOND_RENEWAL + 7_200).await;
        let subscription = world.subscription(&it.subscription).await;
        assert_eq!(subscription["schedule"], Value::Null);
        let invoice = world.latest_invoice(&it.subscription).await;
        assert_eq!(amounts(&invoice), [2_000], "{mode}");
    }
    let types = world.event_types().await;
    for kind in ["expiring", "released", "updated"] {
        let kind = format!("subscription_schedule.{kind}");
        assert!(types.contains(&kind), "{kind}");
    }
}

#[tokio::test]
async fn a_phase_within_a_period_is_prorated_as_it_says() {
    let world = World::new().await;
    let (small, large) = (world.price(2_800).await, world.price(5_600).await);
    let at = START + 7 * DAY;
    for (behavior, now, renewal) in [
        ("create_prorations", None, vec![-2_100, 4_200, 5_600]),
        ("always_invoice", Some(vec![-2_100, 4_200]), vec![5_600]),
        ("none", None, vec![5_600]),
    ] {
        let it = scheduled(&world, &small, "flexible").await;
        let next = [
            ("phases[1][items][0][price]", large.as_str()),
            ("phases[1][proration_behavior]", behavior),
            ("phases[1][duration][interval]", "year"),
        ];
        it.then(&world, &small, at, &next).await;
        let first = world.latest_invoice(&it.subscription).await;
        world.advance(&it.clock, at + 7_200).await;
        let latest = world.latest_invoice(&it.subscription).await;
        match now {
            None => assert_eq!(latest["id"], first["id"], "{behavior}"),
            Some(lines) => {
                assert_eq!(amounts(&latest), lines);
                assert_eq!(latest["status"], "paid");
                assert_eq!(latest["lines"]["data"][0]["period"]["start"], at);
            }
        }
        let subscription = world.subscription(&it.subscription).await;
        let entered = &subscription["items"]["data"][0];
        assert_eq!(entered["price"]["id"], large.as_str());
        assert_eq!(entered["current_period_end"], RENEWAL);
        world.advance(&it.clock, RENEWAL + 7_200).await;
        let invoice = world.latest_invoice(&it.subscription).await;
        assert_eq!(amounts(&invoice), renewal, "{behavior}");
    }
}

#[tokio::test]
async fn a_phase_may_change_the_interval() {
    let world = World::new().await;
    let (monthly, yearly) = (
        world.price(3_000).await,
        world.price_every(30_000, "year").await,
    );
    let next = [
        ("phases[1][items][0][price]", yearly.as_str()),
        ("phases[1][billing_cycle_anchor]", "phase_start"),
    ];
    for (mode, next) in [("classic", &next[..1]), ("flexible", &next[..])] {
        let it = scheduled(&world, &monthly, mode).await;
        let after = it.then(&world, &monthly, RENEWAL, next).await;
        // One interval of its price, because it gives no end.
        assert_eq!(after["phases"][1]["end_date"], RENEWAL + 365 * DAY);
        assert_eq!(amounts(&it.upcoming(&world).await), [30_000]);
        world.advance(&it.clock, RENEWAL + 7_200).await;
        let invoice = world.latest_invoice(&it.subscription).await;
        assert_eq!(amounts(&invoice), [30_000], "{mode}");
        let subscription = world.subscription(&it.subscription).await;
        assert_eq!(subscription["billing_cycle_anchor"], RENEWAL);
        assert_eq!(
            subscription["items"]["data"][0]["current_period_end"],
            RENEWAL + 365 * DAY
        );
    }
    let it = scheduled(&world, &monthly, "flexible").await;
    let (start, end) = (START.to_string(), RENEWAL.to_string());
    let fields = [
        ("phases[0][items][0][price]", monthly.as_str()),
        ("phases[0][start_date]", &start),
        ("phases[0][end_date]", &end),
        ("phases[1][items][0][price]", &yearly),
    ];
    let error = world.post(&it.path, &fields).await.error(400);
    assert_eq!(error["code"], "sandbox_unsupported");
}

#[tokio::test]
async fn usage_is_charged_at_the_prices_of_the_phase_that_ends() {
    let world = World::new().await;
    let meter = [
        ("display_name", "Calls"),
        ("event_name", "calls"),
        ("default_aggregation[formula]", "sum"),
    ];
    let meter = text(&world.post("/v1/billing/meters", &meter).await.ok(), "id");
    let metered = async |amount: &str| {
        let fields = [
            ("currency", "usd"),
            ("unit_amount", amount),
            ("recurring[interval]", "month"),
            ("recurring[usage_type]", "metered"),
            ("recurring[meter]", &meter),
            ("product_data[name]", "Calls"),
        ];
        text(&world.post("/v1/prices", &fields).await.ok(), "id")
    };
    let (dear, cheap) = (metered("10").await, metered("3").await);
    let it = scheduled(&world, &dear, "flexible").await;
    let next = [("phases[1][items][0][price]", cheap.as_str())];
    it.then(&world, &dear, RENEWAL, &next).await;
    let event = [
        ("event_name", "calls"),
        ("payload[stripe_customer_id]", it.customer.as_str()),
        ("payload[value]", "7"),
    ];
    world.post("/v1/billing/meter_events", &event).await.ok();
    world.advance(&it.clock, RENEWAL + 7_200).await;
    assert_eq!(amounts(&world.latest_invoice(&it.subscription).await), [70]);
    world.post("/v1/billing/meter_events", &event).await.ok();
    world.advance(&it.clock, SECOND_RENEWAL + 7_200).await;
    assert_eq!(amounts(&world.latest_invoice(&it.subscription).await), [21]);
}

#[tokio::test]
async fn a_change_of_the_current_phase_is_made_at_once() {
    let world = World::new().await;
    let price = world.price(2_800).await;
    let it = scheduled(&world, &price, "classic").await;
    world.advance(&it.clock, START + 7 * DAY).await;
    let (start, end) = (START.to_string(), RENEWAL.to_string());
    let fields = [
        ("phases[0][items][0][price]", price.as_str()),
        ("phases[0][items][0][quantity]", "3"),
        ("phases[0][start_date]", &start),
        ("phases[0][end_date]", &end),
        ("proration_behavior", "create_prorations"),
    ];
    let before = world.subscription(&it.subscription).await;
    world.post(&it.path, &fields).await.ok();
    let after = world.subscription(&it.subscription).await;
    assert_eq!(after["items"]["data"][0]["quantity"], 3);
    assert_eq!(item(&after), item(&before));
    assert_eq!(amounts(&it.upcoming(&world).await), [-2_100, 6_300, 8_400]);

    // A phase that begins now ends the current one.
    let end = (RENEWAL + DAY).to_string();
    let fields = [
        ("phases[0][items][0][price]", price.as_str()),
        ("phases[0][items][0][quantity]", "1"),
        ("phases[0][start_date]", "now"),
        ("phases[0][end_date]", &end),
        ("phases[0][proration_behavior]", "none"),
    ];
    let schedule = world.post(&it.path, &fields).await.ok();
    let starts: Vec<_> = schedule["phases"]
        .as_array()
        .expect("phases")
        .iter()
        .map(|phase| (phase["start_date"].clone(), phase["end_date"].clone()))
        .collect();
    let now = START + 7 * DAY;
    assert_eq!(
        starts,
        [
            (START.into(), now.into()),
            (now.into(), (RENEWAL + DAY).into())
        ]
    );
    assert_eq!(schedule["current_phase"]["start_date"], now);
    assert_eq!(amounts(&it.upcoming(&world).await), [-2_100, 6_300, 2_800]);
}

#[tokio::test]
async fn a_direct_change_divides_the_current_phase_and_leaves_later_ones() {
    let world = World::new().await;
    let (large, small) = (world.price(2_800).await, world.price(1_400).await);
    for mode in ["classic", "flexible"] {
        let it = scheduled(&world, &large, mode).await;
        let next = [("phases[1][items][0][price]", small.as_str())];
        it.then(&world, &large, RENEWAL, &next).await;
        world.advance(&it.clock, START + 7 * DAY).await;
        let item = item(&world.subscription(&it.subscription).await);
        let change = [("items[0][id]", item.as_str()), ("items[0][quantity]", "3")];
        let path = format!("/v1/subscriptions/{}", it.subscription);
        let preview = [
            ("subscription", it.subscription.as_str()),
            ("subscription_details[items][0][id]", &item),
            ("subscription_details[items][0][quantity]", "3"),
        ];
        let previewed = world.post("/v1/invoices/create_preview", &preview).await;
        assert_eq!(amounts(&previewed.ok()), [-2_100, 6_300, 1_400], "{mode}");
        world.post(&path, &change).await.ok();
        let schedule = it.schedule(&world).await;
        let quantities: Vec<_> = schedule["phases"]
            .as_array()
            .expect("phases")
            .iter()
            .map(|phase| (&phase["start_date"], &phase["items"][0]["quantity"]))
            .map(|(start, quantity)| (start.clone(), quantity.clone()))
            .collect();
        let now = START + 7 * DAY;
        assert_eq!(
            quantities,
            [
                (START.into(), 1.into()),
                (now.into(), 3.into()),
                (RENEWAL.into(), 1.into())
            ]
        );
        assert_eq!(schedule["current_phase"]["start_date"], now);
        assert_eq!(amounts(&it.upcoming(&world).await), [-2_100, 6_300, 1_400]);
        world.advance(&it.clock, RENEWAL + 7_200).await;
        let invoice = world.latest_invoice(&it.subscription).await;
        assert_eq!(amounts(&invoice), [-2_100, 6_300, 1_400], "{mode}");
    }
}

#[tokio::test]
async fn the_end_of_a_schedule_may_cancel_its_subscription() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let it = scheduled(&world, &price, "flexible").await;
    let cancel = [("end_behavior", "cancel")];
    world.post(&it.path, &cancel).await.ok();
    let subscription = world.subscription(&it.subscription).await;
    assert_eq!(subscription["cancel_at"], RENEWAL);
    assert_eq!(subscription["cancel_at_period_end"], false);
    world
        .post(&it.path, &[("end_behavior", "release")])
        .await
        .ok();
    let subscription = world.subscription(&it.subscription).await;
    assert_eq!(subscription["cancel_at"], Value::Null);
    world.post(&it.path, &cancel).await.ok();
    world.advance(&it.clock, RENEWAL + 60).await;
    let subscription = world.subscription(&it.subscription).await;
    assert_eq!(subscription["status"], "canceled");
    let schedule = it.schedule(&world).await;
    assert_eq!(schedule["status"], "completed");
    assert_eq!(schedule["completed_at"], RENEWAL);

    for (keep, cancel_at) in [("true", RENEWAL.into()), ("false", Value::Null)] {
        let it = scheduled(&world, &price, "flexible").await;
        world.post(&it.path, &cancel).await.ok();
        let release = format!("{}/release", it.path);
        let keep = [("preserve_cancel_date", keep)];
        assert_eq!(world.post(&release, &keep).await.ok()["status"], "released");
        let subscription = world.subscription(&it.subscription).await;
        assert_eq!(subscription["cancel_at"], cancel_at);
        let error = world.post(&release, &keep).await.error(400);
        let message = error["message"].as_str().unwrap_or_default();
        assert!(
            message.contains("currently in the `released` status"),
            "{message}"
        );
        world.post(&it.path, &cancel).await.error(400);
    }
}

#[tokio::test]
async fn a_canceled_schedule_and_its_subscription_end_together() {
    let world = World::new().await;
    let price = world.price(2_800).await;
    let it = scheduled(&world, &price, "flexible").await;
    world.advance(&it.clock, START + 7 * DAY).await;
    let path = format!("{}/cancel", it.path);
    let canceled = world.post(&path, &[]).await.ok();
    assert_eq!(canceled["status"], "canceled");
    assert_eq!(canceled["canceled_at"], START + 7 * DAY);
    assert_eq!(canceled["current_phase"], Value::Null);
    let subscription = world.subscription(&it.subscription).await;
    assert_eq!(subscription["status"], "canceled");
    let invoice = world.latest_invoice(&it.subscription).await;
    assert_eq!(amounts(&invoice), [-2_100]);

    let it = scheduled(&world, &price, "flexible").await;
    world
        .delete(&format!("/v1/subscriptions/{}", it.subscription), &[])
        .await
        .ok();
    assert_eq!(it.schedule(&world).await["status"], "canceled");
    let types = world.event_types().await;
    let count = |kind: &str| types.iter().filter(|known| *known == kind).count();
    assert_eq!(count("subscription_schedule.canceled"), 2);

    let poor = scheduled(&world, &price, "flexible").await;
    let attach = [("customer", poor.customer.as_str())];
    let card = world
        .post(
            "/v1/payment_methods/pm_card_chargeCustomerFail/attach",
            &attach,
        )
        .await
        .ok();
    let default = [(
        "invoice_settings[default_payment_method]",
        &*text(&card, "id"),
    )];
    world
        .post(&format!("/v1/customers/{}", poor.customer), &default)
        .await
        .ok();
    let (start, end) = (START.to_string(), (START + 300 * DAY).to_string());
    let long = [
        ("phases[0][items][0][price]", price.as_str()),
        ("phases[0][start_date]", &start),
        ("phases[0][end_date]", &end),
    ];
    world.post(&poor.path, &long).await.ok();
    world.advance(&poor.clock, RENEWAL + 20 * DAY).await;
    assert_eq!(poor.schedule(&world).await["status"], "canceled");
    let types = world.event_types().await;
    assert!(
        types
            .iter()
            .any(|kind| kind == "subscription_schedule.aborted")
    );
}
