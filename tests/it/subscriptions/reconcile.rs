//! `subscriptions reconcile`: what differs from Stripe is told, and healed.

use serde_json::{Value, json};
use valuecanvas_billing::catalogue::{self, Catalogue};
use valuecanvas_billing::stripe::client::Client;

use super::world::{VISA, World, text};
use crate::support::program::{Ran, program_with_stripe, run_beside, run_on};

pub async fn reconcile(world: &World, arguments: &[&str]) -> Ran {
    let arguments = [&["subscriptions", "reconcile", "--json"], arguments].concat();
    let command = program_with_stripe(&world.service.db, &world.stripe.sandbox.url(), &arguments);
    run_beside(command).await
}

pub fn kinds(ran: &Ran) -> Vec<(String, bool)> {
    let report = ran.json();
    let drift = report["drift"].as_array().unwrap().clone();
    drift
        .iter()
        .map(|drift| (text(drift, "kind"), drift["healed"] == json!(true)))
        .collect()
}

#[tokio::test]
async fn what_our_own_changes_left_is_no_drift() {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("standard").await.ok();
    world.change("enterprise").await.ok();
    world.settle().await;
    let ran = reconcile(&world, &[]).await;
    assert_eq!((ran.status, kinds(&ran)), (0, vec![]), "{}", ran.stdout);
    assert_eq!(ran.json()["compared"], 1);
}

#[tokio::test]
async fn what_webhooks_never_told_is_reported_and_healed() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    world.deliver_nothing().await;
    // Somebody works in the dashboard.
    let id = text(&world.stripe.subscriptions(&customer).await[0], "id");
    let path = format!("/v1/subscriptions/{id}");
    world
        .stripe
        .post(&path, &[("cancel_at_period_end", "true")])
        .await;

    let ran = reconcile(&world, &[]).await;
    assert_eq!(
        (ran.status, kinds(&ran)),
        (1, vec![("differs".into(), false)])
    );
    let differences = ran.json()["drift"][0]["differences"].to_string();
    assert!(
        differences.contains("cancel at period end: false, true"),
        "{differences}"
    );
    let ran = reconcile(&world, &["--apply"]).await;
    assert_eq!(
        (ran.status, kinds(&ran)),
        (0, vec![("differs".into(), true)])
    );
    assert_eq!(world.current().await["cancelAtPeriodEnd"], true);
    let audit = world.audit().await;
    assert_eq!(audit.last().unwrap(), "subscription_reconciled system");
    assert_eq!(kinds(&reconcile(&world, &[]).await), []);
}

#[tokio::test]
async fn a_subscription_that_was_made_elsewhere_is_taken_over() {
    let world = World::start().await;
    world.deliver_nothing().await;
    let customer = world.customer(VISA).await;
    let price = world.stripe.price("standard", "9900").await;
    let fields = [
        ("customer", &*customer),
        ("items[0][price]", &*text(&price, "id")),
    ];
    world.stripe.post("/v1/subscriptions", &fields).await;
    let ran = reconcile(&world, &["--apply"]).await;
    assert_eq!(
        (ran.status, kinds(&ran)),
        (0, vec![("missing_here".into(), true)])
    );
    assert_eq!(world.plan().await, ("standard".into(), "standard".into()));
    assert_eq!(kinds(&reconcile(&world, &[]).await), []);
}

#[tokio::test]
async fn what_only_people_can_judge_stays_as_it_is() {
    let world = World::start().await;
    let db = &world.service.db;
    world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    db.execute("UPDATE billing_subscriptions SET stripe_subscription_id = 'sub_gone'")
        .await;
    db.execute("UPDATE billing_subscription_items SET stripe_subscription_id = 'sub_gone'")
        .await;
    let organization = world.organization.to_string();
    world
        .stripe
        .post(
            "/v1/customers",
            &[("metadata[organization_id]", &*organization)],
        )
        .await;
    let ran = reconcile(&world, &["--apply"]).await;
    let expected = [
        ("missing_here", true),
        ("missing_in_stripe", false),
        ("stray_customer", false),
    ];
    assert_eq!(ran.status, 1, "{}", ran.stdout);
    assert_eq!(
        kinds(&ran),
        expected.map(|(kind, healed)| (kind.to_owned(), healed))
    );
    let text = run_on(db, &["subscriptions", "reconcile"]).await;
    assert_eq!(text.status, 2, "it needs a key");
    assert!(matches!(ran.json(), Value::Object(_)));
}

/// The subscription that the organization has in Stripe.
async fn subscribed() -> (World, String, String) {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    world.settled_in_the_background().await;
    world.deliver_nothing().await;
    let id = text(&world.stripe.subscriptions(&customer).await[0], "id");
    (world, customer, id)
}

/// Finds `field` to differ, heals it, and finds nothing more.
pub async fn found_and_healed(world: &World, kind: &str, field: &str) {
    let ran = reconcile(world, &[]).await;
    let report = ran.json();
    let drift = report["drift"].as_array().unwrap();
    let names = |one: &Value| {
        one["kind"] == json!(kind)
            && one["fix"]
                .as_str()
                .is_some_and(|fix| fix.contains("--apply"))
            && one["differences"]
                .as_array()
                .unwrap()
                .iter()
                .any(|difference| difference.as_str().unwrap().contains(field))
    };
    assert!(
        ran.status == 1 && drift.iter().any(names),
        "{field}: {report:#}"
    );
    let ran = reconcile(world, &["--apply"]).await;
    assert_eq!(ran.status, 0, "{field}: {}", ran.stdout);
    let ran = reconcile(world, &[]).await;
    assert_eq!(
        (ran.status, kinds(&ran)),
        (0, vec![]),
        "{field}: {}",
        ran.stdout
    );
    // What was read in the second of an answer is read once more, and would heal the next one.
    world.settled_in_the_background().await;
}

#[tokio::test]
async fn all_that_is_mirrored_is_compared() {
    let (world, customer, id) = subscribed().await;
    let path = format!("/v1/subscriptions/{id}");
    let subscription = world.stripe.get(&path, &[]).await;
    let item = text(&subscription["items"]["data"][0], "id");
    let end = subscription["items"]["data"][0]["current_period_end"].to_string();

    world.stripe.post(&path, &[("cancel_at", &end)]).await;
    found_and_healed(&world, "differs", "cancel at").await;
    assert!(!world.current().await["cancelAt"].is_null());
    world.stripe.post(&path, &[("cancel_at", "")]).await;
    found_and_healed(&world, "differs", "cancel at").await;
    let fields = [
        ("items[0][id]", &*item),
        ("items[0][quantity]", "5"),
        ("proration_behavior", "none"),
    ];
    world.stripe.post(&path, &fields).await;
    found_and_healed(&world, "differs", "item si_").await;
    // Now is to be another second than that of its creation.
    let made = subscription["created"].as_i64().unwrap();
    while jiff::Timestamp::now().as_second() <= made {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let fields = [
        ("billing_cycle_anchor", "now"),
        ("proration_behavior", "none"),
    ];
    world.stripe.post(&path, &fields).await;
    found_and_healed(&world, "differs", "anchor").await;
    for (column, field) in [("trial_start", "trial start"), ("trial_end", "trial end")] {
        let wrong = format!("UPDATE billing_subscriptions SET {column} = now()");
        world.service.db.execute(&wrong).await;
        found_and_healed(&world, "differs", field).await;
    }

    // Another card, and the one that was there goes.
    world.stripe.use_card(&customer, "pm_card_mastercard").await;
    found_and_healed(&world, "payment_method", "status: none, attached").await;
    let methods = world
        .stripe
        .list(&format!("/v1/customers/{customer}/payment_methods"), &[])
        .await;
    let visa = methods
        .iter()
        .find(|one| one["card"]["brand"] == "visa")
        .unwrap();
    let detach = format!("/v1/payment_methods/{}/detach", text(visa, "id"));
    world.stripe.post(&detach, &[]).await;
    found_and_healed(&world, "payment_method", "status: attached, detached").await;
}

#[tokio::test]
async fn invoices_that_webhooks_never_told_of_are_healed() {
    let (world, customer, _) = subscribed().await;
    let db = &world.service.db;
    // Ours says otherwise than Stripe's.
    db.execute("UPDATE billing_invoices SET status = 'open', amount_paid = 0, last_event_at = now() - interval '1 hour', last_event_rank = 0")
        .await;
    found_and_healed(&world, "invoice", "status: open, paid").await;
    let fields = [
        ("customer", &*customer),
        ("amount", "700"),
        ("currency", "usd"),
    ];
    world.stripe.post("/v1/invoiceitems", &fields).await;
    let invoice = world
        .stripe
        .post("/v1/invoices", &[("customer", &*customer)])
        .await;
    let finalize = format!("/v1/invoices/{}/finalize", text(&invoice, "id"));
    world.stripe.post(&finalize, &[]).await;
    found_and_healed(&world, "invoice", "status: none, ").await;
    let stored = format!(
        "billing_invoices WHERE stripe_invoice_id = '{}'",
        text(&invoice, "id")
    );
    assert_eq!(db.count(&stored).await, 1);
}

#[tokio::test]
async fn two_subscriptions_are_named_and_cancelling_says_which_one_goes_on() {
    let (world, customer, first) = subscribed().await;
    let price = world.stripe.price("enterprise", "49900").await;
    let fields = [
        ("customer", &*customer),
        ("items[0][price]", &*text(&price, "id")),
    ];
    let second = text(&world.stripe.post("/v1/subscriptions", &fields).await, "id");
    let ran = reconcile(&world, &["--apply"]).await;
    assert_eq!(ran.status, 1, "{}", ran.stdout);
    let report = ran.json();
    let drift = report["drift"].as_array().unwrap();
    let double = drift
        .iter()
        .find(|one| one["kind"] == "two_subscriptions")
        .unwrap();
    let ids = text(double, "id");
    assert!(ids.contains(&first) && ids.contains(&second), "{ids}");
    let current = world.current().await;
    assert_eq!(current["stripeSubscriptionId"], json!(second));
    assert_eq!(
        current["otherSubscriptions"][0]["stripeSubscriptionId"],
        json!(first)
    );

    let canceled = world.cancel(true).await.ok();
    assert_eq!(canceled["stripeSubscriptionId"], json!(second));
    assert_eq!(canceled["status"], "canceled");
    assert_eq!(canceled["planTier"], "standard", "by the one that goes on");
    assert_eq!(
        canceled["otherSubscriptions"][0]["stripeSubscriptionId"],
        json!(first)
    );
    assert_eq!(world.cancel(true).await.ok()["planTier"], "free");
}

#[tokio::test]
async fn a_price_that_the_catalogue_does_not_know_is_a_finding() {
    let world = World::start().await;
    world.deliver_nothing().await;
    let customer = world.customer(VISA).await;
    let fields = [
        ("currency", "usd"),
        ("unit_amount", "9900"),
        ("recurring[interval]", "month"),
        ("product_data[name]", "Handmade"),
    ];
    let price = text(&world.stripe.post("/v1/prices", &fields).await, "id");
    let fields = [("customer", &*customer), ("items[0][price]", &*price)];
    let id = text(&world.stripe.post("/v1/subscriptions", &fields).await, "id");
    let ran = reconcile(&world, &["--apply"]).await;
    assert_eq!(ran.status, 1, "{}", ran.stdout);
    let report = ran.json();
    let drift = report["drift"].as_array().unwrap();
    let unknown = drift
        .iter()
        .find(|one| one["kind"] == "unknown_price")
        .unwrap();
    assert_eq!(unknown["id"], json!(id));
    assert_eq!(
        unknown["differences"],
        json!([format!("not in the catalogue: {price}")])
    );
    assert!(text(unknown, "fix").contains("PLANS_FILE"));
}

#[tokio::test]
async fn two_items_that_bill_one_metric_are_a_finding() {
    let world = World::start().await;
    let api = world.stripe.api();
    let client = Client::new(api.base, api.key, api.patience).unwrap();
    let catalogue = Catalogue::load(None).unwrap();
    catalogue::sync(&client, &catalogue, false).await.unwrap();
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let subscription = world.stripe.subscriptions(&customer).await.remove(0);
    let items = subscription["items"]["data"].as_array().unwrap();
    let sold = items
        .iter()
        .find(|item| item["price"]["lookup_key"] == "valuecanvas_standard_monthly_api_calls");
    let sold = &sold.unwrap()["price"];
    let meter = text(&sold["recurring"], "meter");
    let fields = [
        ("currency", "usd"),
        ("unit_amount", "1"),
        ("recurring[interval]", "month"),
        ("recurring[usage_type]", "metered"),
        ("recurring[meter]", &*meter),
        ("product", &*text(sold, "product")),
    ];
    // As one of another version of the plan.
    let other = text(&world.stripe.post("/v1/prices", &fields).await, "id");
    world
        .service
        .db
        .execute(&format!(
            "INSERT INTO billing_prices (stripe_price_id, plan_tier, metric)
             VALUES ('{other}', 'standard', 'api_calls')"
        ))
        .await;
    let id = text(&subscription, "id");
    let fields = [("subscription", &*id), ("price", &*other)];
    world.stripe.post("/v1/subscription_items", &fields).await;
    world.settle().await;
    world.settled_in_the_background().await;
    let ran = reconcile(&world, &["--apply"]).await;
    let report = ran.json();
    let drift = report["drift"].as_array().unwrap();
    let found = drift.iter().find(|one| one["kind"] == "two_metered_items");
    let found = found.unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!((ran.status, &found["id"]), (1, &json!(id)));
    let named = found["differences"][0].as_str().unwrap();
    assert!(named.starts_with("api_calls: si_"), "{found:#}");
    assert!(text(found, "fix").contains("all but one"), "{found:#}");
}
