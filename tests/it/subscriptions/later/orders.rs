//! Events of schedules, in any order; and what differs from Stripe.

use serde_json::Value;

use super::super::reconcile::{kinds, reconcile};
use super::super::world::{DAY, START, SUBSCRIPTION, Stripe, VISA, World, text};
use super::RENEWAL;
use crate::support::dice::Dice;
use crate::webhooks::workbench::Workbench;

/// A subscription that gets a schedule, another one, and perhaps the renewal at which
/// the second phase begins: Stripe's events.
async fn history(stripe: &Stripe, renewed: bool) -> (String, Vec<Value>) {
    let clock = stripe.clock(START).await;
    let customer = stripe.customer(VISA, Some(&clock)).await;
    let prices = stripe.list("/v1/prices", &[]).await;
    let price = |tier: &str| {
        let key = format!("valuecanvas_{tier}_monthly");
        let found = prices
            .iter()
            .find(|price| price["lookup_key"] == key.as_str());
        text(found.unwrap(), "id")
    };
    let (enterprise, standard) = (price("enterprise"), price("standard"));
    let new = [("customer", &*customer), ("items[0][price]", &enterprise)];
    let subscription = text(&stripe.post("/v1/subscriptions", &new).await, "id");
    let from = [("from_subscription", subscription.as_str())];
    let all = "/v1/subscription_schedules";
    let start = START.to_string();
    let end = RENEWAL.to_string();
    let phases = |quantity: &'static str| {
        [
            ("phases[0][items][0][price]", enterprise.clone()),
            ("phases[0][start_date]", start.clone()),
            ("phases[0][end_date]", end.clone()),
            ("phases[1][items][0][price]", standard.clone()),
            ("phases[1][items][0][quantity]", quantity.to_owned()),
        ]
    };
    let first = text(&stripe.post(all, &from).await, "id");
    let then = async |id: &str, quantity: &'static str| {
        let fields = phases(quantity);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(a, b)| (*a, &**b)).collect();
        stripe.post(&format!("{all}/{id}"), &fields).await;
    };
    then(&first, "1").await;
    stripe.advance(&clock, START + 3 * DAY).await;
    stripe.post(&format!("{all}/{first}/release"), &[]).await;
    let second = text(&stripe.post(all, &from).await, "id");
    then(&second, "1").await;
    then(&second, "2").await;
    if renewed {
        stripe.advance(&clock, RENEWAL + 7_200).await;
    }
    let mut events = stripe.list("/v1/events", &[]).await;
    events.retain(|event| {
        let kind = event["type"].as_str().unwrap();
        kind.starts_with("customer.subscription.") || kind.starts_with("subscription_schedule.")
    });
    (customer, events)
}

#[tokio::test]
async fn events_of_schedules_end_in_one_state_in_whatever_order_they_come() {
    end_in_one_state(false, "enterprise").await;
}

#[tokio::test]
async fn events_of_a_phase_that_begins_end_in_one_state_in_whatever_order_they_come() {
    end_in_one_state(true, "standard").await;
}

/// With `plan` in the end.
async fn end_in_one_state(renewed: bool, plan: &str) {
    let stripe = Stripe::start().await;
    let (customer, mut events) = history(&stripe, renewed).await;
    let mut dice = Dice::new(41);
    let mut states = Vec::new();
    for round in 0..6 {
        if round > 0 {
            dice.shuffle(&mut events);
        }
        let bench = Workbench::without_customers().await;
        bench.db.organization(&customer).await;
        for few in events.chunks(1 + round) {
            bench.process(few).await;
        }
        let subscriptions = bench
            .rows(
                "SELECT s.stripe_schedule_id, s.plan_tier, h.status, h.phases, h.last_event_id
                   FROM billing_subscriptions s
                   JOIN billing_subscription_schedules h USING (organization_id, stripe_schedule_id)",
            )
            .await;
        let schedules = bench
            .rows("SELECT stripe_schedule_id, status, phases FROM billing_subscription_schedules ORDER BY 1")
            .await;
        bench.verify_audit().await;
        states.push((subscriptions, schedules));
    }
    let (subscriptions, schedules) = &states[0];
    assert_eq!(subscriptions[0]["status"], "active", "{subscriptions:#}");
    assert_eq!(subscriptions[0]["plan_tier"], plan, "{subscriptions:#}");
    let item = &subscriptions[0]["phases"][1]["items"][0];
    assert_eq!(item["quantity"], 2);
    // What the subscription's own events have told of prices.
    let now = &subscriptions[0]["phases"][0]["items"][0];
    assert_eq!(now["planTier"], "enterprise");
    let statuses: Vec<&Value> = schedules
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["status"])
        .collect();
    assert_eq!(statuses, ["released", "active"]);
    for other in &states[1..] {
        assert_eq!(other, &states[0]);
    }
}

#[tokio::test]
async fn a_schedule_that_no_event_shows_is_fetched() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("enterprise").await.ok();
    world.settle().await;
    world.deliver_nothing().await;
    world.change_when("standard", "period_end").await.ok();
    // Only the subscription's event arrives, as from an endpoint of before.
    world
        .service
        .db
        .execute("TRUNCATE billing_subscription_schedules; UPDATE billing_subscriptions SET stripe_schedule_id = NULL")
        .await;
    assert_eq!(world.current().await["pendingChange"], Value::Null);
    let ran = reconcile(&world, &[]).await;
    assert_eq!(kinds(&ran), vec![("differs".into(), false)]);
    let differences = ran.json()["drift"][0]["differences"].to_string();
    assert!(
        differences.contains("schedule: none, sub_sched_"),
        "{differences}"
    );
    world.deliver_again().await;
    let path = format!(
        "/v1/subscriptions/{}",
        text(&world.running(&customer).await, "id")
    );
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    world.stripe.post(&path, &[("metadata[k]", "v")]).await;
    world.settle().await;
    world.settled_in_the_background().await;
    assert_eq!(
        world.current().await["pendingChange"]["planTier"],
        "standard"
    );
}

#[tokio::test]
async fn a_pending_change_that_differs_from_stripes_is_found_and_healed() {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("enterprise").await.ok();
    world.change_when("standard", "period_end").await.ok();
    world.settle().await;
    assert_eq!(kinds(&reconcile(&world, &[]).await), vec![]);
    world
        .service
        .db
        .execute("UPDATE billing_subscription_schedules SET phases = jsonb_set(phases, '{1,items,0,quantity}', '7')")
        .await;
    assert_eq!(world.current().await["pendingChange"]["quantity"], 7);
    let ran = reconcile(&world, &["--apply"]).await;
    assert_eq!(kinds(&ran), vec![("differs".into(), true)]);
    let differences = ran.json()["drift"][0]["differences"].to_string();
    assert!(
        differences.contains("scheduled: ") && differences.contains("7 of price_"),
        "{differences}"
    );
    assert_eq!(world.current().await["pendingChange"]["quantity"], 1);
}

#[tokio::test]
async fn a_schedule_that_cannot_be_fetched_hides_nothing_else() {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("enterprise").await.ok();
    let changed = world.change_when("standard", "period_end").await.ok();
    world.settle().await;
    world.settled_in_the_background().await;
    let schedule = text(&changed["pendingChange"], "stripeScheduleId");
    let path = format!("/v1/subscription_schedules/{schedule}");
    let fault = [
        ("fault", "server_error"),
        ("path", path.as_str()),
        ("every", "1"),
    ];
    world.stripe.fault(&fault).await;
    let db = &world.service.db;
    db.execute("UPDATE billing_invoices SET status = 'open', amount_paid = 0, last_event_at = now() - interval '1 hour', last_event_rank = 0")
        .await;
    let ran = reconcile(&world, &["--apply"]).await;
    assert_eq!(
        kinds(&ran),
        vec![("invoice".into(), true), ("unreadable".into(), false)],
        "{}",
        ran.stderr
    );
    world.stripe.clear_faults().await;

    // What is stored of it and cannot be read is no schedule without phases.
    db.execute("UPDATE billing_subscription_schedules SET phases = '[{\"items\": 5}]'")
        .await;
    let answer = world.call(reqwest::Method::GET, SUBSCRIPTION, None).await;
    assert_eq!(answer.status, 500, "{answer:?}");
    let ran = reconcile(&world, &["--apply"]).await;
    assert_eq!(kinds(&ran), vec![("differs".into(), true)]);
    let pending = world.current().await["pendingChange"].clone();
    assert_eq!(pending, changed["pendingChange"]);
}
