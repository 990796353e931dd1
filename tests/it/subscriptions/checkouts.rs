//! From a checkout to a paid subscription: with, without and beside webhooks, once.

mod beside;
mod lost;
mod terms;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::cards::with_application;
use super::world::{Answer, Stripe, VISA, World, text};

const CHECKOUT: &str = "/api/billing/checkout";
const PAGE: &str = "/v1/checkout/sessions";
const GOOD: [(&str, &str); 2] = [("action", "pay"), ("number", "4242424242424242")];

pub async fn world() -> World {
    with_application(Stripe::start().await).await
}

/// A wish for the standard plan, with more.
fn wish(more: Value) -> Value {
    let mut wish = json!({
        "planTier": "standard",
        "successUrl": "https://app.example.com/ok?c={CHECKOUT_SESSION_ID}",
        "cancelUrl": "https://app.example.com/pricing",
    });
    for (name, value) in more.as_object().unwrap() {
        wish[name] = value.clone();
    }
    wish
}

impl World {
    async fn check_out(&self, more: Value) -> Answer {
        self.call(Method::POST, CHECKOUT, Some(wish(more))).await
    }

    async fn complete(&self, id: &str) -> Answer {
        let path = format!("{CHECKOUT}/{id}/complete");
        self.call(Method::POST, &path, None).await
    }

    async fn checkout_status(&self, id: &str) -> String {
        let shown = self
            .call(Method::GET, &format!("{CHECKOUT}/{id}"), None)
            .await;
        text(&shown.ok(), "status")
    }

    /// Waits until the sweeper has brought the checkout there.
    async fn checkout_becomes(&self, id: &str, status: &str) {
        for _ in 0..1_000 {
            if self.checkout_status(id).await == status {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{id} is {}", self.checkout_status(id).await);
    }

    /// Subscribes the customer, as somebody would in Stripe's dashboard.
    async fn subscribe_in_stripe(&self, customer: &str) -> String {
        let price = [("lookup_keys[]", "valuecanvas_standard_monthly")];
        let price = self.stripe.get("/v1/prices", &price).await;
        let price = text(&price["data"][0], "id");
        let fields = [("customer", customer), ("items[0][price]", &*price)];
        text(&self.stripe.post("/v1/subscriptions", &fields).await, "id")
    }

    async fn all_subscriptions(&self) -> Vec<Value> {
        self.stripe
            .list("/v1/subscriptions", &[("status", "all")])
            .await
    }
}

#[tokio::test]
async fn who_paid_is_subscribed_before_any_webhook() {
    let world = world().await;
    world.deliver_nothing().await;
    let begun = world.check_out(json!({})).await;
    assert_eq!(begun.status, 201, "{begun:?}");
    let (id, url) = (text(&begun.body, "id"), text(&begun.body, "url"));
    assert_eq!(begun.body["status"], "open");
    assert!(begun.body["expiresAt"].is_string());

    // Nobody has paid yet.
    let early = world.complete(&id).await;
    assert_eq!(
        (early.status, &early.body["checkout"]["status"]),
        (202, &json!("open"))
    );
    assert_eq!(early.body["planTier"], "free");

    let (status, to) = world.submit(&url, &GOOD).await;
    assert_eq!(
        (status, to),
        (303, format!("https://app.example.com/ok?c={id}"))
    );
    let (one, other) = tokio::join!(world.complete(&id), world.complete(&id));
    for done in [one, other, world.complete(&id).await] {
        assert_eq!(done.status, 200, "{done:?}");
        assert_eq!(done.body["planTier"], "standard");
        assert_eq!(done.body["status"], "active");
        assert_eq!(done.body["checkout"]["status"], "complete");
        assert_eq!(done.body["checkout"]["url"], Value::Null);
    }
    assert_eq!(world.plan().await, ("standard".into(), "standard".into()));
    let made = &world.all_subscriptions().await[0];
    assert_eq!(
        made["metadata"]["organization_id"],
        world.organization.to_string()
    );
    assert_eq!(made["billing_mode"]["type"], "classic");

    // The webhooks confirm it, and change nothing.
    world.deliver_again().await;
    world.settle().await;
    assert_eq!(world.current().await["planTier"], "standard");
    let audit = world.audit().await;
    for action in ["checkout_started user", "checkout_completed user"] {
        assert_eq!(
            audit.iter().filter(|one| *one == action).count(),
            1,
            "{audit:?}"
        );
    }
    let again = world.check_out(json!({})).await;
    assert_eq!(again.problem(), (409, "subscription_exists"));
}

#[tokio::test]
async fn who_never_returns_is_subscribed_by_the_webhook_and_the_checkout_closed() {
    let world = world().await;
    let begun = world.check_out(json!({})).await.ok();
    world.submit(&text(&begun, "url"), &GOOD).await;
    world.settle().await;
    assert_eq!(world.current().await["planTier"], "standard");
    world
        .checkout_becomes(&text(&begun, "id"), "complete")
        .await;
    let done = world.complete(&text(&begun, "id")).await;
    assert_eq!(
        (done.status, &done.body["planTier"]),
        (200, &json!("standard"))
    );
}

#[tokio::test]
async fn the_same_wish_has_the_same_page_and_another_closes_it() {
    let world = world().await;
    let first = world.check_out(json!({})).await;
    let same = world.check_out(json!({})).await;
    assert_eq!((first.status, same.status), (201, 200));
    assert_eq!(first.body["id"], same.body["id"]);
    let other = world.check_out(json!({"planTier": "enterprise"})).await;
    assert_eq!(other.status, 201);
    assert_ne!(first.body["id"], other.body["id"]);
    let first = text(&first.body, "id");
    assert_eq!(world.checkout_status(&first).await, "expired");
    let shown = world.stripe.get(&format!("{PAGE}/{first}"), &[]).await;
    assert_eq!(shown["status"], "expired");
    assert_eq!(
        world.complete(&first).await.problem(),
        (410, "checkout_expired")
    );
    assert_eq!(
        world.stripe.list(PAGE, &[("status", "open")]).await.len(),
        1
    );
}

#[tokio::test]
async fn many_at_once_on_two_replicas_have_one_page() {
    let world = world().await;
    let other = world.beside().await;
    let begin = async |base: &str| {
        let request = world.service.client.post(format!("{base}{CHECKOUT}"));
        let request = request
            .bearer_auth(&world.token)
            .json(&json!({"planTier": "standard"}));
        let response = request.send().await.unwrap();
        (
            response.status().as_u16(),
            response.json::<Value>().await.unwrap(),
        )
    };
    // The other replica has no product's address.
    let (mine, theirs) = (&world.service.base, &other.base);
    let (a, b, c, d) = tokio::join!(begin(mine), begin(mine), begin(theirs), begin(mine));
    assert_eq!(c.1["code"], "return_url_required");
    for (status, body) in [&a, &b, &d] {
        let known = matches!(status, 200 | 201) || body["code"] == "change_in_progress";
        assert!(known, "{status} {body}");
    }
    let open = world.stripe.list(PAGE, &[("status", "open")]).await;
    assert_eq!(open.len(), 1);
    assert_eq!(
        world
            .service
            .db
            .count("checkout_sessions WHERE state = 'open'")
            .await,
        1
    );
}

#[tokio::test]
async fn a_subscription_made_otherwise_closes_the_page_first() {
    let world = world().await;
    world.customer(VISA).await;
    let begun = world.check_out(json!({})).await.ok();
    assert_eq!(world.create("standard").await.status, 201);
    let (status, _) = world.submit(&text(&begun, "url"), &GOOD).await;
    assert_eq!(status, 410);
    assert_eq!(
        world.complete(&text(&begun, "id")).await.problem(),
        (410, "checkout_expired")
    );
    assert_eq!(world.all_subscriptions().await.len(), 1);
}

#[tokio::test]
async fn a_bank_that_takes_days_is_processing_until_it_answers() {
    for (outcome, status) in [("paid", "active"), ("failed", "past_due")] {
        let world = world().await;
        let begun = world.check_out(json!({})).await.ok();
        let id = text(&begun, "id");
        let account = [("action", "pay"), ("account", "000123456789")];
        world.submit(&text(&begun, "url"), &account).await;
        for _ in 0..2 {
            let waiting = world.complete(&id).await;
            assert_eq!(waiting.status, 202, "{waiting:?}");
            assert_eq!(waiting.body["checkout"]["status"], "processing");
        }
        let settle = format!("/_sandbox/checkout/sessions/{id}/settle");
        world.stripe.post(&settle, &[("outcome", outcome)]).await;
        world.settle().await;
        world.checkout_becomes(&id, "complete").await;
        let done = world.complete(&id).await;
        assert_eq!(
            (done.status, &done.body["status"]),
            (200, &json!(status)),
            "{outcome}"
        );
    }
}

#[tokio::test]
async fn who_never_returns_is_subscribed_without_any_webhook() {
    let world = world().await;
    world.deliver_nothing().await;
    let begun = world.check_out(json!({})).await.ok();
    world.submit(&text(&begun, "url"), &GOOD).await;
    let later = "UPDATE checkout_sessions SET next_look_at = next_look_at - interval '2 minutes'";
    world.service.db.execute(later).await;
    world
        .checkout_becomes(&text(&begun, "id"), "complete")
        .await;
    assert_eq!(world.current().await["planTier"], "standard");
}
