//! Prices that are added, raised and listed.

use serde_json::json;

use super::{market, several};
use crate::catalogue::shop::Shop;

#[tokio::test]
async fn the_catalogue_lists_every_price_and_rate() {
    let shop = market().await;
    let plans = shop.get("/api/billing/plans").await;
    let plans = plans["data"].as_array().unwrap();
    let standard = plans
        .iter()
        .find(|plan| plan["tier"] == "standard")
        .unwrap();
    // Those who know one price see the one that is meant by default.
    assert_eq!(
        (
            &standard["priceAmount"],
            &standard["currency"],
            &standard["interval"]
        ),
        (&json!(9_900), &json!("usd"), &json!("month"))
    );
    let price = |amount: i64, currency: &str, interval: &str| json!({"priceAmount": amount, "currency": currency, "interval": interval, "seatAmount": null});
    assert_eq!(
        standard["prices"],
        json!([
            price(8_900, "eur", "month"),
            price(90_000, "eur", "year"),
            price(14_000, "jpy", "month"),
            price(9_900, "usd", "month"),
            price(99_000, "usd", "year"),
        ])
    );
    let quotas = standard["quotas"].as_array().unwrap();
    let calls = quotas
        .iter()
        .find(|quota| quota["metric"] == "api_calls")
        .unwrap();
    assert_eq!(calls["overageRate"], "0.001");
    assert_eq!(
        calls["overageRates"],
        json!({"eur": "0.002", "jpy": "0.15", "usd": "0.001"})
    );
}

#[tokio::test]
async fn a_currency_that_is_added_changes_nothing_for_who_is_there() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    let (organization, token) = (shop.world.organization, shop.world.token.clone());
    let before = shop.value("SELECT count(*) FROM billing_audit_log").await;
    shop.change(&several()).await;
    assert_eq!(
        shop.value("SELECT count(*) FROM billing_audit_log").await,
        before
    );
    shop.touch(&customer).await;
    let held =
        "SELECT plan_tier || ' ' || plan_version || ' ' || plan_currency || ' ' || plan_interval
                  FROM organizations WHERE id = $org";
    assert_eq!(shop.value(held).await, "standard 1 usd month");
    shop.customer().await;
    shop.subscribe(json!({"planTier": "standard", "currency": "eur", "interval": "year"}))
        .await
        .ok();
    shop.world.settle().await;
    assert_eq!(shop.value(held).await, "standard 2 eur year");
    // The fee of who was there is now one of the second version, too: the interval can be
    // changed, and the year is bought as it is sold today.
    (shop.world.organization, shop.world.token) = (organization, token);
    shop.put(json!({"planTier": "standard", "interval": "year"}))
        .await
        .ok();
    shop.world.settle().await;
    assert_eq!(shop.value(held).await, "standard 2 usd year");
}

#[tokio::test]
async fn a_raised_price_is_for_new_subscribers_in_each_currency() {
    let mut shop = market().await;
    let request = || json!({"planTier": "standard", "currency": "eur"});
    let first = shop.customer().await;
    shop.subscribe(request()).await.ok();
    shop.world.settle().await;
    let (organization, token) = (shop.world.organization, shop.world.token.clone());
    let raised = [
        ("amount = 8_900", "amount = 9_500"),
        ("eur = \"0.002\"", "eur = \"0.003\""),
    ];
    shop.change(&raised).await;
    let second = shop.customer().await;
    shop.subscribe(request()).await.ok();
    shop.world.settle().await;
    assert_eq!(shop.invoice(&second).await["total"], 9_500);
    shop.touch(&first).await;
    (shop.world.organization, shop.world.token) = (organization, token);
    shop.uses("api_calls", "200000").await;
    shop.report().await;
    assert_eq!(shop.overage().await, 20_000);
    assert_eq!(shop.metered_lines(&first).await, 20_000);
    let version = "SELECT plan_version FROM organizations WHERE id = $org";
    assert_eq!(shop.value(version).await, "1");
}
