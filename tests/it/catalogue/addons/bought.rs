//! Add-ons that are bought, changed and given up through the API.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use valuecanvas_billing::catalogue::When;
use valuecanvas_billing::db::lookup_pool;
use valuecanvas_billing::subscriptions::{
    AskedAddons, Failure, PreviewUnavailable, Selection, Subscriptions,
};

use super::{PRICE, PRICES, of, selling, subscribed, with};
use crate::catalogue::shop::Shop;
use crate::subscriptions::world::{DAY, START};

#[tokio::test]
async fn addons_are_charged_as_shown_and_add_up_with_the_plan() {
    let mut shop = selling(&[]).await;
    let (customer, clock) = shop.customer_at(START).await;
    let wish = with(json!(["care", {"id": "extra_tokens", "quantity": 2}]));
    let shown = shop.previewed(wish.clone()).await.ok();
    assert_eq!(
        shown["dueNowAmountMinor"],
        9_900 + 4_000 + 2 * 2_000,
        "{shown:#}"
    );
    assert_eq!(
        shown["addons"],
        json!([of("care", 1), of("extra_tokens", 2)])
    );
    let tokens = shown["changes"].as_array().unwrap();
    let tokens = tokens
        .iter()
        .find(|one| one["metric"] == "llm_tokens")
        .unwrap();
    assert_eq!(
        (&tokens["currentQuota"], &tokens["newQuota"]),
        (&json!(10_000), &json!(2_000_000))
    );
    assert_eq!(
        shown["featureChanges"],
        json!([
            {"feature": "projects", "currentValue": 3, "newValue": 30},
            {"feature": "sso", "currentValue": false, "newValue": true},
            {"feature": "support", "currentValue": "community", "newValue": "personal"},
        ])
    );
    // Without them in the request, it is what was shown.
    let made = shop
        .subscribe(json!({"planTier": "standard", "previewToken": shown["previewToken"]}))
        .await
        .ok();
    assert_eq!(
        made["addons"],
        json!([of("care", 1), of("extra_tokens", 2)])
    );
    assert_eq!(
        shop.invoice(&customer).await["total"],
        shown["dueNowAmountMinor"]
    );
    assert_eq!(shop.limit_of("llm_tokens").await, 2_000_000);
    assert_eq!(shop.limit_of("storage_gb").await, 200);
    let features = json!({"projects": 30, "sso": true, "support": "personal"});
    assert_eq!(shop.features().await, features);
    shop.world.settle().await;
    assert_eq!(shop.limit_of("llm_tokens").await, 2_000_000);
    assert_eq!(shop.features().await, features);
    let before = shop.get("/api/billing/state").await["stateVersion"].clone();

    // More of them in the period, and one less.
    shop.world.stripe.advance(&clock, START + 7 * DAY).await;
    shop.world.settle().await;
    let same = shop
        .put(with(json!([of("care", 1), of("extra_tokens", 2)])))
        .await;
    assert_eq!(same.problem(), (409, "same_plan"));
    let shown = shop
        .previewed(with(json!([of("extra_tokens", 3)])))
        .await
        .ok();
    assert_eq!(
        shown["addonChanges"],
        json!([
            {"id": "care", "currentQuantity": 1, "newQuantity": 0},
            {"id": "extra_tokens", "currentQuantity": 2, "newQuantity": 3},
        ])
    );
    // Three quarters of the month are left.
    assert_eq!(shown["dueNowAmountMinor"], 1_500 - 3_000, "{shown:#}");
    let changed = shop.world.change_as(&shown).await.ok();
    assert_eq!(changed["addons"], json!([of("extra_tokens", 3)]));
    assert_eq!(shop.invoice(&customer).await["total"], -1_500);
    assert_eq!(shop.limit_of("llm_tokens").await, 2_500_000);
    assert_eq!(
        shop.features().await,
        json!({"projects": 35, "sso": false, "support": "business"})
    );
    shop.world.settle().await;
    assert_eq!(shop.addons().await, json!([of("extra_tokens", 3)]));
    assert!(shop.get("/api/billing/state").await["stateVersion"].as_i64() > before.as_i64());

    // None at all: the price of the rest is given back with the renewal.
    let shown = shop.previewed(with(json!([]))).await.ok();
    assert_eq!(shown["dueNowAmountMinor"], 0, "{shown:#}");
    shop.world.change_as(&shown).await.ok();
    assert_eq!(shop.limit_of("storage_gb").await, 100);
    shop.world.settle().await;
    assert_eq!(shop.addons().await, json!([]));
    assert_eq!(
        shop.paid_items(&customer).await,
        [("valuecanvas_standard_monthly".to_owned(), 1)]
    );
    let next = shown["nextInvoiceAmountMinor"].as_i64().unwrap();
    assert_eq!(next, 9_900 - 3 * 1_500);
    shop.world.stripe.advance(&clock, START + 29 * DAY).await;
    shop.world.settle().await;
    assert_eq!(shop.invoice(&customer).await["total"], next);
}

/// What the local engine knows of add-ons is what Stripe says; the rest it refuses.
#[tokio::test]
async fn a_local_preview_is_stripes_or_none() {
    let mut shop = selling(&[]).await;
    let (_, clock) = shop.customer_at(START).await;
    let service = &shop.world.service;
    let engine = Subscriptions::new(
        service.db.service_pool(),
        lookup_pool(service.db.service(), 1),
        Arc::new(shop.catalogue()),
        None,
    );
    let asked = AskedAddons::from([("care".to_owned(), 1), ("extra_tokens".to_owned(), 3)]);
    let local = async |when: Option<When>, now: i64, shop: &Shop| {
        let selection = Selection {
            addons: Some(&asked),
            ..Selection::from("standard")
        };
        let now = Timestamp::from_second(now).unwrap();
        let organization = shop.world.organization;
        let shown = engine.preview(organization, selection, when, None, now);
        shown
            .await
            .map(|shown| serde_json::to_value(shown).unwrap())
    };
    let fields = [
        "dueNowAmountMinor",
        "nextInvoiceAmountMinor",
        "nextInvoiceDate",
        "lines",
        "addons",
        "addonChanges",
        "changes",
        "featureChanges",
    ];
    let mut wish = with(json!(["care", of("extra_tokens", 3)]));
    let stripes = shop.previewed(wish.clone()).await.ok();
    let ours = local(None, START, &shop).await.unwrap();
    for field in fields {
        assert_eq!(ours[field], stripes[field], "{field}: {ours:#} {stripes:#}");
    }
    shop.subscribe(with(json!([]))).await.ok();
    shop.world.settle().await;
    let later = START + 7 * DAY;
    shop.world.stripe.advance(&clock, later).await;
    shop.world.settle().await;
    let refused = local(Some(When::Now), later, &shop).await.unwrap_err();
    assert!(refused.to_string().contains("gets add-ons"), "{refused}");
    wish["when"] = json!("period_end");
    let stripes = shop.previewed(wish.clone()).await.ok();
    let ours = local(Some(When::PeriodEnd), later, &shop).await.unwrap();
    for field in fields {
        assert_eq!(ours[field], stripes[field], "{field}: {ours:#} {stripes:#}");
    }
    wish["when"] = json!("now");
    shop.put(wish).await.ok();
    shop.world.settle().await;
    let now = Timestamp::from_second(later).unwrap();
    let organization = shop.world.organization;
    let refused = engine
        .preview(organization, "enterprise", None, None, now)
        .await;
    assert!(
        matches!(
            refused,
            Err(Failure::PreviewUnavailable(PreviewUnavailable::StripeOnly(
                _
            )))
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_hard_limit_is_the_plans_with_the_addons_and_holds() {
    let (shop, ..) = subscribed(&[], json!(["extra_tokens"])).await;
    let tenant = shop.tenant().await;
    let service = &shop.world.service;
    assert_eq!(tenant.consume(service, "storage_gb", 150).await.status, 200);
    let over = tenant.consume(service, "storage_gb", 151).await;
    assert_eq!(over.problem(), (402, "QUOTA_EXCEEDED"));
    shop.put(with(json!([]))).await.ok();
    let over = tenant.consume(service, "storage_gb", 101).await;
    assert_eq!(over.status, 200, "a level that falls is let in");
    let over = tenant.consume(service, "storage_gb", 102).await;
    assert_eq!(over.problem(), (402, "QUOTA_EXCEEDED"));
}

#[tokio::test]
async fn another_plan_keeps_and_drops_as_the_catalogue_says() {
    let (shop, customer, _) = subscribed(&[], json!(["care", "extra_tokens"])).await;
    let to = json!({"planTier": "enterprise"});
    let shown = shop.previewed(to.clone()).await.ok();
    assert_eq!(shown["addons"], json!([of("extra_tokens", 1)]));
    assert_eq!(
        shown["addonChanges"],
        json!([{"id": "care", "currentQuantity": 1, "newQuantity": 0}])
    );
    // Three quarters of each: the fee's difference, and the add-on that goes.
    assert_eq!(shown["dueNowAmountMinor"], 30_000 - 3_000, "{shown:#}");
    shop.world.change_as(&shown).await.ok();
    assert_eq!(shop.invoice(&customer).await["total"], 27_000);
    shop.world.settle().await;
    assert_eq!(shop.addons().await, json!([of("extra_tokens", 1)]));
    assert_eq!(shop.limit_of("llm_tokens").await, 10_500_000);
    assert_eq!(
        shop.features().await,
        json!({"projects": 1_005, "sso": true, "support": "priority"})
    );
    // Who says so drops what the catalogue keeps.
    shop.put(json!({"planTier": "standard", "addons": ["care"]}))
        .await
        .ok();
    shop.world.settle().await;
    assert_eq!(shop.addons().await, json!([of("care", 1)]));
    assert_eq!(shop.limit_of("llm_tokens").await, 1_000_000);
    // The end of the subscription is the end of its add-ons.
    shop.world.cancel(true).await.ok();
    shop.world.settle().await;
    assert_eq!(shop.addons().await, json!([]));
    assert_eq!(
        shop.features().await,
        json!({"projects": 3, "sso": false, "support": "community"})
    );
}

#[tokio::test]
async fn addons_are_paid_by_the_interval_of_the_plan() {
    let (shop, customer, _) = subscribed(&[(PRICE, PRICES)], json!([of("extra_tokens", 2)])).await;
    let yearly = json!({"planTier": "standard", "interval": "year"});
    let shown = shop.previewed(yearly.clone()).await.ok();
    // The month's rest is given back, and a year begins.
    let due = 99_000 + 2 * 20_000 - 7_425 - 2 * 1_500;
    assert_eq!(shown["dueNowAmountMinor"], due, "{shown:#}");
    shop.world.change_as(&shown).await.ok();
    assert_eq!(shop.invoice(&customer).await["total"], due);
    shop.world.settle().await;
    assert_eq!(
        shop.paid_items(&customer).await,
        [
            ("extra_tokens_year".to_owned(), 2),
            ("standard_usd_year".to_owned(), 1)
        ]
    );
    assert_eq!(shop.limit_of("llm_tokens").await, 2_000_000);
    // One that is not sold by the year is a problem that says so.
    let missing = shop.put(with(json!(["care"]))).await;
    assert_eq!(missing.problem(), (422, "addon_not_offered"), "{missing:?}");
    let detail = missing.body["detail"].as_str().unwrap();
    assert!(detail.contains("not sold for usd by the year"), "{detail}");
    assert!(detail.contains("40.00 USD a month"), "{detail}");
}

#[tokio::test]
async fn an_addon_may_lift_a_limit_and_an_operators_quota_replaces_the_sum() {
    let (shop, ..) = subscribed(&[], json!(["endless_calls", "extra_tokens"])).await;
    assert_eq!(shop.limit_of("api_calls").await, Value::Null);
    let tenant = shop.tenant().await;
    let service = &shop.world.service;
    tenant.set_quota(service, "llm_tokens", "700", None).await;
    assert_eq!(shop.limit_of("llm_tokens").await, 700);
    shop.put(with(json!([of("extra_tokens", 4)]))).await.ok();
    assert_eq!(shop.limit_of("llm_tokens").await, 700);
    tenant.set_quota(service, "llm_tokens", "plan", None).await;
    assert_eq!(shop.limit_of("llm_tokens").await, 3_000_000);
    assert_eq!(shop.limit_of("api_calls").await, 100_000);
}

/// Stripe acts and does not answer: the change is made once, whoever finishes it.
#[tokio::test]
async fn a_change_of_addons_whose_answer_is_lost_is_made_once() {
    let (shop, customer, _) = subscribed(&[], json!(["extra_tokens"])).await;
    let fault = [
        ("fault", "timeout"),
        ("path", "/v1/subscriptions/*"),
        ("every", "1"),
        ("next", "3"),
    ];
    shop.world.stripe.fault(&fault).await;
    let wish = with(json!([of("extra_tokens", 3), of("care", 1)]));
    let mut answer = shop.put(wish.clone()).await;
    for _ in 0..5 {
        if answer.status == 200 {
            break;
        }
        answer = shop.put(wish.clone()).await;
    }
    assert!(
        answer.status == 200 || answer.problem() == (409, "same_plan"),
        "{answer:?}"
    );
    shop.world.settle().await;
    assert_eq!(
        shop.addons().await,
        json!([of("care", 1), of("extra_tokens", 3)])
    );
    assert_eq!(shop.limit_of("llm_tokens").await, 2_500_000);
    let invoices = shop.world.stripe.invoices(&customer).await;
    let totals: Vec<i64> = invoices
        .iter()
        .map(|one| one["total"].as_i64().unwrap())
        .collect();
    assert_eq!(totals, [11_900, 2 * 1_500 + 3_000]);
}
