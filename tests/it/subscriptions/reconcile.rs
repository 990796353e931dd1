//! `subscriptions reconcile`: what differs from Stripe is told, and healed.

use serde_json::{Value, json};

use super::world::{KEY, VISA, World, text};
use crate::support::program::{Ran, program_on, run};

async fn reconcile(world: &World, arguments: &[&str]) -> Ran {
    let arguments = [&["subscriptions", "reconcile", "--json"], arguments].concat();
    let mut command = program_on(&world.service.db, &arguments);
    command
        .env("STRIPE_SECRET_KEY", KEY)
        .env("STRIPE_WEBHOOK_SECRET", "whsec_secret")
        .env("STRIPE_API_BASE", world.stripe.sandbox.url());
    tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .unwrap()
}

fn kinds(ran: &Ran) -> Vec<(String, bool)> {
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
    assert_eq!(
        ran.json()["drift"][0]["differences"],
        json!(["cancel at period end: false, true"])
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
    let text = run(&mut program_on(db, &["subscriptions", "reconcile"]));
    assert_eq!(text.status, 2, "it needs a key");
    assert!(matches!(ran.json(), Value::Object(_)));
}
