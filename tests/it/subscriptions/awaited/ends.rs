//! How a change that waits for its payer ends without one.

use serde_json::Value;

use super::required;
use crate::subscriptions::world::{DAY, START, World, text};

/// The plan is as it was, nothing is pending, and nothing more was charged.
async fn unchanged(world: &World, customer: &str, asked: &Value) {
    let current = world.current().await;
    assert_eq!(current["planTier"], "standard");
    assert_eq!(current["pendingChange"], Value::Null);
    assert_eq!(world.plan().await, ("standard".into(), "standard".into()));
    let invoice = text(&asked["pendingChange"], "stripeInvoiceId");
    let invoice = world
        .stripe
        .get(&format!("/v1/invoices/{invoice}"), &[])
        .await;
    assert_eq!(invoice["status"], "void");
    assert_eq!(world.charged(customer).await, [9_900]);
}

#[tokio::test]
async fn it_expires_after_a_day_less_an_hour() {
    let (world, clock, customer) = World::asking(START).await;
    let asked = required(world.change("enterprise").await);
    world.stripe.advance(&clock, START + 22 * 3_600).await;
    world.settle().await;
    assert_eq!(
        world.current().await["pendingChange"],
        asked["pendingChange"]
    );
    world.stripe.advance(&clock, START + DAY).await;
    world.settle().await;
    unchanged(&world, &customer, &asked).await;
    // It can be asked for anew.
    let anew = required(world.change("enterprise").await);
    assert_ne!(anew["pendingChange"], asked["pendingChange"]);
}

#[tokio::test]
async fn it_ends_with_the_period_which_renews_as_it_was() {
    let (world, clock, customer) = World::asking(START).await;
    let renewal = START + 28 * DAY;
    world.stripe.advance(&clock, renewal - 3_600).await;
    world.settle().await;
    let asked = required(world.change("enterprise").await);
    let expires = crate::subscriptions::world::seconds(&asked["nextAction"]["expiresAt"]);
    assert_eq!(expires, renewal);
    world.stripe.use_card(&customer, "pm_card_visa").await;
    world.stripe.advance(&clock, renewal + 7_200).await;
    world.settle().await;
    assert_eq!(world.plan().await.0, "standard");
    assert_eq!(world.current().await["pendingChange"], Value::Null);
    assert_eq!(world.charged(&customer).await, [9_900, 9_900]);
}

#[tokio::test]
async fn called_off_its_invoice_is_void_at_once() {
    let (world, _, customer) = World::asking(START).await;
    let asked = required(world.change("enterprise").await);
    world.deliver_nothing().await;
    world.call_off().await.ok();
    unchanged(&world, &customer, &asked).await;
    world.deliver_again().await;
    world.settle().await;
    unchanged(&world, &customer, &asked).await;
    assert_eq!(world.call_off().await.problem(), (404, "no_pending_change"));
    let audit = world.audit().await;
    let entry = "subscription_change_called_off user";
    assert_eq!(audit.iter().filter(|one| *one == entry).count(), 1);
}

#[tokio::test]
async fn who_pays_before_it_is_called_off_has_it() {
    let (world, _, customer) = World::asking(START).await;
    let asked = required(world.change("enterprise").await);
    world.settle().await;
    world.deliver_nothing().await;
    world.authenticate(&asked, "succeed").await;
    assert_eq!(world.call_off().await.problem(), (404, "no_pending_change"));
    assert_eq!(world.current().await["planTier"], "enterprise");
    assert_eq!(world.charged(&customer).await.len(), 2);
}

#[tokio::test]
async fn whoever_voids_its_invoice_ends_it() {
    let (world, _, customer) = World::asking(START).await;
    let asked = required(world.change("enterprise").await);
    let invoice = text(&asked["pendingChange"], "stripeInvoiceId");
    let path = format!("/v1/invoices/{invoice}/void");
    world.stripe.post(&path, &[]).await;
    world.mirrored().await;
    unchanged(&world, &customer, &asked).await;
}

#[tokio::test]
async fn a_subscription_that_is_canceled_leaves_nothing_to_pay() {
    let (world, _, customer) = World::asking(START).await;
    let asked = required(world.change("enterprise").await);
    world.cancel(true).await.ok();
    world.settle().await;
    let invoice = text(&asked["pendingChange"], "stripeInvoiceId");
    let path = format!("/v1/invoices/{invoice}");
    assert_eq!(world.stripe.get(&path, &[]).await["status"], "void");
    assert_eq!(world.plan().await.0, "free");
    assert_eq!(world.charged(&customer).await, [9_900]);
}

#[tokio::test]
async fn what_the_bank_has_is_called_off_by_nobody() {
    for outcome in ["succeed", "fail"] {
        let (world, _, customer) = World::asking(START).await;
        let asked = required(world.change("enterprise").await);
        world.settle().await;
        world.authenticate(&asked, "process").await;
        for refused in [world.call_off().await, world.cancel(true).await] {
            assert_eq!(refused.problem(), (409, "payment_processing"));
        }
        let current = world.current().await;
        assert_eq!(current["pendingChange"], asked["pendingChange"]);
        assert_eq!(world.charged(&customer).await, [9_900]);
        // The bank decides.
        let secret = text(&asked["nextAction"], "clientSecret");
        let (intent, _) = secret.split_once("_secret_").unwrap();
        let path = format!("/_sandbox/payment_intents/{intent}/authenticate");
        world.stripe.post(&path, &[("outcome", outcome)]).await;
        world.mirrored().await;
        if outcome == "fail" {
            world.call_off().await.ok();
        }
        let (plan, invoices) = match outcome {
            "succeed" => ("enterprise", 2),
            _ => ("standard", 1),
        };
        assert_eq!(world.current().await["planTier"], plan);
        assert_eq!(world.charged(&customer).await.len(), invoices);
    }
}
