//! Everything that can be wrong with a request, each with its code.

use reqwest::Method;
use serde_json::{Value, json};
use valuecanvas_billing::tenancy::auth::Role;

use super::world::{Answer, PREVIEW, REACTIVATE, SUBSCRIPTION, Stripe, VISA, World};
use crate::support::TestService;
use crate::support::service::Options;

#[tokio::test]
async fn what_cannot_be_granted_is_refused_with_its_code() {
    let world = World::start().await;
    world.customer(VISA).await;
    assert_eq!(
        world.cancel(false).await.problem(),
        (404, "no_subscription")
    );
    assert_eq!(world.reactivate().await.problem(), (404, "no_subscription"));
    assert_eq!(world.change("gold").await.problem(), (422, "unknown_plan"));
    assert_eq!(world.preview("gold").await.problem(), (422, "unknown_plan"));
    assert_eq!(world.create("gold").await.problem(), (422, "unknown_plan"));
    assert_eq!(world.change("free").await.problem(), (409, "same_plan"));
    assert_eq!(world.preview("free").await.problem(), (409, "same_plan"));
    assert_eq!(
        world.create("free").await.problem(),
        (422, "plan_needs_no_subscription")
    );
    world.create("standard").await.ok();
    assert_eq!(
        world.create("enterprise").await.problem(),
        (409, "subscription_exists")
    );
    assert_eq!(world.change("standard").await.problem(), (409, "same_plan"));
    assert_eq!(world.reactivate().await.problem(), (409, "not_canceling"));
    world.cancel(false).await.ok();
    let same = world.change("standard").await;
    assert_eq!(same.problem(), (409, "same_plan"));
    assert!(same.body["detail"].as_str().unwrap().contains("reactivate"));
}

#[tokio::test]
async fn unknown_fields_and_wrong_types_are_refused() {
    let world = World::start().await;
    for (method, path, body, code) in [
        (
            Method::POST,
            SUBSCRIPTION,
            json!({"planTier": "standard", "price": 1}),
            "unknown_field",
        ),
        (
            Method::PUT,
            SUBSCRIPTION,
            json!({"planTier": "standard", "trialDays": 3}),
            "unknown_field",
        ),
        (
            Method::POST,
            PREVIEW,
            json!({"planTier": "standard", "at": 0}),
            "unknown_field",
        ),
        (
            Method::POST,
            SUBSCRIPTION,
            json!({"planTier": "standard", "trialDays": -1}),
            "invalid_request",
        ),
        (Method::POST, SUBSCRIPTION, json!({}), "invalid_request"),
        (
            Method::PUT,
            SUBSCRIPTION,
            json!({"planTier": 7}),
            "invalid_request",
        ),
        (Method::PUT, SUBSCRIPTION, json!([]), "invalid_request"),
    ] {
        let answer = world.call(method, path, Some(body.clone())).await;
        assert_eq!(answer.problem(), (400, code), "{body}");
    }
    let path = format!("{SUBSCRIPTION}?immediately=perhaps");
    let answer = world.call(Method::DELETE, &path, None).await;
    assert_eq!(answer.problem(), (400, "invalid_query"));
}

#[tokio::test]
async fn a_declined_card_leaves_everything_as_it_was() {
    let world = World::start().await;
    let customer = world.customer("pm_card_chargeCustomerFail").await;
    let declined = world.create("standard").await;
    assert_eq!(declined.problem(), (402, "card_declined"));
    assert_eq!(declined.body["declineCode"], "generic_decline");
    assert!(world.stripe.subscriptions(&customer).await.is_empty());
    assert_eq!(world.plan().await.0, "free");

    world.stripe.use_card(&customer, VISA).await;
    world.create("standard").await.ok();
    let fault = [("fault", "decline"), ("decline_code", "insufficient_funds")];
    world.stripe.fault(&fault).await;
    let before = world.current().await;
    let declined = world.change("enterprise").await;
    assert_eq!(declined.problem(), (402, "card_declined"));
    assert_eq!(declined.body["declineCode"], "insufficient_funds");
    assert_eq!(world.current().await, before);
    assert_eq!(world.plan().await, ("standard".into(), "standard".into()));
    world.settle().await;
    assert_eq!(world.current().await, before);
    // With another try, the card is good.
    world.change("enterprise").await.ok();
}

#[tokio::test]
async fn without_a_key_changes_wait_and_previews_are_local() {
    let service = TestService::start().await;
    let organization = service.db.organization("cus_1").await;
    let token = service.token(organization, Role::Owner).await;
    let call = async |method: Method, path: &str, body: Value| {
        let request = service
            .client
            .request(method, format!("{}{path}", service.base));
        let response = request
            .bearer_auth(&token)
            .json(&body)
            .send()
            .await
            .unwrap();
        Answer {
            status: response.status().as_u16(),
            body: response.json().await.unwrap(),
        }
    };
    let standard = json!({"planTier": "standard"});
    for (method, path) in [
        (Method::POST, SUBSCRIPTION),
        (Method::PUT, SUBSCRIPTION),
        (Method::DELETE, SUBSCRIPTION),
        (Method::POST, REACTIVATE),
    ] {
        let body = match method {
            Method::DELETE => json!({}),
            _ => standard.clone(),
        };
        let answer = call(method.clone(), path, body).await;
        assert_eq!(
            answer.problem(),
            (503, "stripe_not_configured"),
            "{method} {path}"
        );
    }
    let preview = call(Method::POST, PREVIEW, standard).await.ok();
    assert_eq!(preview["source"], "local");
    assert_eq!(preview["nextInvoiceAmountMinor"], 9_900);
}

#[tokio::test]
async fn a_price_that_stripe_lacks_is_the_operators_to_make() {
    let stripe = Stripe::start().await;
    for price in stripe.list("/v1/prices", &[]).await {
        let path = format!("/v1/prices/{}", price["id"].as_str().unwrap());
        stripe.post(&path, &[("active", "false")]).await;
    }
    let world = World::with(stripe, Options::default()).await;
    world.customer(VISA).await;
    for answer in [
        world.create("standard").await,
        world.preview("standard").await,
    ] {
        assert_eq!(answer.problem(), (502, "price_missing"));
    }
    // Once it is there, it is found.
    world.stripe.price("standard", "9900").await;
    world.stripe.price("enterprise", "49900").await;
    world.create("standard").await.ok();
}

#[tokio::test]
async fn members_may_look_and_not_touch() {
    let mut world = World::start().await;
    world.token = world.service.token(world.organization, Role::Member).await;
    world.current().await;
    for answer in [
        world.create("standard").await,
        world.change("standard").await,
        world.preview("standard").await,
        world.cancel(true).await,
        world.reactivate().await,
    ] {
        assert_eq!(answer.problem(), (403, "forbidden"));
    }
}
