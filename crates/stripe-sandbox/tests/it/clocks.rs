//! What happens as a test clock advances.

use stripe_sandbox::{Config, DunningEnd};

use crate::support::{DAY, START, World, item, text};

#[tokio::test]
async fn renewals_fall_on_the_anchors_day_whatever_the_month() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let id = text(&world.subscribe(&customer, &price, "flexible").await, "id");
    let mut ends = Vec::new();
    // 28 February, 31 March, 30 April and 31 May 2026, each at 10:00.
    let expected = [28, 59, 89, 120].map(|days| START + days * DAY);
    for end in expected {
        ends.push(world.subscription(&id).await["items"]["data"][0]["current_period_end"].as_i64());
        world.advance(&clock, end).await;
    }
    assert_eq!(ends, expected.map(Some));
}

#[tokio::test]
async fn a_renewal_is_a_draft_for_an_hour_and_events_carry_the_clocks_time() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let id = text(&world.subscribe(&customer, &price, "flexible").await, "id");
    let renewal = START + 28 * DAY;
    world.advance(&clock, renewal + 60).await;
    let invoice = world.latest_invoice(&id).await;
    assert_eq!(
        (&invoice["status"], &invoice["created"]),
        (&"draft".into(), &renewal.into())
    );
    world.advance(&clock, renewal + 2 * DAY).await;
    let invoice = world.latest_invoice(&id).await;
    assert_eq!(invoice["status"], "paid");
    assert_eq!(invoice["status_transitions"]["paid_at"], renewal + 3_600);
    let upcoming = world
        .get("/v1/events", &[("type", "invoice.upcoming")])
        .await
        .ok();
    assert_eq!(upcoming["data"][0]["created"], renewal - 7 * DAY);
    assert!(upcoming["data"][0]["data"]["object"].get("id").is_none());
    assert!(
        upcoming["data"][0]["request"]["id"].is_null(),
        "time is the cause"
    );
}

#[tokio::test]
async fn a_trial_is_announced_ends_and_is_charged() {
    let world = World::new().await;
    let (price, other) = (world.price(1_000).await, world.price(3_000).await);
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world
        .post(
            "/v1/subscriptions",
            &[
                ("customer", &customer),
                ("items[0][price]", &price),
                ("trial_period_days", "14"),
            ],
        )
        .await
        .ok();
    let id = text(&subscription, "id");
    assert_eq!(subscription["status"], "trialing");
    assert_eq!(world.latest_invoice(&id).await["total"], 0);
    // A change during the trial is free.
    let fields = [
        ("items[0][id]", item(&subscription)),
        ("items[0][price]", other),
        ("proration_behavior", "always_invoice".to_owned()),
    ];
    let fields: Vec<(&str, &str)> = fields
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    world
        .post(&format!("/v1/subscriptions/{id}"), &fields)
        .await
        .ok();
    assert_eq!(world.latest_invoice(&id).await["total"], 0);
    world.advance(&clock, START + 14 * DAY + 7_200).await;
    assert_eq!(world.subscription(&id).await["status"], "active");
    assert_eq!(world.latest_invoice(&id).await["amount_paid"], 3_000);
    let notice = world
        .get(
            "/v1/events",
            &[("type", "customer.subscription.trial_will_end")],
        )
        .await
        .ok();
    assert_eq!(notice["data"][0]["created"], START + 11 * DAY);
}

#[tokio::test]
async fn a_failing_renewal_is_retried_and_healed_by_a_new_card() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let id = text(&world.subscribe(&customer, &price, "flexible").await, "id");
    let bad = world
        .post(
            "/v1/payment_methods/pm_card_chargeCustomerFail/attach",
            &[("customer", &customer)],
        )
        .await
        .ok();
    let path = format!("/v1/customers/{customer}");
    let field = "invoice_settings[default_payment_method]";
    world.post(&path, &[(field, &text(&bad, "id"))]).await.ok();
    world.advance(&clock, START + 28 * DAY + 7_200).await;
    assert_eq!(world.subscription(&id).await["status"], "past_due");
    let invoice = world.latest_invoice(&id).await;
    let first_failure = START + 28 * DAY + 3_600;
    assert_eq!(invoice["next_payment_attempt"], first_failure + 3 * DAY);
    let good = world
        .post(
            "/v1/payment_methods/pm_card_visa/attach",
            &[("customer", &customer)],
        )
        .await
        .ok();
    world.post(&path, &[(field, &text(&good, "id"))]).await.ok();
    world.advance(&clock, START + 32 * DAY).await;
    assert_eq!(world.subscription(&id).await["status"], "active");
    let invoice = world.latest_invoice(&id).await;
    assert_eq!(
        (&invoice["status"], &invoice["attempt_count"]),
        (&"paid".into(), &2.into())
    );
}

#[tokio::test]
async fn the_outcome_of_the_last_retry_is_configurable() {
    for (end, status) in [
        (DunningEnd::Cancel, "canceled"),
        (DunningEnd::MarkUnpaid, "unpaid"),
        (DunningEnd::LeavePastDue, "past_due"),
    ] {
        let world = World::with(Config {
            dunning_end: end,
            dunning_days: vec![1],
            ..Config::default()
        })
        .await;
        let (free, price) = (world.price(0).await, world.price(1_000).await);
        let clock = world.clock(START).await;
        let customer = world.customer(&clock, "pm_card_chargeCustomerFail").await;
        let subscription = world.subscribe(&customer, &free, "flexible").await;
        let id = text(&subscription, "id");
        let fields = [
            ("items[0][id]", item(&subscription)),
            ("items[0][price]", price),
        ];
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        world
            .post(&format!("/v1/subscriptions/{id}"), &fields)
            .await
            .ok();
        world.advance(&clock, START + 31 * DAY).await;
        assert_eq!(world.subscription(&id).await["status"], status);
    }
}

#[tokio::test]
async fn an_unpaid_first_invoice_expires_the_subscription_after_23_hours() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_chargeCustomerFail").await;
    let id = text(&world.subscribe(&customer, &price, "flexible").await, "id");
    world.advance(&clock, START + 23 * 3_600 - 1).await;
    assert_eq!(world.subscription(&id).await["status"], "incomplete");
    world.advance(&clock, START + 23 * 3_600).await;
    assert_eq!(
        world.subscription(&id).await["status"],
        "incomplete_expired"
    );
    assert_eq!(world.latest_invoice(&id).await["status"], "void");
}

#[tokio::test]
async fn clocks_only_advance_and_not_too_far() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let path = format!("/v1/test_helpers/test_clocks/{clock}/advance");
    let too_far = (START + 731 * DAY).to_string();
    world
        .post(&path, &[("frozen_time", &too_far)])
        .await
        .error(400);
    world.subscribe(&customer, &price, "flexible").await;
    for to in [START, START - 1, START + 70 * DAY] {
        let error = world
            .post(&path, &[("frozen_time", &to.to_string())])
            .await
            .error(400);
        assert_eq!(error["param"], "frozen_time");
    }
    world
        .delete(&format!("/v1/test_helpers/test_clocks/{clock}"), &[])
        .await
        .ok();
    let gone = world
        .get(&format!("/v1/customers/{customer}"), &[])
        .await
        .ok();
    assert_eq!(gone["deleted"], true);
}

#[tokio::test]
async fn a_trial_without_a_card_follows_its_end_behavior() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    for (end_behavior, status) in [
        ("cancel", "canceled"),
        ("pause", "paused"),
        ("create_invoice", "past_due"),
    ] {
        let clock = world.clock(START).await;
        let customer = world
            .post("/v1/customers", &[("test_clock", &clock)])
            .await
            .ok();
        let subscription = world
            .post(
                "/v1/subscriptions",
                &[
                    ("customer", &text(&customer, "id")),
                    ("items[0][price]", &price),
                    ("trial_period_days", "7"),
                    (
                        "trial_settings[end_behavior][missing_payment_method]",
                        end_behavior,
                    ),
                ],
            )
            .await
            .ok();
        world.advance(&clock, START + 7 * DAY + 7_200).await;
        assert_eq!(
            world.subscription(&text(&subscription, "id")).await["status"],
            status,
            "{end_behavior}"
        );
    }
}

#[tokio::test]
async fn a_canceled_subscription_is_no_longer_collected() {
    let world = World::new().await;
    let (free, price) = (world.price(0).await, world.price(1_000).await);
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_chargeCustomerFail").await;
    let subscription = world.subscribe(&customer, &free, "flexible").await;
    let id = text(&subscription, "id");
    let path = format!("/v1/subscriptions/{id}");
    let item = item(&subscription);
    let fields = [
        ("items[0][id]", item.as_str()),
        ("items[0][price]", price.as_str()),
    ];
    world.post(&path, &fields).await.ok();
    world.advance(&clock, START + 28 * DAY + 7_200).await;
    let invoice = world.latest_invoice(&id).await;
    assert!(invoice["next_payment_attempt"].is_number());
    world.delete(&path, &[]).await.ok();
    world.advance(&clock, START + 60 * DAY).await;
    let invoice = world.invoice(&text(&invoice, "id")).await;
    assert_eq!(
        (&invoice["status"], &invoice["attempt_count"]),
        (&"open".into(), &1.into())
    );
    assert!(invoice["next_payment_attempt"].is_null());
}

#[tokio::test]
async fn events_are_found_by_time_and_type() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    world.subscribe(&customer, &price, "flexible").await;
    world.advance(&clock, START + 28 * DAY + 7_200).await;
    let since = (START + 28 * DAY).to_string();
    let until = (START + 28 * DAY + 3_599).to_string();
    let found = world
        .get(
            "/v1/events",
            &[
                ("created[gte]", &since),
                ("created[lte]", &until),
                ("limit", "100"),
            ],
        )
        .await
        .ok();
    let found: Vec<String> = found["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| text(event, "type"))
        .collect();
    assert_eq!(found, ["customer.subscription.updated", "invoice.created"]);
    let pattern = world.get("/v1/events", &[("type", "charge.*")]).await.ok();
    assert_eq!(pattern["data"].as_array().map(Vec::len), Some(2));
}
