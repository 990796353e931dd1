//! Add-ons that cannot be had: the problem names the field and what is right.

use serde_json::json;

use super::{of, selling, with};
use crate::subscriptions::world::VISA;

#[tokio::test]
async fn what_cannot_be_had_is_refused_with_the_field_and_what_is_right() {
    let mut shop = selling(&[]).await;
    let customer = shop.customer().await;
    let long = "x".repeat(300);
    for (wish, status, code, says) in [
        (
            with(json!(["extra_storage"])),
            422,
            "unknown_addon",
            "those of the plan \"standard\" are extra_tokens, care, endless_calls",
        ),
        (
            with(json!([long])),
            422,
            "unknown_addon",
            "there is no add-on",
        ),
        (
            json!({"planTier": "enterprise", "addons": ["care"]}),
            422,
            "addon_not_for_plan",
            "it goes with standard",
        ),
        (
            with(json!(["care", of("care", 1)])),
            422,
            "addon_twice",
            "name it once, with its quantity",
        ),
        (
            with(json!([of("care", 0)])),
            422,
            "addon_quantity_out_of_range",
            "from 1 to 1000000",
        ),
        (
            with(json!([{"id": "care", "quantity": -1}])),
            422,
            "addon_quantity_out_of_range",
            "-1 of the add-on \"care\" cannot be had",
        ),
        (
            with(json!([of("extra_tokens", 11)])),
            422,
            "addon_quantity_out_of_range",
            "from 1 to 10;",
        ),
        (
            json!({"planTier": "free", "addons": ["extra_tokens"]}),
            422,
            "addon_not_for_plan",
            "it goes with standard, enterprise",
        ),
        (with(json!("care")), 400, "invalid_request", "addons"),
        (with(json!([1])), 400, "invalid_request", "addons[0]"),
        (
            with(json!([{"id": "care", "quantity": 1.5}])),
            400,
            "invalid_request",
            "addons[0].quantity",
        ),
    ] {
        for answer in [
            shop.subscribe(wish.clone()).await,
            shop.previewed(wish.clone()).await,
        ] {
            assert_eq!(answer.problem(), (status, code), "{wish}: {answer:?}");
            let detail = answer.body["detail"].as_str().unwrap();
            assert!(detail.contains(says), "{wish}: {detail}");
            if status == 422 {
                assert_eq!(answer.body["field"], "addons");
            }
        }
    }
    assert!(shop.world.stripe.subscriptions(&customer).await.is_empty());
    // Nor can they be had by a change.
    shop.subscribe(with(json!([]))).await.ok();
    shop.world.settle().await;
    for wish in [
        with(json!(["extra_storage"])),
        with(json!([of("extra_tokens", 11)])),
    ] {
        assert_eq!(shop.put(wish).await.status, 422);
    }
    assert_eq!(shop.addons().await, json!([]));
}

#[tokio::test]
async fn a_token_is_of_the_addons_that_were_shown() {
    let mut shop = selling(&[]).await;
    shop.customer().await;
    shop.subscribe(with(json!(["care"]))).await.ok();
    shop.world.settle().await;
    let shown = shop.previewed(with(json!(["extra_tokens"]))).await.ok();
    let mut other = with(json!([of("extra_tokens", 2)]));
    other["previewToken"] = shown["previewToken"].clone();
    assert_eq!(shop.put(other).await.problem(), (409, "preview_stale"));
    let mut same = with(json!([of("extra_tokens", 1)]));
    same["previewToken"] = shown["previewToken"].clone();
    shop.put(same).await.ok();
    assert_eq!(shop.addons().await, json!([of("extra_tokens", 1)]));
}

/// Quotas of add-ons in a trial would be free use for whoever cannot be charged.
#[tokio::test]
async fn a_trial_has_addons_only_where_somebody_can_be_charged() {
    let mut shop = selling(&[]).await;
    shop.customer().await;
    // Another one, without a card.
    shop.world.organization = shop.world.service.organization("Cardless").await;
    let owner = valuecanvas_billing::tenancy::auth::Role::Owner;
    let organization = shop.world.organization;
    shop.world.token = shop.world.service.token(organization, owner).await;
    let made = shop.world.stripe.post("/v1/customers", &[]).await;
    let customer = made["id"].as_str().unwrap();
    shop.world.adopt(customer).await;
    let trial = |addons: serde_json::Value| {
        let mut wish = with(addons);
        wish["trialDays"] = json!(14);
        wish
    };
    let needs = (409, "addon_needs_payment_method");
    let many = json!([of("extra_tokens", 10)]);
    let refused = shop.subscribe(trial(many.clone())).await;
    assert_eq!(refused.problem(), needs, "{refused:?}");
    assert_eq!(refused.body["field"], "addons");
    assert!(shop.world.stripe.subscriptions(customer).await.is_empty());
    shop.subscribe(trial(json!([]))).await.ok();
    shop.world.settle().await;
    assert_eq!(shop.world.current().await["status"], "trialing");
    for refused in [
        shop.put(with(many.clone())).await,
        shop.previewed(with(many.clone())).await,
    ] {
        assert_eq!(refused.problem(), needs, "{refused:?}");
    }
    assert_eq!(shop.limit_of("llm_tokens").await, 1_000_000);
    shop.world.stripe.use_card(customer, VISA).await;
    shop.world.settle().await;
    shop.put(with(many)).await.ok();
    shop.world.settle().await;
    assert_eq!(shop.limit_of("llm_tokens").await, 6_000_000);
}
