//! Coupons and promotion codes that cannot be made or redeemed.

use super::{Discounted, code, coupon, sums};
use crate::support::{START, World, text};

#[tokio::test]
async fn promotion_codes_are_redeemed_within_their_limits() {
    let world = World::new().await;
    let price = world.price(2_000).await;
    let ten = coupon(&world, &[("percent_off", "10"), ("duration", "forever")]).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let other = world.customer(&clock, "pm_card_visa").await;
    let dear = [
        ("restrictions[minimum_amount]", "2001"),
        ("restrictions[minimum_amount_currency]", "usd"),
    ];
    let new_only = [("restrictions[first_time_transaction]", "true")];
    let codes = [
        (code(&world, &ten, &dear).await, "below its minimum amount"),
        (
            code(&world, &ten, &[("active", "false")]).await,
            "This promotion code is inactive.",
        ),
        (
            code(&world, &ten, &[("customer", &other)]).await,
            "belongs to a different customer",
        ),
        (
            "promo_none".to_owned(),
            "No such promotion code: 'promo_none'",
        ),
    ];
    let subscribe = async |code: &str| {
        let fields = [
            ("customer", customer.as_str()),
            ("items[0][price]", &price),
            ("discounts[0][promotion_code]", code),
        ];
        world.post("/v1/subscriptions", &fields).await
    };
    for (code, words) in &codes {
        let error = subscribe(code).await.error(400);
        assert_eq!(error["param"], "discounts[0][promotion_code]");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{message}");
    }
    let mut limited = new_only.to_vec();
    limited.extend([("max_redemptions", "1"), ("code", "HELLO")]);
    let hello = code(&world, &ten, &limited).await;
    let subscription = subscribe(&hello).await.ok();
    let invoice = world.latest_invoice(&text(&subscription, "id")).await;
    assert_eq!(sums(&invoice), (2_000, 200, 1_800));
    let used = world
        .get(&format!("/v1/promotion_codes/{hello}"), &[])
        .await
        .ok();
    assert_eq!(
        (&used["times_redeemed"], &used["active"]),
        (&1.into(), &false.into())
    );
    let error = subscribe(&hello).await.error(400);
    assert_eq!(error["message"], "This promotion code has been used up.");
    let again = code(&world, &ten, &new_only).await;
    let error = subscribe(&again).await.error(400);
    assert_eq!(
        error["message"],
        "This promotion code cannot be redeemed because the associated customer has prior transactions."
    );
    let expand = [("expand[]", "discounts.source.coupon")];
    let path = format!("/v1/subscriptions/{}", text(&subscription, "id"));
    let expanded = world.get(&path, &expand).await.ok();
    let discount = &expanded["discounts"][0];
    assert_eq!(discount["promotion_code"], hello.as_str());
    assert_eq!(discount["source"]["coupon"]["percent_off"], 10);
}

#[tokio::test]
async fn invalid_coupons_and_codes_are_refused_in_stripes_words() {
    let world = World::new().await;
    for (fields, message) in [
        (
            &[("duration", "once")][..],
            "Must provide percent_off or amount_off.",
        ),
        (
            &[("percent_off", "10"), ("amount_off", "500")],
            "Received both percent_off and amount_off parameters. Please pass in only one.",
        ),
        (
            &[("amount_off", "500")],
            "You must pass currency when passing amount_off",
        ),
        (
            &[("percent_off", "10"), ("duration", "repeating")],
            "The duration_in_months param must be set when creating a coupon with a repeating duration",
        ),
        (
            &[("percent_off", "10"), ("redeem_by", "1000")],
            "The parameter `redeem_by` expects a unix timestamp representing a date and time in the future. You specified the value `1000` which is in the past.",
        ),
    ] {
        let error = world.post("/v1/coupons", fields).await.error(400);
        assert_eq!(error["message"], message);
    }
    let named = [
        ("id", "TEN"),
        ("percent_off", "10"),
        ("duration", "forever"),
        ("max_redemptions", "1"),
    ];
    let ten = coupon(&world, &named).await;
    let error = world.post("/v1/coupons", &named).await.error(400);
    assert_eq!(error["code"], "resource_already_exists");
    code(&world, &ten, &[("code", "TAKEN")]).await;
    let nested = ("promotion[type]", "coupon");
    let of_ten = ("promotion[coupon]", ten.as_str());
    for (fields, message) in [
        (vec![("code", "A")], "Missing required param: promotion."),
        (
            vec![nested],
            "You must pass promotion.coupon when passing promotion",
        ),
        (
            vec![nested, ("promotion[coupon]", "NONE")],
            "No such coupon: 'NONE'",
        ),
        (
            vec![nested, of_ten, ("code", "taken")],
            "An active promotion code with `code: taken` already exists.",
        ),
    ] {
        let error = world.post("/v1/promotion_codes", &fields).await.error(400);
        assert_eq!(error["message"], message);
    }
}

#[tokio::test]
async fn coupons_that_are_over_are_not_redeemed() {
    let world = World::new().await;
    let named = [
        ("id", "TEN"),
        ("percent_off", "10"),
        ("duration", "forever"),
        ("max_redemptions", "1"),
    ];
    let ten = coupon(&world, &named).await;
    let price = world.price(1_000).await;
    let fields = [("discounts[0][coupon]", ten.as_str())];
    let it = Discounted::new(&world, &price, "flexible", &fields).await;
    let redeem = async |coupon: &str| {
        let path = format!("/v1/subscriptions/{}", it.id());
        let fields = [("discounts[0][coupon]", coupon)];
        world.post(&path, &fields).await.error(400)
    };
    let error = redeem(&ten).await;
    assert_eq!(
        error["message"],
        "Coupon TEN is used up and cannot be applied."
    );
    let euro = [("amount_off", "500"), ("currency", "eur")];
    let error = redeem(&coupon(&world, &euro).await).await;
    assert_eq!(error["param"], "discounts[0][coupon]");
    assert_eq!(redeem("NONE").await["code"], "resource_missing");
    let path = format!("/v1/coupons/{ten}");
    world.delete(&path, &[]).await.ok();
    let error = world.get(&path, &[]).await.error(404);
    assert_eq!(error["param"], "coupon");
    // The discount goes on.
    assert_eq!(it.upcoming(&world).await["total"], 900);
    assert_eq!(it.customer, text(&it.subscription, "customer"));
}
