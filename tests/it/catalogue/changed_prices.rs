//! A change of the file leaves running subscriptions as they were bought, in every
//! way that a subscriber sees or pays.

use serde_json::json;

use super::shop::Shop;

const RAISED_FEE: (&str, &str) = ("amount = 9_900", "amount = 10_900");
const RAISED_RATE: (&str, &str) = ("overage_rate = \"0.001\"", "overage_rate = \"0.002\"");
const RAISED_QUOTA: (&str, &str) = ("quota = 5_000", "quota = 8_000");

const VERSION: &str = "SELECT plan_tier || ' ' || coalesce(plan_version::text, 'none')
                         FROM organizations WHERE id = $org";
const ROW: &str = "SELECT plan_tier || ' ' || plan_version FROM billing_subscriptions
                    WHERE organization_id = $org";
const ALERTS: &str = "SELECT count(*) FROM billing_alerts";

#[tokio::test]
async fn a_raised_fee_is_for_new_subscribers() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.change(&[RAISED_FEE]).await;
    // As Stripe now shows it, the price has no lookup key any more.
    shop.touch(&customer).await;
    assert_eq!(shop.value(VERSION).await, "standard 1");
    assert_eq!(shop.value(ROW).await, "standard 1");
    assert_eq!(shop.value(ALERTS).await, "0");
    let old = shop.get("/api/billing/subscription").await;
    assert_eq!(old["planTier"], "standard");

    // The plan can be changed as before: what is left of 99.00 is given back.
    let preview = shop.world.preview("enterprise").await.ok();
    assert_eq!(preview["proratedAmountMinor"], 40_000, "{preview:#}");
    shop.world.change_as(&preview).await.ok();
    shop.world.settle().await;
    assert_eq!(shop.value(VERSION).await, "enterprise 1");
    let items = shop.world.stripe.subscriptions(&customer).await.remove(0);
    // The fee, and four metered prices.
    assert_eq!(items["items"]["data"].as_array().unwrap().len(), 5);

    let newcomer = shop.subscriber("standard").await;
    assert_eq!(shop.value(VERSION).await, "standard 2");
    let paid = shop.world.stripe.invoices(&newcomer).await;
    assert_eq!(paid[0]["amount_paid"], 10_900);
}

#[tokio::test]
async fn a_subscription_that_no_event_ever_showed_keeps_its_plan() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.customer().await;
    // It is known by Stripe's answer alone.
    shop.world.deliver_nothing().await;
    shop.world.create("standard").await.ok();
    shop.change(&[RAISED_FEE, RAISED_RATE]).await;
    shop.world.deliver_again().await;
    shop.touch(&customer).await;
    assert_eq!(shop.value(VERSION).await, "standard 1");
    assert_eq!(shop.value(ROW).await, "standard 1");
    assert_eq!(shop.value(ALERTS).await, "0");
}

#[tokio::test]
async fn a_raised_quota_changes_neither_what_is_shown_nor_what_is_charged() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.change(&[RAISED_QUOTA]).await;
    shop.touch(&customer).await;
    shop.uses("agent_executions", "6000").await;
    shop.report().await;
    let usage = shop.usage("agent_executions").await;
    assert_eq!(
        (&usage["quota"], &usage["overageAmount"]),
        (&json!(5_000), &json!(10_000))
    );
    assert_eq!(shop.metered_lines(&customer).await, 10_000);

    let newcomer = shop.subscriber("standard").await;
    shop.uses("agent_executions", "8500").await;
    shop.report().await;
    let usage = shop.usage("agent_executions").await;
    assert_eq!(
        (&usage["quota"], &usage["overageAmount"]),
        (&json!(8_000), &json!(5_000))
    );
    assert_eq!(shop.metered_lines(&newcomer).await, 5_000);
}

#[tokio::test]
async fn a_raised_rate_is_billed_to_nobody_who_bought_the_lower_one() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.change(&[RAISED_RATE]).await;
    shop.touch(&customer).await;
    shop.uses("api_calls", "500000").await;
    let told = shop.report().await;
    assert_eq!((told.sent, told.unbilled.len()), (1, 0), "{told:?}");
    assert_eq!(shop.overage().await, 40_000);
    assert_eq!(shop.metered_lines(&customer).await, 40_000);

    // No metered item of the former plan stays beside those of the next one.
    shop.world.change("enterprise").await.ok();
    shop.world.settle().await;
    // The 400,000 over the former quota were charged with the change.
    shop.uses("api_calls", "1100000").await;
    shop.report().await;
    assert_eq!(shop.overage().await, 10_000);
    assert_eq!(shop.metered_lines(&customer).await, 10_000);
}

#[tokio::test]
async fn several_changes_are_kept_apart() {
    let mut shop = Shop::open(&[]).await;
    let first = shop.subscriber("standard").await;
    let organization = (shop.world.organization, shop.world.token.clone());
    shop.change(&[RAISED_QUOTA]).await;
    shop.subscriber("standard").await;
    assert_eq!(shop.value(VERSION).await, "standard 2");
    shop.change(&[RAISED_RATE, RAISED_FEE]).await;
    shop.subscriber("standard").await;
    assert_eq!(shop.value(VERSION).await, "standard 3");
    // Back to what was sold first: the same version, not another one.
    shop.change(&[
        (RAISED_QUOTA.1, RAISED_QUOTA.0),
        (RAISED_RATE.1, RAISED_RATE.0),
        (RAISED_FEE.1, RAISED_FEE.0),
    ])
    .await;
    let again = shop.subscriber("standard").await;
    assert_eq!(shop.value(VERSION).await, "standard 1");
    let paid = shop.world.stripe.invoices(&again).await;
    assert_eq!(paid[0]["amount_paid"], 9_900);
    (shop.world.organization, shop.world.token) = organization;
    shop.touch(&first).await;
    assert_eq!(shop.value(VERSION).await, "standard 1");
}

#[tokio::test]
async fn a_fee_agreed_in_stripe_is_known_by_its_product() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    let subscription = shop.world.stripe.subscriptions(&customer).await.remove(0);
    let items = subscription["items"]["data"].as_array().unwrap();
    let fee = items
        .iter()
        .find(|item| item["price"]["recurring"]["usage_type"] == "licensed");
    let fee = fee.unwrap();
    let product = fee["price"]["product"].as_str().unwrap();
    let agreed = [
        ("currency", "usd"),
        ("unit_amount", "7000"),
        ("recurring[interval]", "month"),
        ("product", product),
    ];
    let agreed = shop.world.stripe.post("/v1/prices", &agreed).await;
    let path = format!("/v1/subscription_items/{}", fee["id"].as_str().unwrap());
    let price = [("price", agreed["id"].as_str().unwrap())];
    shop.world.stripe.post(&path, &price).await;
    shop.world.settle().await;
    assert_eq!(shop.value(VERSION).await, "standard 1");
    assert_eq!(shop.value(ALERTS).await, "0");
}

#[tokio::test]
async fn what_only_a_sync_recognizes_gets_its_plan_without_another_event() {
    let mut shop = Shop::open(&[]).await;
    let former = shop.world.stripe.list("/v1/prices", &[]).await;
    let former = former
        .iter()
        .find(|price| price["lookup_key"] == "valuecanvas_standard_monthly")
        .unwrap();
    shop.change(&[RAISED_FEE]).await;
    // Nothing of the price itself tells what it is for…
    let path = format!("/v1/prices/{}", former["id"].as_str().unwrap());
    let forgotten = [("metadata[plan_tier]", "")];
    shop.world.stripe.post(&path, &forgotten).await;
    // …as in a database from before prices were remembered.
    let db = shop.world.service.db.clone();
    db.execute("TRUNCATE billing_prices, plan_version_prices")
        .await;
    shop.restart().await;
    let customer = shop.customer().await;
    let subscription = [
        ("customer", customer.as_str()),
        ("items[0][price]", former["id"].as_str().unwrap()),
    ];
    shop.world
        .stripe
        .post("/v1/subscriptions", &subscription)
        .await;
    shop.world.settle().await;
    assert_eq!(shop.value(VERSION).await, "free none");

    shop.sync().await;
    shop.world.settled_in_the_background().await;
    assert_eq!(shop.value(VERSION).await, "standard 1");
    assert_eq!(shop.value(ROW).await, "standard 1");
    let quota = "SELECT quota::integer FROM usage_quotas WHERE organization_id = $org
                    AND metric = 'agent_executions'";
    assert_eq!(shop.value(quota).await, "5000");
}
