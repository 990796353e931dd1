//! What may be bought by a checkout, for how much, and by whom.

use reqwest::Method;
use serde_json::{Value, json};
use valuecanvas_billing::tenancy::auth::Role;

use super::super::cards::APPLICATION;
use super::super::promotion_codes::{code, coupon};
use super::super::world::{VISA, text};
use super::{CHECKOUT, GOOD, PAGE, wish, world};

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
