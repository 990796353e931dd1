//! `subscriptions reconcile`: charges, refunds, disputes and old invoices.

use serde_json::{Value, json};

use super::reconcile::{found_and_healed, kinds, reconcile};
use super::world::{VISA, World, text};

/// A subscription, paid, of which webhooks tell nothing any more.
async fn paid(card: &str) -> (World, Value) {
    let world = World::start().await;
    world.customer(card).await;
    world.create("standard").await.ok();
    world.settle().await;
    world.deliver_nothing().await;
    let charge = world.stripe.list("/v1/charges", &[]).await.remove(0);
    (world, charge)
}

/// Waits until what happens next has another time than what has happened. Returns a time
/// between.
async fn another_second() -> i64 {
    let now = jiff::Timestamp::now().as_second() + 1;
    while jiff::Timestamp::now().as_second() <= now {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    now
}

#[tokio::test]
async fn refunds_that_webhooks_never_told_of_are_healed() {
    let (world, charge) = paid(VISA).await;
    let id = text(&charge, "id");
    let refund = [("charge", &*id), ("amount", "700")];
    world.stripe.post("/v1/refunds", &refund).await;
    found_and_healed(&world, "charge", "refunded: 0, 700").await;
    let refund = [("charge", &*id)];
    world.stripe.post("/v1/refunds", &refund).await;
    found_and_healed(&world, "charge", "refunded: 700, 9900").await;
    let db = &world.service.db;
    assert_eq!(db.count("billing_charges WHERE refunded").await, 1);
    assert_eq!(
        db.count("billing_audit_log WHERE action = 'charge_refunded'")
            .await,
        2
    );
}

#[tokio::test]
async fn charges_that_webhooks_never_told_of_are_healed() {
    let (world, charge) = paid(VISA).await;
    let db = &world.service.db;
    db.execute("DELETE FROM billing_charges").await;
    found_and_healed(&world, "charge", "status: none, succeeded").await;
    let stored = format!(
        "billing_charges WHERE stripe_charge_id = '{}' AND amount = 9900",
        text(&charge, "id")
    );
    assert_eq!(db.count(&stored).await, 1);
}

#[tokio::test]
async fn refunds_that_failed_unheard_are_found_and_somebody_hears_of_them() {
    let (world, charge) = paid(VISA).await;
    let id = text(&charge, "id");
    let made = world.stripe.post("/v1/refunds", &[("charge", &*id)]).await;
    found_and_healed(&world, "charge", "refunded: 0, 9900").await;
    another_second().await;
    let fail = format!("/_sandbox/refunds/{}/fail", text(&made, "id"));
    world.stripe.post(&fail, &[]).await;
    let ran = reconcile(&world, &["--apply"]).await;
    let healed = ["charge", "refund"].map(|kind| (kind.to_owned(), true));
    assert_eq!(kinds(&ran), healed, "{}", ran.stdout);
    assert_eq!(kinds(&reconcile(&world, &[]).await), []);
    let db = &world.service.db;
    let shown = "SELECT amount_refunded || ' ' || status FROM billing_charges
                   JOIN (SELECT status AS refund, stripe_charge_id FROM billing_refunds) r
                  USING (stripe_charge_id) WHERE NOT refunded AND refund = 'failed'";
    assert_eq!(db.value(shown).await, "0 succeeded");
    assert_eq!(
        db.count("billing_alerts WHERE kind = 'refund_failed'")
            .await,
        1
    );
}

#[tokio::test]
async fn disputes_that_webhooks_never_told_of_are_healed() {
    let (world, _) = paid("pm_card_createDispute").await;
    let db = &world.service.db;
    assert_eq!(db.count("billing_disputes").await, 1);
    let dispute = text(&world.stripe.list("/v1/disputes", &[]).await[0], "id");
    let win = format!("/_sandbox/disputes/{dispute}/win");
    world.stripe.post(&win, &[]).await;
    found_and_healed(&world, "dispute", "status: needs_response, won").await;
    db.execute("DELETE FROM billing_disputes").await;
    found_and_healed(&world, "dispute", "status: none, won").await;
    assert_eq!(db.value("SELECT status FROM billing_disputes").await, "won");
}

#[tokio::test]
async fn what_is_old_is_left_alone_unless_it_is_open_here() {
    let (world, _) = paid(VISA).await;
    let db = &world.service.db;
    let now = another_second().await;
    let since = format!("--since={}", jiff::Timestamp::from_second(now).unwrap());
    let wrong = "UPDATE billing_invoices SET total_amount = 1, last_event_rank = 0,
                        last_event_at = now() - interval '1 hour'";
    db.execute(wrong).await;
    let ran = reconcile(&world, &[&since]).await;
    assert_eq!((ran.status, kinds(&ran)), (0, vec![]), "{}", ran.stdout);
    assert_eq!(reconcile(&world, &[]).await.status, 1);
    db.execute("UPDATE billing_invoices SET status = 'open'")
        .await;
    let ran = reconcile(&world, &[&since, "--apply"]).await;
    assert_eq!(
        (ran.status, kinds(&ran)),
        (0, vec![("invoice".to_owned(), true)]),
        "{}",
        ran.stdout
    );
    assert_eq!(
        db.value("SELECT status || ' ' || total_amount FROM billing_invoices")
            .await,
        "paid 9900"
    );
    // One that Stripe does not have is for people to judge.
    db.execute("UPDATE billing_invoices SET status = 'open', stripe_invoice_id = 'in_gone'")
        .await;
    let ran = reconcile(&world, &[&since, "--apply"]).await;
    assert_eq!(kinds(&ran), [("invoice".to_owned(), false)]);
    assert!(text(&ran.json()["drift"][0], "fix").contains("the right account"));
    let wrong = reconcile(&world, &["--since", "soon"]).await;
    assert_eq!(wrong.status, 2);
    assert_eq!(json!(wrong.stdout), json!(""));
}
