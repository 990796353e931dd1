//! Payments that need their payer: the change waits, and is made once it is paid.

mod beginnings;
mod ends;
mod lost;
mod money;

use reqwest::Method;
use serde_json::{Value, json};

use super::world::{Answer, START, SUBSCRIPTION, World, text};

pub const ASKS: &str = "pm_card_authenticationRequired";

impl World {
    /// On the plan standard, with a card whose bank asks its holder; and the customer.
    pub async fn asking(at: i64) -> (Self, String, String) {
        let (world, clock, customer) = World::on_clock(at).await;
        world.create("standard").await.ok();
        world.settle().await;
        world.stripe.use_card(&customer, ASKS).await;
        (world, clock, customer)
    }

    /// The payer pays, and the bank lets them.
    pub async fn authenticate(&self, required: &Value, outcome: &str) {
        let secret = text(&required["nextAction"], "clientSecret");
        let (intent, _) = secret.split_once("_secret_").unwrap();
        let path = format!("/v1/payment_intents/{intent}");
        if self.stripe.get(&path, &[]).await["status"] != "requires_action" {
            self.stripe.post(&format!("{path}/confirm"), &[]).await;
        }
        let path = format!("/_sandbox/payment_intents/{intent}/authenticate");
        self.stripe.post(&path, &[("outcome", outcome)]).await;
    }

    /// Waits until every webhook is processed, and what Stripe told in the second of an
    /// answer of ours is read once more.
    pub async fn mirrored(&self) {
        self.settle().await;
        self.settled_in_the_background().await;
        self.settle().await;
    }

    /// What was charged, in order.
    pub async fn charged(&self, customer: &str) -> Vec<i64> {
        let invoices = self.stripe.invoices(customer).await;
        let paid = invoices.iter().filter(|one| one["status"] == "paid");
        paid.map(|one| one["amount_paid"].as_i64().unwrap())
            .collect()
    }
}

/// The body of a 202.
#[track_caller]
pub fn required(answer: Answer) -> Value {
    assert_eq!(answer.status, 202, "{answer:#?}");
    assert_eq!(answer.body["status"], "requires_action");
    assert_eq!(answer.body["pendingChange"]["when"], "paid");
    let url = text(&answer.body["nextAction"], "hostedInvoiceUrl");
    assert!(url.contains("/i/in_"), "{url}");
    answer.body
}

#[tokio::test]
async fn a_change_waits_and_costs_what_was_shown() {
    let (world, clock, customer) = World::asking(START).await;
    world.stripe.advance(&clock, START + 10 * 86_400).await;
    world.settle().await;
    // The first plan is assigned by whichever comes first, our answer or its webhook.
    let before = world.audit().await.len();
    let shown = world.preview("enterprise").await.ok();
    let asked = required(world.change_as(&shown).await);
    assert_eq!(asked["pendingChange"]["planTier"], "enterprise");
    let expires = super::world::seconds(&asked["nextAction"]["expiresAt"]);
    assert_eq!(expires, START + 10 * 86_400 + 23 * 3_600);

    // Until it is paid, the plan stays, before and after the webhooks.
    for _ in 0..2 {
        let current = world.current().await;
        assert_eq!(current["planTier"], "standard");
        assert_eq!(current["status"], "active");
        assert_eq!(current["pendingChange"], asked["pendingChange"]);
        assert_eq!(world.plan().await, ("standard".into(), "standard".into()));
        world.settle().await;
    }
    let state = world
        .call(Method::GET, "/api/billing/state", None)
        .await
        .ok();
    assert_eq!(state["pendingChange"], asked["pendingChange"]);
    assert_eq!(world.charged(&customer).await, [9_900]);
    let ran = super::reconcile::reconcile(&world, &[]).await;
    assert_eq!(super::reconcile::kinds(&ran), [], "{}", ran.stdout);

    world
        .stripe
        .advance(&clock, START + 10 * 86_400 + 600)
        .await;
    world.authenticate(&asked, "succeed").await;
    world.settle().await;
    let current = world.current().await;
    assert_eq!(
        (&current["planTier"], &current["pendingChange"]),
        (&json!("enterprise"), &Value::Null)
    );
    assert_eq!(
        world.plan().await,
        ("enterprise".into(), "enterprise".into())
    );
    let due = shown["dueNowAmountMinor"].as_i64().unwrap();
    assert_eq!(world.charged(&customer).await, [9_900, due]);
    let audit = world.audit().await.split_off(before);
    for entry in [
        "subscription_change_awaits_payment user",
        "invoice_payment_action_required webhook",
        "subscription_pending_update_applied webhook",
        "plan_changed webhook",
    ] {
        let told = audit.iter().filter(|one| *one == entry).count();
        assert_eq!(told, 1, "{entry}: {audit:#?}");
    }
    // Reconciliation finds nothing.
    let ran = super::reconcile::reconcile(&world, &[]).await;
    assert_eq!(super::reconcile::kinds(&ran), [], "{}", ran.stdout);
}

#[tokio::test]
async fn the_same_wish_waits_on_and_another_is_refused() {
    let (world, _, customer) = World::asking(START).await;
    let asked = required(world.change("enterprise").await);
    let again = required(world.change("enterprise").await);
    assert_eq!(again, asked);
    assert_eq!(world.stripe.invoices(&customer).await.len(), 2);
    let body = json!({"planTier": "free"});
    let other = world.call(Method::PUT, SUBSCRIPTION, Some(body)).await;
    assert_eq!(other.problem(), (409, "change_pending"));
    let detail = text(&other.body, "detail");
    assert!(detail.contains("pending-change"), "{detail}");
    // Once it is paid, the same wish shows what became of it, without a webhook.
    world.deliver_nothing().await;
    world.authenticate(&asked, "succeed").await;
    let done = world.change("enterprise").await;
    assert_eq!(
        (done.status, &done.body["planTier"]),
        (200, &json!("enterprise"))
    );
    world.deliver_again().await;
    world.mirrored().await;
    assert_eq!(world.current().await["planTier"], "enterprise");
    assert_eq!(world.charged(&customer).await.len(), 2);
}

#[tokio::test]
async fn a_card_that_is_declined_leaves_nothing_to_pay() {
    let (world, _, customer) = World::asking(START).await;
    world
        .stripe
        .use_card(&customer, "pm_card_chargeCustomerFail")
        .await;
    let declined = world.change("enterprise").await;
    assert_eq!(declined.problem(), (402, "card_declined"));
    assert_eq!(world.current().await["pendingChange"], Value::Null);
    assert_eq!(world.stripe.invoices(&customer).await.len(), 1);
}
