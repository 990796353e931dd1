//! Subscription changes, in both billing modes and both shapes.

use crate::support::{DAY, OLD, START, World, amounts, item, text};

#[tokio::test]
async fn prorations_wait_for_the_renewal_unless_invoiced() {
    let world = World::new().await;
    let (small, large) = (world.price(1_000).await, world.price(2_000).await);
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &small, "flexible").await;
    let id = text(&subscription, "id");
    // Half of the 28 days from 31 January to 28 February.
    world.advance(&clock, START + 14 * DAY).await;
    let fields = [
        ("items[0][id]", item(&subscription)),
        ("items[0][price]", large),
    ];
    let fields: Vec<(&str, &str)> = fields
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    world
        .post(&format!("/v1/subscriptions/{id}"), &fields)
        .await
        .ok();
    let pending = world
        .get(
            "/v1/invoiceitems",
            &[("customer", &customer), ("pending", "true")],
        )
        .await
        .ok();
    assert_eq!(pending["data"].as_array().map(Vec::len), Some(2));
    world.advance(&clock, START + 28 * DAY + 7_200).await;
    let invoice = world.latest_invoice(&id).await;
    assert_eq!(amounts(&invoice), [-500, 1_000, 2_000]);
    assert_eq!(invoice["status"], "paid");
    let line = &invoice["lines"]["data"][0];
    assert_eq!(line["description"], "Unused time on Plan after 14 Feb 2026");
    assert_eq!(line["period"]["start"], START + 14 * DAY);
    assert_eq!(
        line["parent"]["subscription_item_details"]["proration"],
        true
    );
}

#[tokio::test]
async fn a_negative_total_becomes_credit_and_pays_later_invoices() {
    let world = World::new().await;
    let (small, large) = (world.price(1_000).await, world.price(5_000).await);
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &large, "flexible").await;
    let id = text(&subscription, "id");
    world.advance(&clock, START + 14 * DAY).await;
    world
        .post(
            &format!("/v1/subscriptions/{id}"),
            &[
                ("items[0][id]", &item(&subscription)),
                ("items[0][price]", &small),
                ("proration_behavior", "always_invoice"),
            ],
        )
        .await
        .ok();
    let invoice = world.latest_invoice(&id).await;
    assert_eq!(
        (&invoice["total"], &invoice["amount_due"]),
        (&(-2_000).into(), &0.into())
    );
    assert_eq!(
        (&invoice["status"], &invoice["ending_balance"]),
        (&"paid".into(), &(-2_000).into())
    );
    world.advance(&clock, START + 28 * DAY + 7_200).await;
    let invoice = world.latest_invoice(&id).await;
    assert_eq!(
        (&invoice["total"], &invoice["amount_due"]),
        (&1_000.into(), &0.into())
    );
    assert_eq!(
        (&invoice["starting_balance"], &invoice["ending_balance"]),
        (&(-2_000).into(), &(-1_000).into())
    );
    let transactions = world
        .get(
            &format!("/v1/customers/{customer}/balance_transactions"),
            &[],
        )
        .await
        .ok();
    assert_eq!(transactions["data"][0]["amount"], 1_000);
}

#[tokio::test]
async fn classic_billing_restarts_the_period_when_free_becomes_paid() {
    let world = World::new().await;
    let (free, paid) = (world.price(0).await, world.price(9_900).await);
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    for (mode, restarts) in [("classic", true), ("flexible", false)] {
        let subscription = world.subscribe(&customer, &free, mode).await;
        let now = START + if restarts { 7 * DAY } else { 14 * DAY };
        world.advance(&clock, now).await;
        let fields = [
            ("items[0][id]", item(&subscription)),
            ("items[0][price]", paid.clone()),
        ];
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let after = world
            .post(
                &format!("/v1/subscriptions/{}", text(&subscription, "id")),
                &fields,
            )
            .await
            .ok();
        assert_eq!(after["billing_cycle_anchor"] == now, restarts, "{mode}");
        let invoice = world.latest_invoice(&text(&after, "id")).await;
        if restarts {
            // The unused time of a free plan is a line of zero, and a whole
            // period is due.
            assert_eq!(amounts(&invoice), [0, 9_900]);
            assert_eq!(invoice["amount_paid"], 9_900);
        } else {
            assert_eq!(invoice["total"], 0);
        }
    }
}

#[tokio::test]
async fn classic_and_flexible_credit_differently_after_an_unprorated_change() {
    let world = World::new().await;
    let (one, two) = (world.price(1_000).await, world.price(2_000).await);
    // 1 to 30 April 2025, as in Stripe's documentation.
    let april = 1_743_465_600;
    for (mode, expected) in [("classic", [-667, 333]), ("flexible", [-333, 333])] {
        let clock = world.clock(april).await;
        let customer = world.customer(&clock, "pm_card_visa").await;
        let subscription = world.subscribe(&customer, &one, mode).await;
        let path = format!("/v1/subscriptions/{}", text(&subscription, "id"));
        let item = item(&subscription);
        world.advance(&clock, april + 10 * DAY).await;
        world
            .post(
                &path,
                &[
                    ("items[0][id]", &item),
                    ("items[0][price]", &two),
                    ("proration_behavior", "none"),
                ],
            )
            .await
            .ok();
        world.advance(&clock, april + 20 * DAY).await;
        world
            .post(
                &path,
                &[
                    ("items[0][id]", &item),
                    ("items[0][price]", &one),
                    ("proration_behavior", "always_invoice"),
                ],
            )
            .await
            .ok();
        let invoice = world.latest_invoice(&text(&subscription, "id")).await;
        assert_eq!(amounts(&invoice), expected, "{mode}");
    }
}

#[tokio::test]
async fn the_shape_follows_the_version_of_the_request() {
    let mut world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &price, "classic").await;
    let id = text(&subscription, "id");
    assert!(subscription.get("current_period_end").is_none());
    assert_eq!(
        subscription["items"]["data"][0]["current_period_end"],
        START + 28 * DAY
    );
    let invoice = world.latest_invoice(&id).await;
    assert_eq!(
        invoice["parent"]["subscription_details"]["subscription"],
        id.as_str()
    );
    assert!(invoice.get("subscription").is_none() && invoice.get("charge").is_none());
    world.version = Some(OLD);
    let old = world.subscription(&id).await;
    assert_eq!(old["current_period_end"], START + 28 * DAY);
    // Items already had these fields before they were removed from the
    // subscription.
    assert_eq!(
        old["items"]["data"][0]["current_period_end"],
        START + 28 * DAY
    );
    let invoice = world.latest_invoice(&id).await;
    assert_eq!(invoice["subscription"], id.as_str());
    assert_eq!(invoice["paid"], true);
    let charge = world
        .get(&format!("/v1/charges/{}", text(&invoice, "charge")), &[])
        .await
        .ok();
    assert_eq!(charge["invoice"], invoice["id"]);
    assert_eq!(charge["payment_intent"], invoice["payment_intent"]);
}

#[tokio::test]
async fn items_are_added_changed_and_removed_each_with_its_lines() {
    let world = World::new().await;
    let (base, seats, extra) = (
        world.price(5_000).await,
        world.price(300).await,
        world.price(700).await,
    );
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world
        .post(
            "/v1/subscriptions",
            &[
                ("customer", &customer),
                ("items[0][price]", &base),
                ("items[1][price]", &seats),
                ("items[1][quantity]", "4"),
            ],
        )
        .await
        .ok();
    let id = text(&subscription, "id");
    world.advance(&clock, START + 14 * DAY).await;
    let seat_item = text(&subscription["items"]["data"][1], "id");
    world
        .post(
            &format!("/v1/subscriptions/{id}"),
            &[
                ("items[0][id]", &seat_item),
                ("items[0][quantity]", "6"),
                ("items[1][price]", &extra),
                ("proration_behavior", "always_invoice"),
            ],
        )
        .await
        .ok();
    assert_eq!(amounts(&world.latest_invoice(&id).await), [-600, 900, 350]);
    let removed = world
        .delete(&format!("/v1/subscription_items/{seat_item}"), &[])
        .await
        .ok();
    assert_eq!(removed["deleted"], true);
    let left = world.subscription(&id).await;
    assert_eq!(left["items"]["data"].as_array().map(Vec::len), Some(2));
    let duplicate = world
        .post(
            &format!("/v1/subscriptions/{id}"),
            &[("items[0][price]", &extra)],
        )
        .await
        .error(400);
    assert_eq!(duplicate["param"], "plan");
}

#[tokio::test]
async fn an_immediate_cancellation_can_credit_the_unused_time() {
    let world = World::new().await;
    let price = world.price(2_800).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &price, "flexible").await;
    let id = text(&subscription, "id");
    world.advance(&clock, START + 7 * DAY).await;
    let canceled = world
        .delete(
            &format!("/v1/subscriptions/{id}"),
            &[("prorate", "true"), ("invoice_now", "true")],
        )
        .await
        .ok();
    assert_eq!(canceled["status"], "canceled");
    assert_eq!(canceled["ended_at"], START + 7 * DAY);
    let customer = world
        .get(&format!("/v1/customers/{customer}"), &[])
        .await
        .ok();
    assert_eq!(customer["balance"], -2_100);
    world
        .delete(&format!("/v1/subscriptions/{id}"), &[])
        .await
        .error(404);
}

#[tokio::test]
async fn a_cancellation_at_period_end_can_be_undone() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let id = text(&world.subscribe(&customer, &price, "flexible").await, "id");
    let path = format!("/v1/subscriptions/{id}");
    let ending = world
        .post(&path, &[("cancel_at_period_end", "true")])
        .await
        .ok();
    assert_eq!(ending["cancel_at"], START + 28 * DAY);
    let error = world
        .post("/v1/invoices/create_preview", &[("subscription", &id)])
        .await
        .error(404);
    assert_eq!(error["code"], "invoice_upcoming_none");
    let kept = world
        .post(&path, &[("cancel_at_period_end", "false")])
        .await
        .ok();
    assert!(kept["cancel_at"].is_null() && kept["canceled_at"].is_null());
    world
        .post(&path, &[("cancel_at_period_end", "true")])
        .await
        .ok();
    world.advance(&clock, START + 28 * DAY).await;
    assert_eq!(world.subscription(&id).await["status"], "canceled");
}

#[tokio::test]
async fn proration_counts_from_the_requested_date() {
    let world = World::new().await;
    let (small, large) = (world.price(2_800).await, world.price(5_600).await);
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &small, "flexible").await;
    let path = format!("/v1/subscriptions/{}", text(&subscription, "id"));
    world.advance(&clock, START + 8 * DAY).await;
    let (item, date) = (item(&subscription), (START + 7 * DAY).to_string());
    let mut fields = vec![
        ("items[0][id]", item.as_str()),
        ("items[0][price]", large.as_str()),
        ("proration_behavior", "always_invoice"),
    ];
    for outside in [START - 1, START + 28 * DAY + 1] {
        let outside = outside.to_string();
        let mut fields = fields.clone();
        fields.push(("proration_date", &outside));
        let error = world.post(&path, &fields).await.error(400);
        assert_eq!(error["param"], "proration_date");
    }
    fields.push(("proration_date", &date));
    world.post(&path, &fields).await.ok();
    let invoice = world.latest_invoice(&text(&subscription, "id")).await;
    // Three of four weeks are left at the proration date, though not at the
    // time of the request.
    assert_eq!(amounts(&invoice), [-2_100, 4_200]);
    assert_eq!(
        invoice["lines"]["data"][0]["period"]["start"],
        START + 7 * DAY
    );
}

#[tokio::test]
async fn a_new_anchor_charges_a_whole_period_now() {
    let world = World::new().await;
    let (monthly, yearly) = (
        world.price(2_800).await,
        world.price_every(30_000, "year").await,
    );
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &monthly, "flexible").await;
    let path = format!("/v1/subscriptions/{}", text(&subscription, "id"));
    world.advance(&clock, START + 7 * DAY).await;
    let item = item(&subscription);
    let mut fields = vec![
        ("items[0][id]", item.as_str()),
        ("items[0][price]", yearly.as_str()),
    ];
    fields.push(("billing_cycle_anchor", "now"));
    let after = world.post(&path, &fields).await.ok();
    assert_eq!(after["billing_cycle_anchor"], START + 7 * DAY);
    let invoice = world.latest_invoice(&text(&subscription, "id")).await;
    assert_eq!(amounts(&invoice), [-2_100, 30_000]);
    let whole = &invoice["lines"]["data"][1];
    assert_eq!(
        whole["parent"]["subscription_item_details"]["proration"],
        false
    );
    assert_eq!(whole["period"]["end"], START + (7 + 365) * DAY);
}

#[tokio::test]
async fn a_longer_interval_may_keep_the_anchor_in_flexible_billing() {
    let world = World::new().await;
    let (monthly, yearly) = (
        world.price(2_800).await,
        world.price_every(36_500, "year").await,
    );
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &monthly, "flexible").await;
    let id = text(&subscription, "id");
    let path = format!("/v1/subscriptions/{id}");
    world.advance(&clock, START + 7 * DAY).await;
    let item = item(&subscription);
    let fields = [
        ("items[0][id]", item.as_str()),
        ("items[0][price]", yearly.as_str()),
        ("proration_behavior", "always_invoice"),
    ];
    let after = world.post(&path, &fields).await.ok();
    // As recorded: the period starts where the month did, and both lines are
    // prorations.
    assert_eq!(after["billing_cycle_anchor"], START);
    let period = &after["items"]["data"][0];
    assert_eq!(period["current_period_start"], START);
    assert_eq!(period["current_period_end"], START + 365 * DAY);
    let invoice = world.latest_invoice(&id).await;
    assert_eq!(amounts(&invoice), [-2_100, 35_800]);
    let lines = &invoice["lines"]["data"];
    assert_eq!(lines[0]["period"]["end"], START + 28 * DAY);
    assert_eq!(lines[1]["period"]["end"], START + 365 * DAY);
    for line in [&lines[0], &lines[1]] {
        let parent = &line["parent"]["subscription_item_details"];
        assert_eq!(parent["proration"], true);
    }
    // Back to months is not known.
    let back = [
        ("items[0][id]", item.as_str()),
        ("items[0][price]", monthly.as_str()),
    ];
    let error = world.post(&path, &back).await.error(400);
    assert_eq!(error["code"], "sandbox_unsupported");
    world.advance(&clock, START + 365 * DAY + 7_200).await;
    assert_eq!(amounts(&world.latest_invoice(&id).await), [36_500]);
}

#[tokio::test]
async fn many_lines_are_paged() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &price, "flexible").await;
    for number in 0..12 {
        let amount = (100 + number).to_string();
        let fields = [
            ("customer", customer.as_str()),
            ("amount", &amount),
            ("currency", "usd"),
        ];
        world.post("/v1/invoiceitems", &fields).await.ok();
    }
    let id = text(&subscription, "id");
    let preview = world
        .post("/v1/invoices/create_preview", &[("subscription", &id)])
        .await
        .ok();
    assert_eq!(preview["lines"]["has_more"], true);
    let url = text(&preview["lines"], "url");
    let all = world.get(&url, &[("limit", "100")]).await.ok();
    let total: i64 = all["data"]
        .as_array()
        .expect("lines")
        .iter()
        .filter_map(|line| line["amount"].as_i64())
        .sum();
    assert_eq!(all["data"].as_array().map(Vec::len), Some(13));
    assert_eq!(preview["total"], total);
}
