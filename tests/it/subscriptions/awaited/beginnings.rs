//! A first subscription that waits for its payer.

use serde_json::{Value, json};

use super::{ASKS, required};
use crate::subscriptions::world::{World, text};

async fn world() -> (World, String) {
    let world = World::start().await;
    let customer = world.customer(ASKS).await;
    (world, customer)
}

#[tokio::test]
async fn it_is_active_once_it_is_paid() {
    let (world, customer) = world().await;
    let asked = required(world.create("standard").await);
    assert_eq!(asked["pendingChange"]["planTier"], "standard");
    for _ in 0..2 {
        let current = world.current().await;
        assert_eq!(
            (&current["planTier"], &current["status"]),
            (&json!("free"), &json!("incomplete"))
        );
        assert_eq!(current["pendingChange"], asked["pendingChange"]);
        assert_eq!(world.plan().await, ("free".into(), "free".into()));
        world.settle().await;
    }
    assert_eq!(required(world.create("standard").await), asked);
    let other = world.create("enterprise").await;
    assert_eq!(other.problem(), (409, "subscription_incomplete"));

    world.authenticate(&asked, "succeed").await;
    world.mirrored().await;
    let current = world.current().await;
    assert_eq!(
        (
            &current["planTier"],
            &current["status"],
            &current["pendingChange"]
        ),
        (&json!("standard"), &json!("active"), &Value::Null)
    );
    assert_eq!(world.plan().await, ("standard".into(), "standard".into()));
    assert_eq!(world.charged(&customer).await, [9_900]);
}

#[tokio::test]
async fn asked_for_again_it_is_mirrored_before_its_webhook() {
    let (world, customer) = world().await;
    let asked = required(world.create("standard").await);
    world.settle().await;
    world.deliver_nothing().await;
    world.authenticate(&asked, "succeed").await;
    let done = world.create("standard").await;
    assert_eq!((done.status, &done.body["status"]), (201, &json!("active")));
    assert_eq!(world.plan().await, ("standard".into(), "standard".into()));
    world.deliver_again().await;
    world.settle().await;
    assert_eq!(world.current().await, done.body);
    assert_eq!(world.stripe.subscriptions(&customer).await.len(), 1);
}

#[tokio::test]
async fn a_payer_who_fails_can_pay_with_another_card_on_stripes_page() {
    let (world, customer) = world().await;
    let asked = required(world.create("standard").await);
    world.authenticate(&asked, "fail").await;
    world.mirrored().await;
    assert_eq!(world.plan().await.0, "free");
    let asked = required(world.create("standard").await);
    let url = text(&asked["nextAction"], "hostedInvoiceUrl");
    let http = valuecanvas_billing::http_client::direct_client().unwrap();
    let page = async |action: &str, number: &str| {
        let form = [("action", action), ("number", number)];
        let answer = http.post(&url).form(&form).send().await.unwrap();
        answer.text().await.unwrap()
    };
    let challenge = page("pay", "4000002760003184").await;
    assert!(challenge.contains("asks you to confirm"), "{challenge}");
    let failed = page("refuse", "").await;
    assert!(failed.contains("role=\"alert\""), "{failed}");
    let paid = page("pay", "4242424242424242").await;
    assert!(paid.contains("This invoice is paid"), "{paid}");
    world.mirrored().await;
    assert_eq!(world.plan().await.0, "standard");
    assert_eq!(world.charged(&customer).await, [9_900]);
}

#[tokio::test]
async fn called_off_it_ends_and_cannot_be_paid() {
    let (world, customer) = world().await;
    let asked = required(world.create("standard").await);
    let ended = world.call_off().await.ok();
    assert_eq!(
        (
            &ended["planTier"],
            &ended["status"],
            &ended["pendingChange"]
        ),
        (&json!("free"), &Value::Null, &Value::Null)
    );
    let invoice = text(&asked["pendingChange"], "stripeInvoiceId");
    let path = format!("/v1/invoices/{invoice}");
    assert_eq!(world.stripe.get(&path, &[]).await["status"], "void");
    world.settle().await;
    assert_eq!(world.call_off().await.problem(), (404, "no_pending_change"));
    world.stripe.use_card(&customer, "pm_card_visa").await;
    world.create("enterprise").await.ok();
    assert_eq!(world.charged(&customer).await, [49_900]);
}
