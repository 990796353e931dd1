//! Usage is counted once, in whole units, within the accepted time window.

use crate::support::{DAY, START, World, text};

async fn meter(world: &World) -> String {
    let meter = world
        .post(
            "/v1/billing/meters",
            &[
                ("display_name", "Tokens"),
                ("event_name", "tokens"),
                ("default_aggregation[formula]", "sum"),
            ],
        )
        .await
        .ok();
    text(&meter, "id")
}

/// A monthly metered price of one dollar per unit.
async fn metered_price(world: &World, meter: &str) -> String {
    let price = world
        .post(
            "/v1/prices",
            &[
                ("currency", "usd"),
                ("product_data[name]", "Tokens"),
                ("recurring[interval]", "month"),
                ("recurring[usage_type]", "metered"),
                ("recurring[meter]", meter),
                ("unit_amount", "100"),
            ],
        )
        .await
        .ok();
    text(&price, "id")
}

async fn report(world: &World, customer: &str, value: &str, at: i64, identifier: &str) -> u16 {
    let at = at.to_string();
    let fields = [
        ("event_name", "tokens"),
        ("payload[stripe_customer_id]", customer),
        ("payload[value]", value),
        ("timestamp", at.as_str()),
        ("identifier", identifier),
    ];
    world.post("/v1/billing/meter_events", &fields).await.status
}

#[tokio::test]
async fn usage_counts_once_in_whole_units_within_the_window() {
    let world = World::new().await;
    let meter = meter(&world).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    assert_eq!(report(&world, &customer, "5", START, "a").await, 200);
    assert_eq!(report(&world, &customer, "5", START, "a").await, 400);
    assert_eq!(report(&world, &customer, "0.5", START, "b").await, 400);
    assert_eq!(report(&world, &customer, "1", START + 301, "c").await, 400);
    assert_eq!(report(&world, &customer, "1", START + 300, "d").await, 200);
    assert_eq!(
        report(&world, &customer, "1", START - 35 * DAY - 1, "e").await,
        400
    );
    assert_eq!(
        report(&world, &customer, "1", START - 35 * DAY, "f").await,
        200
    );
    let (from, to) = ((START - 60).to_string(), (START + 600).to_string());
    let path = format!("/v1/billing/meters/{meter}/event_summaries");
    let fields = [
        ("customer", customer.as_str()),
        ("start_time", from.as_str()),
        ("end_time", to.as_str()),
    ];
    let summaries = world.get(&path, &fields).await.ok();
    assert_eq!(summaries["data"][0]["aggregated_value"], 6);
}

#[tokio::test]
async fn a_renewal_charges_the_usage_of_the_period_that_ended() {
    let world = World::new().await;
    let meter = meter(&world).await;
    let metered = world
        .post(
            "/v1/prices",
            &[
                ("currency", "usd"),
                ("product_data[name]", "Tokens"),
                ("recurring[interval]", "month"),
                ("recurring[usage_type]", "metered"),
                ("recurring[meter]", &meter),
                ("billing_scheme", "tiered"),
                ("tiers_mode", "graduated"),
                ("tiers[0][up_to]", "1000"),
                ("tiers[0][unit_amount]", "0"),
                ("tiers[1][up_to]", "inf"),
                ("tiers[1][unit_amount_decimal]", "0.5"),
            ],
        )
        .await
        .ok();
    let base = world.price(9_900).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world
        .post(
            "/v1/subscriptions",
            &[
                ("customer", &customer),
                ("items[0][price]", &base),
                ("items[1][price]", &text(&metered, "id")),
            ],
        )
        .await
        .ok();
    let id = text(&subscription, "id");
    assert_eq!(world.latest_invoice(&id).await["total"], 9_900);
    world.advance(&clock, START + 5 * DAY).await;
    assert_eq!(
        report(&world, &customer, "1601", START + 5 * DAY, "u1").await,
        200
    );
    let preview = world
        .post("/v1/invoices/create_preview", &[("subscription", &id)])
        .await
        .ok();
    world.advance(&clock, START + 28 * DAY + 7_200).await;
    let invoice = world.latest_invoice(&id).await;
    // 601 units above the first thousand at half a cent: 300.5, rounded half
    // up.
    assert_eq!(invoice["total"], 9_900 + 301);
    assert_eq!(invoice["total"], preview["total"]);
    assert_eq!(invoice["status"], "paid");
    let summary = world
        .post("/v1/invoices/create_preview", &[("subscription", &id)])
        .await
        .ok();
    assert_eq!(
        summary["total"], 9_900,
        "the next period starts from nothing"
    );
}

#[tokio::test]
async fn usage_at_the_boundary_belongs_to_the_period_it_opens() {
    let world = World::new().await;
    let meter = meter(&world).await;
    let metered = metered_price(&world, &meter).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &metered, "flexible").await;
    assert_eq!(subscription["status"], "active");
    assert!(
        subscription["latest_invoice"].is_null(),
        "nothing is due in advance"
    );
    let boundary = START + 28 * DAY;
    world.advance(&clock, boundary - 60).await;
    assert_eq!(
        report(&world, &customer, "3", boundary - 1, "last").await,
        200
    );
    assert_eq!(report(&world, &customer, "4", boundary, "first").await, 200);
    let id = text(&subscription, "id");
    world.advance(&clock, boundary + 7_200).await;
    assert_eq!(world.latest_invoice(&id).await["total"], 300);
    world.advance(&clock, START + 59 * DAY + 7_200).await;
    assert_eq!(world.latest_invoice(&id).await["total"], 400);
}

#[tokio::test]
async fn the_final_invoice_matches_the_previewed_cancellation() {
    let mut world = World::new().await;
    let meter = meter(&world).await;
    let metered = metered_price(&world, &meter).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &metered, "flexible").await;
    let id = text(&subscription, "id");
    world.advance(&clock, START + 5 * DAY).await;
    assert_eq!(
        report(&world, &customer, "3", START + 4 * DAY, "one").await,
        200
    );
    let (end, renewal) = (START + 10 * DAY, START + 28 * DAY);
    let preview = async |world: &World, cancel_at: Option<i64>| {
        let at = cancel_at.unwrap_or_default().to_string();
        let mut fields = vec![("subscription", id.as_str())];
        fields.extend(cancel_at.map(|_| ("subscription_details[cancel_at]", &*at)));
        world.post("/v1/invoices/create_preview", &fields).await
    };
    let ends = preview(&world, Some(end)).await.ok();
    assert_eq!(ends["total"], 300);
    assert_eq!(ends["period_end"], end);
    assert_eq!(ends["lines"]["data"].as_array().map(Vec::len), Some(1));
    // A preview does not cancel anything, and a later end falls into another
    // period.
    for goes_on in [None, Some(renewal + DAY)] {
        let goes_on = preview(&world, goes_on).await.ok();
        assert_eq!(goes_on["total"], 300);
        assert_ne!(goes_on["period_end"], end);
    }
    let error = preview(&world, Some(START)).await.error(400);
    assert_eq!(error["param"], "cancel_at");

    let path = format!("/v1/subscriptions/{id}");
    let at = end.to_string();
    world.post(&path, &[("cancel_at", &at)]).await.ok();
    let said = preview(&world, None).await.ok();
    assert_eq!(
        (&said["total"], &said["period_end"]),
        (&ends["total"], &ends["period_end"])
    );
    world.version = Some("2024-06-20");
    let fields = [("subscription", &*id), ("subscription_cancel_at", &*at)];
    let older = world.get("/v1/invoices/upcoming", &fields).await.ok();
    assert_eq!(
        (&older["total"], &older["period_end"]),
        (&ends["total"], &ends["period_end"])
    );
    world.version = None;
    world.advance(&clock, end + 7_200).await;
    let last = world.latest_invoice(&id).await;
    assert_eq!(
        (&last["total"], &last["period_end"]),
        (&ends["total"], &ends["period_end"])
    );
    assert_eq!(world.subscription(&id).await["status"], "canceled");
}

#[tokio::test]
async fn usage_within_a_trial_is_free() {
    let world = World::new().await;
    let meter = meter(&world).await;
    let metered = metered_price(&world, &meter).await;
    let base = world.price(5_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world
        .post(
            "/v1/subscriptions",
            &[
                ("customer", &customer),
                ("items[0][price]", &base),
                ("items[1][price]", &metered),
                ("trial_period_days", "7"),
            ],
        )
        .await
        .ok();
    assert_eq!(report(&world, &customer, "9", START, "free").await, 200);
    world.advance(&clock, START + 7 * DAY + 7_200).await;
    let invoice = world.latest_invoice(&text(&subscription, "id")).await;
    assert_eq!(invoice["total"], 5_000);
}

/// Stripe counts what it accepts some time later: until then neither a summary nor an
/// invoice has it.
#[tokio::test]
async fn late_usage_is_on_no_invoice_that_is_made_before_it_is_counted() {
    let world = World::new().await;
    let meter = meter(&world).await;
    let price = metered_price(&world, &meter).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &price, "flexible").await;
    let preview = [("subscription", &*text(&subscription, "id"))];
    let (from, to) = (START.to_string(), (START + 600).to_string());
    let path = format!("/v1/billing/meters/{meter}/event_summaries");
    let fields = [
        ("customer", customer.as_str()),
        ("start_time", from.as_str()),
        ("end_time", to.as_str()),
    ];
    // Units, and what they cost.
    let counted = async || {
        let summaries = world.get(&path, &fields).await.ok();
        let invoice = world
            .post("/v1/invoices/create_preview", &preview)
            .await
            .ok();
        (
            summaries["data"][0]["aggregated_value"].as_i64(),
            invoice["total"].as_i64(),
        )
    };
    let fault = [("fault", "late_usage")];
    world.post("/_sandbox/faults", &fault).await.ok();
    assert_eq!(report(&world, &customer, "5", START, "a").await, 200);
    assert_eq!(report(&world, &customer, "2", START, "b").await, 200);
    assert_eq!(counted().await, (Some(2), Some(200)));
    world.delete("/_sandbox/faults", &[]).await.ok();
    assert_eq!(counted().await, (Some(7), Some(700)));
    let fault = [("fault", "late_usage"), ("after", "0")];
    world.post("/_sandbox/faults", &fault).await.ok();
    assert_eq!(report(&world, &customer, "1", START, "c").await, 200);
    assert_eq!(counted().await, (Some(8), Some(800)));
}
