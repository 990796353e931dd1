//! From a checkout to a paid subscription: with, without and beside webhooks, once.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use valuecanvas_billing::tenancy::auth::Role;
use valuecanvas_billing::tenancy::organizations::{self, EraseError};

use super::cards::{APPLICATION, with_application};
use super::promotion_codes::{code, coupon};
use super::world::{Answer, Stripe, VISA, World, text};
use crate::support::product::Product;

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
async fn a_second_subscription_is_canceled_and_its_payment_given_back() {
    let world = world().await;
    let customer = world.customer(VISA).await;
    let begun = world.check_out(json!({})).await.ok();
    // Somebody subscribes the customer in Stripe's dashboard meanwhile.
    let price = world
        .stripe
        .get(
            "/v1/prices",
            &[("lookup_keys[]", "valuecanvas_standard_monthly")],
        )
        .await;
    let price = text(&price["data"][0], "id");
    world.deliver_nothing().await;
    let fields = [("customer", &*customer), ("items[0][price]", &*price)];
    let first = text(&world.stripe.post("/v1/subscriptions", &fields).await, "id");
    world.submit(&text(&begun, "url"), &GOOD).await;
    let id = text(&begun, "id");
    for _ in 0..2 {
        let refused = world.complete(&id).await;
        assert_eq!(
            refused.problem(),
            (409, "subscription_exists"),
            "{refused:?}"
        );
    }
    let running: Vec<Value> = world
        .all_subscriptions()
        .await
        .into_iter()
        .filter(|one| one["status"] != "canceled")
        .collect();
    assert_eq!(running.len(), 1);
    assert_eq!(running[0]["id"], json!(first));
    let refunds = world.stripe.list("/v1/refunds", &[]).await;
    assert_eq!(refunds.len(), 1);
    assert_eq!(refunds[0]["amount"], 9_900);
    assert_eq!(world.checkout_status(&id).await, "canceled");
    world.deliver_again().await;
    world.settle().await;
    let state = world.current().await;
    assert_eq!(state["stripeSubscriptionId"], json!(first));
    assert_eq!(state["otherSubscriptions"], json!([]));
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
async fn an_answer_that_was_lost_is_found_and_nothing_is_made_twice() {
    let world = world().await;
    let fault = [
        ("fault", "drop_after_acting"),
        ("method", "POST"),
        ("path", PAGE),
        ("next", "3"),
    ];
    world.stripe.fault(&fault).await;
    let lost = world.check_out(json!({})).await;
    assert_eq!(lost.problem(), (503, "stripe_unreachable"), "{lost:?}");
    assert_eq!(
        world
            .service
            .db
            .count("checkout_sessions WHERE state = 'creating'")
            .await,
        1
    );
    world.stripe.clear_faults().await;
    // Sent again, it is the same page.
    let again = world.check_out(json!({})).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(world.stripe.list(PAGE, &[]).await.len(), 1);
}

#[tokio::test]
async fn the_sweeper_finds_a_page_that_nobody_asked_for_again() {
    let world = world().await;
    let fault = [
        ("fault", "drop_after_acting"),
        ("method", "POST"),
        ("path", PAGE),
        ("next", "3"),
    ];
    world.stripe.fault(&fault).await;
    world.check_out(json!({})).await;
    world.stripe.clear_faults().await;
    let aged = "UPDATE checkout_sessions
                   SET created_at = created_at - interval '5 minutes',
                       called_at = called_at - interval '5 minutes'";
    world.service.db.execute(aged).await;
    world.settled_in_the_background().await;
    let page = world.stripe.list(PAGE, &[]).await;
    let id = text(&page[0], "id");
    assert_eq!(world.checkout_status(&id).await, "open");
    world.submit(&text(&page[0], "url"), &GOOD).await;
    assert_eq!(world.complete(&id).await.status, 200);
}

#[tokio::test]
async fn a_page_that_stripe_never_made_is_given_up() {
    let world = world().await;
    let fault = [
        ("fault", "drop"),
        ("method", "POST"),
        ("path", PAGE),
        ("next", "3"),
    ];
    world.stripe.fault(&fault).await;
    assert_eq!(
        world.check_out(json!({})).await.problem(),
        (503, "stripe_unreachable")
    );
    world.stripe.clear_faults().await;
    let aged = "UPDATE checkout_sessions
                   SET created_at = created_at - interval '5 minutes',
                       called_at = called_at - interval '5 minutes'";
    world.service.db.execute(aged).await;
    world.settled_in_the_background().await;
    assert_eq!(
        world
            .service
            .db
            .count("checkout_sessions WHERE state = 'failed'")
            .await,
        1
    );
    assert_eq!(
        world
            .check_out(json!({"planTier": "enterprise"}))
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn a_page_that_expired_is_closed_without_its_webhook() {
    let world = world().await;
    let begun = world.check_out(json!({})).await.ok();
    let id = text(&begun, "id");
    world.deliver_nothing().await;
    world.stripe.post(&format!("{PAGE}/{id}/expire"), &[]).await;
    assert_eq!(world.checkout_status(&id).await, "open");
    let past = "UPDATE checkout_sessions SET expires_at = now() - interval '5 minutes'";
    world.service.db.execute(past).await;
    world.checkout_becomes(&id, "expired").await;
    assert_eq!(
        world.complete(&id).await.problem(),
        (410, "checkout_expired")
    );
    assert_eq!(world.check_out(json!({})).await.status, 201);
}

#[tokio::test]
async fn trials_obey_the_rules_of_create() {
    let world = world().await;
    let long = world.check_out(json!({"trialDays": 400})).await;
    assert_eq!(long.problem(), (422, "trial_too_long"));
    let begun = world.check_out(json!({"trialDays": 14})).await.ok();
    world.submit(&text(&begun, "url"), &GOOD).await;
    let done = world.complete(&text(&begun, "id")).await;
    assert_eq!(
        (done.status, &done.body["status"]),
        (200, &json!("trialing")),
        "{done:?}"
    );
    world.cancel(true).await.ok();
    let second = world.check_out(json!({"trialDays": 14})).await;
    assert_eq!(second.problem(), (409, "trial_used"));
}

#[tokio::test]
async fn a_promotion_code_reduces_what_the_page_asks() {
    let world = world().await;
    let terms = [("percent_off", "25"), ("duration", "once")];
    let coupon = coupon(&world.stripe, &terms).await;
    code(&world.stripe, "SPRING25", &coupon, &[]).await;
    let none = world.check_out(json!({"promotionCode": "AUTUMN"})).await;
    assert_eq!(none.problem(), (422, "promotion_code_invalid"));
    let begun = world
        .check_out(json!({"promotionCode": "spring25"}))
        .await
        .ok();
    let shown = world
        .stripe
        .get(&format!("{PAGE}/{}", text(&begun, "id")), &[])
        .await;
    assert_eq!(shown["amount_total"], 7_425);
}

#[tokio::test]
async fn with_a_card_and_consent_there_is_no_page() {
    let world = world().await;
    world.customer(VISA).await;
    let made = world.check_out(json!({"confirm": true})).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.body["status"], "complete");
    assert_eq!(
        (&made.body["id"], &made.body["url"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(made.body["subscription"]["planTier"], "standard");
    assert_eq!(world.stripe.list(PAGE, &[]).await.len(), 0);
}

#[tokio::test]
async fn without_a_card_or_where_its_holder_must_confirm_there_is_a_page() {
    let bare = world().await;
    let begun = bare.check_out(json!({"confirm": true})).await;
    assert_eq!(
        (begun.status, &begun.body["status"]),
        (201, &json!("open")),
        "{begun:?}"
    );
    let world = world().await;
    world.customer("pm_card_authenticationRequired").await;
    let begun = world.check_out(json!({"confirm": true})).await;
    assert_eq!(
        (begun.status, &begun.body["status"]),
        (201, &json!("open")),
        "{begun:?}"
    );
    let url = text(&begun.body, "url");
    world
        .submit(&url, &[("action", "pay"), ("number", "4000002760003184")])
        .await;
    let (status, _) = world.submit(&url, &[("action", "confirm")]).await;
    assert_eq!(status, 303);
    let done = world.complete(&text(&begun.body, "id")).await;
    assert_eq!(
        (done.status, &done.body["planTier"]),
        (200, &json!("standard"))
    );
}

#[tokio::test]
async fn what_cannot_be_bought_is_refused_before_stripe_is_asked() {
    let world = world().await;
    for (more, problem) in [
        (json!({"planTier": "gold"}), (422, "unknown_plan")),
        (
            json!({"planTier": "free"}),
            (422, "plan_needs_no_subscription"),
        ),
        (json!({"quantity": 3}), (422, "plan_without_seats")),
        (json!({"interval": "year"}), (422, "price_not_offered")),
        (json!({"locale": "tlh"}), (422, "locale_not_supported")),
        (
            json!({"successUrl": "https://evil.example"}),
            (422, "return_url_not_allowed"),
        ),
        (
            json!({"cancelUrl": "javascript:alert(1)"}),
            (422, "return_url_not_allowed"),
        ),
        (json!({"addons": ["gold"]}), (422, "unknown_addon")),
        (json!({"addons": ["a", "a"]}), (422, "addon_twice")),
        (json!({"amount": 1}), (400, "unknown_field")),
    ] {
        let refused = world.check_out(more.clone()).await;
        assert_eq!(refused.problem(), problem, "{more}");
    }
    assert_eq!(world.stripe.list("/v1/customers", &[]).await.len(), 0);
    assert_eq!(world.service.db.count("checkout_sessions").await, 0);
    let bare = json!({"planTier": "standard"});
    let begun = world.call(Method::POST, CHECKOUT, Some(bare)).await.ok();
    let shown = world
        .stripe
        .get(&format!("{PAGE}/{}", text(&begun, "id")), &[])
        .await;
    assert_eq!(shown["success_url"], APPLICATION);
}

#[tokio::test]
async fn a_checkout_of_others_is_not_found() {
    let mut world = world().await;
    let begun = world.check_out(json!({})).await.ok();
    let id = text(&begun, "id");
    world.organization = world.service.organization("Others").await;
    world.token = world.service.token(world.organization, Role::Owner).await;
    assert_eq!(world.complete(&id).await.problem(), (404, "not_found"));
    let path = format!("{CHECKOUT}/{id}");
    assert_eq!(world.call(Method::GET, &path, None).await.status, 404);
    assert_eq!(
        world.complete("cs_none").await.problem(),
        (404, "not_found")
    );
    // Theirs stays as it is.
    let own = world.check_out(json!({})).await.ok();
    assert_ne!(own["id"], json!(id));
    let open = world.stripe.list(PAGE, &[("status", "open")]).await;
    assert_eq!(open.len(), 2);
}

#[tokio::test]
async fn a_key_has_its_answer_once() {
    let world = world().await;
    let key = Some("checkout-1");
    let first = world
        .call_with(Method::POST, CHECKOUT, Some(wish(json!({}))), key)
        .await;
    let again = world
        .call_with(Method::POST, CHECKOUT, Some(wish(json!({}))), key)
        .await;
    assert_eq!(first, again);
    let other = wish(json!({"planTier": "enterprise"}));
    let reused = world
        .call_with(Method::POST, CHECKOUT, Some(other), key)
        .await;
    assert_eq!(reused.problem(), (422, "idempotency_key_reused"));
}

#[tokio::test]
async fn a_debit_beside_another_subscription_is_given_back_once_it_is_paid() {
    for first_ends in [false, true] {
        let world = world().await;
        let customer = world.customer(VISA).await;
        let begun = world.check_out(json!({})).await.ok();
        let id = text(&begun, "id");
        world.deliver_nothing().await;
        let first = world.subscribe_in_stripe(&customer).await;
        let account = [("action", "pay"), ("account", "000123456789")];
        world.submit(&text(&begun, "url"), &account).await;
        let waiting = world.complete(&id).await;
        assert_eq!(
            (waiting.status, &waiting.body["checkout"]["status"]),
            (202, &json!("processing")),
            "{waiting:?}"
        );
        assert_eq!(waiting.body["stripeSubscriptionId"], json!(first));
        assert_eq!(waiting.body["otherSubscriptions"], json!([]));
        if first_ends {
            let path = format!("/v1/subscriptions/{first}");
            world.stripe.send(Method::DELETE, &path, &[]).await;
        }
        let settle = format!("/_sandbox/checkout/sessions/{id}/settle");
        world.stripe.post(&settle, &[("outcome", "paid")]).await;
        let refused = world.complete(&id).await;
        assert_eq!(
            refused.problem(),
            (409, "subscription_exists"),
            "{first_ends}: {refused:?}"
        );
        let refunds = world.stripe.list("/v1/refunds", &[]).await;
        assert_eq!(refunds.len(), 1);
        assert_eq!(refunds[0]["amount"], 9_900);
    }
}

#[tokio::test]
async fn a_debit_before_another_subscription_is_kept() {
    let world = world().await;
    let customer = world.customer(VISA).await;
    let begun = world.check_out(json!({})).await.ok();
    let id = text(&begun, "id");
    world.deliver_nothing().await;
    let account = [("action", "pay"), ("account", "000123456789")];
    world.submit(&text(&begun, "url"), &account).await;
    assert_eq!(world.complete(&id).await.status, 202);
    world.subscribe_in_stripe(&customer).await;
    let settle = format!("/_sandbox/checkout/sessions/{id}/settle");
    world.stripe.post(&settle, &[("outcome", "paid")]).await;
    let done = world.complete(&id).await;
    assert_eq!(done.status, 200, "{done:?}");
    let running = world.all_subscriptions().await;
    let running = running.iter().filter(|one| one["status"] == "active");
    assert_eq!(running.count(), 2);
    assert_eq!(world.stripe.list("/v1/refunds", &[]).await.len(), 0);
}

#[tokio::test]
async fn a_refund_that_failed_is_made_though_the_first_subscription_has_ended() {
    let world = world().await;
    let customer = world.customer(VISA).await;
    let begun = world.check_out(json!({})).await.ok();
    let id = text(&begun, "id");
    world.deliver_nothing().await;
    let first = world.subscribe_in_stripe(&customer).await;
    world.submit(&text(&begun, "url"), &GOOD).await;
    let fault = [
        ("fault", "rate_limit"),
        ("method", "POST"),
        ("path", "/v1/refunds"),
        ("next", "1000"),
    ];
    world.stripe.fault(&fault).await;
    let failed = world.complete(&id).await;
    assert!(failed.status >= 429, "{failed:?}");
    let path = format!("/v1/subscriptions/{first}");
    world.stripe.send(Method::DELETE, &path, &[]).await;
    world.stripe.clear_faults().await;
    let refused = world.complete(&id).await;
    assert_eq!(
        refused.problem(),
        (409, "subscription_exists"),
        "{refused:?}"
    );
    assert_eq!(world.stripe.list("/v1/refunds", &[]).await.len(), 1);
}

#[tokio::test]
async fn a_page_that_may_be_in_use_is_not_given_up() {
    let world = world().await;
    world.customer(VISA).await;
    let fault = [
        ("fault", "rate_limit"),
        ("method", "POST"),
        ("path", PAGE),
        ("next", "1000"),
    ];
    world.stripe.fault(&fault).await;
    let refused = world.check_out(json!({})).await;
    assert!(refused.status >= 429, "{refused:?}");
    // Another request with its key may have been answered: nothing is made beside it.
    let beside = world.create("standard").await;
    assert!(beside.status >= 429, "{beside:?}");
    assert_eq!(world.all_subscriptions().await.len(), 0);
    let db = &world.service.db;
    for (state, count) in [("creating", 1), ("failed", 0)] {
        let rows = format!("checkout_sessions WHERE state = '{state}'");
        assert_eq!(db.count(&rows).await, count, "{state}");
    }
    world.stripe.clear_faults().await;
    let page = world.check_out(json!({})).await;
    assert_eq!(page.status, 200, "{page:?}");
    // Nor is one that has been noted.
    let other = world.check_out(json!({"planTier": "enterprise"})).await;
    assert_eq!(other.status, 201, "{other:?}");
    assert_eq!(
        world.stripe.list(PAGE, &[("status", "open")]).await.len(),
        1
    );
}

#[tokio::test]
async fn a_page_of_a_checkout_that_was_closed_meanwhile_is_expired() {
    let world = world().await;
    let slow = [
        ("fault", "drop_after_acting"),
        ("method", "POST"),
        ("path", PAGE),
        ("next", "3"),
    ];
    world.stripe.fault(&slow).await;
    world.check_out(json!({})).await;
    world.stripe.clear_faults().await;
    // Closed between the call and its answer, as far as the database can tell.
    let closing = "CREATE FUNCTION close_it() RETURNS trigger LANGUAGE plpgsql AS $$
                     BEGIN NEW.state := 'failed'; RETURN NEW; END $$;
                   CREATE TRIGGER close_it BEFORE UPDATE ON checkout_sessions FOR EACH ROW
                     WHEN (NEW.called_at IS DISTINCT FROM OLD.called_at)
                     EXECUTE FUNCTION close_it()";
    world.service.db.execute(closing).await;
    let late = world.check_out(json!({})).await;
    assert_eq!(late.problem(), (409, "change_in_progress"), "{late:?}");
    assert_eq!(world.stripe.list(PAGE, &[]).await.len(), 1);
    let open = world.stripe.list(PAGE, &[("status", "open")]).await;
    assert_eq!(open.len(), 0);
}

#[tokio::test]
async fn a_session_that_stripe_does_not_know_blocks_nobody() {
    let world = world().await;
    for (gone, further) in [("cs_gone_1", "standard"), ("cs_gone_2", "enterprise")] {
        world.check_out(json!({})).await.ok();
        let lost = format!(
            "UPDATE checkout_sessions SET stripe_checkout_session_id = '{gone}'
              WHERE state = 'open'"
        );
        world.service.db.execute(&lost).await;
        let next = world.check_out(json!({"planTier": further})).await;
        assert_eq!(next.status, 201, "{next:?}");
        assert_eq!(
            world.complete(gone).await.problem(),
            (410, "checkout_expired")
        );
    }
}

#[tokio::test]
async fn an_open_page_keeps_its_organization() {
    let world = world().await;
    let begun = world.check_out(json!({})).await.ok();
    let product = Product::of(&world.service).await;
    let named = world.organization.to_string();
    let refused = product.archive(&world.service, &named).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(refused.body["code"], "subscription_running");
    let erased = organizations::erase(&world.service.db.service_pool(), world.organization).await;
    assert!(
        matches!(erased, Err(EraseError::CheckoutOpen)),
        "{erased:?}"
    );
    let id = text(&begun, "id");
    world.stripe.post(&format!("{PAGE}/{id}/expire"), &[]).await;
    assert_eq!(world.complete(&id).await.problem().0, 410);
    let archived = product.archive(&world.service, &named).await;
    assert_eq!(archived.status, 204, "{archived:?}");
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
