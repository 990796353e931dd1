//! Trials without a card, pauses, and changes that wait for payment.

use serde_json::Value;

use crate::support::{DAY, OLD, START, World, item, text};

async fn trial(world: &World, price: &str, end: &str) -> (String, String, Value) {
    let clock = world.clock(START).await;
    let customer = text(
        &world
            .post("/v1/customers", &[("test_clock", clock.as_str())])
            .await
            .ok(),
        "id",
    );
    let behavior = "trial_settings[end_behavior][missing_payment_method]";
    let fields = [
        ("customer", customer.as_str()),
        ("items[0][price]", price),
        ("trial_period_days", "14"),
        (behavior, end),
    ];
    let subscription = world.post("/v1/subscriptions", &fields).await.ok();
    (clock, customer, subscription)
}

#[tokio::test]
async fn a_trial_ended_early_without_a_card_follows_its_end_behavior() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    for (end_behavior, status) in [("pause", "paused"), ("cancel", "canceled")] {
        let (_, _, subscription) = trial(&world, &price, end_behavior).await;
        let path = format!("/v1/subscriptions/{}", text(&subscription, "id"));
        let ended = world.post(&path, &[("trial_end", "now")]).await.ok();
        assert_eq!(ended["status"], status);
        assert_eq!(ended["trial_end"], START);
        let reason = &ended["cancellation_details"]["reason"];
        match end_behavior {
            "pause" => assert_eq!(*reason, Value::Null),
            _ => assert_eq!(*reason, "cancellation_requested"),
        }
    }
    let types = world.event_types().await;
    for kind in [
        "customer.subscription.paused",
        "customer.subscription.deleted",
    ] {
        assert_eq!(
            types.iter().filter(|known| *known == kind).count(),
            1,
            "{kind}"
        );
    }
    let (_, _, subscription) = trial(&world, &price, "create_invoice").await;
    let path = format!("/v1/subscriptions/{}", text(&subscription, "id"));
    let error = world.post(&path, &[("trial_end", "now")]).await.error(400);
    assert_eq!(error["code"], "resource_missing");
    assert_eq!(world.get(&path, &[]).await.ok()["status"], "trialing");
}

#[tokio::test]
async fn a_setup_intent_adds_a_card_to_a_trial_without_one() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let (_, customer, subscription) = trial(&world, &price, "pause").await;
    let intent = text(&subscription, "pending_setup_intent");
    let path = format!("/v1/subscriptions/{}", text(&subscription, "id"));
    let expanded = world
        .get(&path, &[("expand[]", "pending_setup_intent")])
        .await
        .ok();
    let expanded = &expanded["pending_setup_intent"];
    assert_eq!(expanded["object"], "setup_intent");
    assert_eq!(expanded["status"], "requires_payment_method");
    assert_eq!(expanded["customer"], customer.as_str());
    let confirm = format!("/v1/setup_intents/{intent}/confirm");
    world.post(&confirm, &[]).await.error(400);
    let card = [("payment_method", "pm_card_visa")];
    let done = world.post(&confirm, &card).await.ok();
    assert_eq!(done["status"], "succeeded");
    world.post(&confirm, &card).await.error(400);
    let after = world.get(&path, &[]).await.ok();
    assert_eq!(after["pending_setup_intent"], Value::Null);
    assert_eq!(after["default_payment_method"], done["payment_method"]);
    let ended = world.post(&path, &[("trial_end", "now")]).await.ok();
    assert_eq!(ended["status"], "active");
    // A customer with a card needs no setup intent.
    let clock = world.clock(START).await;
    let rich = world.customer(&clock, "pm_card_visa").await;
    let fields = [
        ("customer", rich.as_str()),
        ("items[0][price]", price.as_str()),
        ("trial_period_days", "14"),
    ];
    let with_card = world.post("/v1/subscriptions", &fields).await.ok();
    assert_eq!(with_card["pending_setup_intent"], Value::Null);
}

#[tokio::test]
async fn a_new_trial_end_must_be_within_two_years() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let (_, customer, subscription) = trial(&world, &price, "pause").await;
    let path = format!("/v1/subscriptions/{}", text(&subscription, "id"));
    for end in [START - 1, START, START + 731 * DAY, i64::MAX, -1] {
        let end = end.to_string();
        let error = world.post(&path, &[("trial_end", &end)]).await.error(400);
        assert_eq!(error["param"], "trial_end", "{end}");
        assert_ne!(error["code"], "sandbox_unsupported", "{end}");
    }
    let later = (START + 20 * DAY).to_string();
    let moved = world.post(&path, &[("trial_end", &later)]).await.ok();
    assert_eq!(moved["trial_end"], START + 20 * DAY);
    assert_eq!(moved["customer"], customer.as_str());
}

#[tokio::test]
async fn a_paused_subscription_resumes_once_it_is_paid() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let (clock, customer, subscription) = trial(&world, &price, "pause").await;
    world.advance(&clock, START + 15 * DAY).await;
    let path = format!("/v1/subscriptions/{}", text(&subscription, "id"));
    assert_eq!(world.get(&path, &[]).await.ok()["status"], "paused");
    let resume = format!("{path}/resume");
    // There is no card to charge, so the invoice stays open and the
    // subscription stays paused.
    let waiting = world.post(&resume, &[]).await.ok();
    assert_eq!(waiting["status"], "paused");
    let invoice = world.latest_invoice(&text(&subscription, "id")).await;
    assert_eq!(
        (&invoice["status"], &invoice["total"]),
        (&"open".into(), &1_000.into())
    );
    let attach = [("customer", customer.as_str())];
    let method = world
        .post("/v1/payment_methods/pm_card_visa/attach", &attach)
        .await
        .ok();
    let pay = format!("/v1/invoices/{}/pay", text(&invoice, "id"));
    let method = text(&method, "id");
    world.post(&pay, &[("payment_method", &method)]).await.ok();
    let resumed = world.get(&path, &[]).await.ok();
    assert_eq!(resumed["status"], "active");
    assert_eq!(resumed["billing_cycle_anchor"], START + 15 * DAY);
    let types = world.event_types().await;
    assert!(
        types
            .iter()
            .any(|kind| kind == "customer.subscription.resumed")
    );
    world.post(&resume, &[]).await.error(400);
}

async fn pending(world: &World) -> (String, String, String, Value, String) {
    let (small, large) = (world.price(1_000).await, world.price(3_000).await);
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &small, "flexible").await;
    let attach = [("customer", customer.as_str())];
    let poor = world
        .post(
            "/v1/payment_methods/pm_card_chargeCustomerFail/attach",
            &attach,
        )
        .await
        .ok();
    let default = [(
        "invoice_settings[default_payment_method]",
        poor["id"].as_str().expect("an id"),
    )];
    world
        .post(&format!("/v1/customers/{customer}"), &default)
        .await
        .ok();
    let id = text(&subscription, "id");
    let (item, path) = (item(&subscription), format!("/v1/subscriptions/{id}"));
    let fields = [
        ("items[0][id]", item.as_str()),
        ("items[0][price]", large.as_str()),
        ("proration_behavior", "always_invoice"),
        ("payment_behavior", "pending_if_incomplete"),
    ];
    let waiting = world.post(&path, &fields).await.ok();
    (clock, customer, small, waiting, large)
}

#[tokio::test]
async fn a_pending_update_is_applied_once_paid() {
    let world = World::new().await;
    let (_, customer, small, waiting, large) = pending(&world).await;
    assert_eq!(waiting["status"], "active");
    assert_eq!(waiting["items"]["data"][0]["price"]["id"], small.as_str());
    let update = &waiting["pending_update"];
    assert_eq!(update["expires_at"], START + 23 * 3_600);
    assert_eq!(
        update["subscription_items"][0]["price"]["id"],
        large.as_str()
    );
    let invoice = world.invoice(&text(&waiting, "latest_invoice")).await;
    assert_eq!(
        (&invoice["status"], &invoice["total"]),
        (&"open".into(), &2_000.into())
    );
    // A change of metadata does not affect the pending update.
    let path = format!("/v1/subscriptions/{}", text(&waiting, "id"));
    let worded = world.post(&path, &[("metadata[a]", "b")]).await.ok();
    assert!(worded["pending_update"].is_object());
    let attach = [("customer", customer.as_str())];
    let rich = world
        .post("/v1/payment_methods/pm_card_visa/attach", &attach)
        .await
        .ok();
    let pay = format!("/v1/invoices/{}/pay", text(&invoice, "id"));
    let rich = text(&rich, "id");
    world.post(&pay, &[("payment_method", &rich)]).await.ok();
    let made = world.subscription(&text(&waiting, "id")).await;
    assert_eq!(made["pending_update"], Value::Null);
    assert_eq!(made["items"]["data"][0]["price"]["id"], large.as_str());
    let types = world.event_types().await;
    let applied = "customer.subscription.pending_update_applied";
    assert!(types.iter().any(|kind| kind == applied));
}

#[tokio::test]
async fn a_pending_update_is_discarded_if_not_paid_in_time() {
    let world = World::new().await;
    let (clock, _, small, waiting, _) = pending(&world).await;
    world.advance(&clock, START + DAY).await;
    let after = world.subscription(&text(&waiting, "id")).await;
    assert_eq!(after["pending_update"], Value::Null);
    assert_eq!(after["status"], "active");
    assert_eq!(after["items"]["data"][0]["price"]["id"], small.as_str());
    let invoice = world.invoice(&text(&waiting, "latest_invoice")).await;
    assert_eq!(invoice["status"], "void");
    let types = world.event_types().await;
    let expired = "customer.subscription.pending_update_expired";
    assert_eq!(types.iter().filter(|kind| *kind == expired).count(), 1);
    let path = format!("/v1/subscriptions/{}", text(&waiting, "id"));
    let fields = [
        ("payment_behavior", "pending_if_incomplete"),
        ("cancel_at_period_end", "true"),
    ];
    let error = world.post(&path, &fields).await.error(400);
    assert_eq!(error["param"], "cancel_at_period_end");
}

#[tokio::test]
async fn a_pending_update_ends_with_its_invoice_and_with_its_subscription() {
    for voids in [true, false] {
        let world = World::new().await;
        let (_, _, small, waiting, _) = pending(&world).await;
        let id = text(&waiting, "id");
        let invoice = text(&waiting, "latest_invoice");
        if voids {
            let path = format!("/v1/invoices/{invoice}/void");
            world.post(&path, &[]).await.ok();
        } else {
            let path = format!("/v1/subscriptions/{id}");
            world.delete(&path, &[]).await.ok();
        }
        let after = world.subscription(&id).await;
        assert_eq!(after["pending_update"], Value::Null);
        assert_eq!(after["items"]["data"][0]["price"]["id"], small.as_str());
        assert_eq!(world.invoice(&invoice).await["status"], "void");
    }
}

#[tokio::test]
async fn subscriptions_have_the_fields_of_their_version() {
    for version in [None, Some(OLD), Some("2026-08-26.dahlia")] {
        let mut world = World::new().await;
        world.version = version;
        let price = world.price(1_000).await;
        let clock = world.clock(START).await;
        let customer = world.customer(&clock, "pm_card_visa").await;
        let subscription = world.subscribe(&customer, &price, "classic").await;
        assert_eq!(subscription["plan"]["id"], price.as_str());
        assert_eq!(subscription["quantity"], 1);
        assert_eq!(subscription["billing_schedules"], serde_json::json!([]));
        assert_eq!(subscription["billing_mode"]["type"], "classic");
        let has = |key: &str| subscription.get(key).is_some();
        assert!(has("customer_account") && has("managed_payments"));
        let item = &subscription["items"]["data"][0];
        assert_eq!(item.get("current_trial"), Some(&Value::Null));
        let end = START + 28 * DAY;
        assert_eq!(item["current_period_end"], end);
        let old = version == Some(OLD);
        assert_eq!(has("current_period_end"), old);
        if old {
            assert_eq!(subscription["current_period_end"], end);
        }
    }
}
