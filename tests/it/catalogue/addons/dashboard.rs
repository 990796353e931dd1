//! Add-ons that somebody adds and takes away in Stripe's dashboard.

use serde_json::json;
use valuecanvas_billing::subscriptions::findings;

use super::{of, selling, with};
use crate::subscriptions::world::SUBSCRIPTION;

#[tokio::test]
async fn an_item_of_an_addon_is_known_whoever_made_it_and_wherever_it_stands() {
    let mut shop = selling(&[]).await;
    let customer = shop.customer().await;
    // Made in Stripe, with the add-on before the plan.
    let price = async |key: &str| {
        let found = shop
            .world
            .stripe
            .list("/v1/prices", &[("lookup_keys[]", key)])
            .await;
        found[0]["id"].as_str().unwrap().to_owned()
    };
    let (tokens, plan, care) = (
        price("extra_tokens_month").await,
        price("valuecanvas_standard_monthly").await,
        price("care_month").await,
    );
    let fields = [
        ("customer", customer.as_str()),
        ("items[0][price]", &tokens),
        ("items[0][quantity]", "3"),
        ("items[1][price]", &plan),
    ];
    let made = shop.world.stripe.post("/v1/subscriptions", &fields).await;
    shop.world.settle().await;
    assert_eq!(shop.world.plan().await.0, "standard");
    assert_eq!(shop.addons().await, json!([of("extra_tokens", 3)]));
    assert_eq!(shop.limit_of("llm_tokens").await, 2_500_000);
    let alerts = "SELECT count(*) FROM billing_alerts WHERE organization_id = $org";
    assert_eq!(shop.value(alerts).await, "0");

    // An item is added, another taken away.
    let id = made["id"].as_str().unwrap();
    let fields = [("subscription", id), ("price", &care)];
    shop.world
        .stripe
        .post("/v1/subscription_items", &fields)
        .await;
    shop.world.settle().await;
    shop.world.settled_in_the_background().await;
    assert_eq!(
        shop.addons().await,
        json!([of("care", 1), of("extra_tokens", 3)])
    );
    assert_eq!(shop.features().await["support"], "personal");
    let items = made["items"]["data"].as_array().unwrap();
    let item = items
        .iter()
        .find(|one| one["price"]["id"] == *tokens)
        .unwrap();
    let path = format!("/v1/subscription_items/{}", item["id"].as_str().unwrap());
    shop.world
        .stripe
        .send(reqwest::Method::DELETE, &path, &[])
        .await;
    shop.world.settle().await;
    shop.world.settled_in_the_background().await;
    assert_eq!(shop.addons().await, json!([of("care", 1)]));
    assert_eq!(shop.limit_of("llm_tokens").await, 1_000_000);

    // It can be changed here, and nothing is found to be wrong.
    let changed = shop.put(with(json!([of("extra_tokens", 2)]))).await.ok();
    assert_eq!(changed["addons"], json!([of("extra_tokens", 2)]));
    shop.world.settle().await;
    let pool = shop.world.service.db.service_pool();
    let mut conn = pool.acquire().await.unwrap();
    sqlx::query("SET ROLE billing_worker")
        .execute(&mut *conn)
        .await
        .unwrap();
    let found = findings(&mut conn, &shop.catalogue()).await.unwrap();
    let wrong = found.counts().into_iter().filter(|(_, number)| *number > 0);
    assert_eq!(wrong.collect::<Vec<_>>(), []);
    assert_eq!(
        shop.get(SUBSCRIPTION).await["addons"],
        json!([of("extra_tokens", 2)])
    );
}

/// A price was taken for a plan's before the file said that it is an add-on's, or an older
/// replica, which knows of none, has written its items.
#[tokio::test]
async fn what_a_price_is_for_is_corrected_by_a_sync() {
    let mut shop = selling(&[]).await;
    let customer = shop.customer().await;
    shop.subscribe(with(json!([of("extra_tokens", 2)])))
        .await
        .ok();
    shop.world.settle().await;
    let organization = shop.world.organization;
    let price = "stripe_price_id = (SELECT stripe_price_id FROM billing_prices
                                     WHERE lookup_key = 'extra_tokens_month')";
    let known = "SELECT plan_tier || ' ' || coalesce(addon, 'none') FROM billing_prices
                  WHERE lookup_key = 'extra_tokens_month'";
    let mirrored = format!(
        "SELECT coalesce(plan_tier, 'none') || ' ' || coalesce(addon, 'none')
           FROM billing_subscription_items WHERE organization_id = $org AND {price}"
    );
    for wrong in [
        format!(
            "UPDATE billing_prices SET plan_tier = 'standard', addon = NULL WHERE {price};
             UPDATE billing_subscription_items SET plan_tier = 'standard', addon = NULL
              WHERE organization_id = '{organization}' AND {price}"
        ),
        format!(
            "UPDATE billing_subscription_items SET plan_tier = '', addon = NULL
              WHERE organization_id = '{organization}' AND {price}"
        ),
    ] {
        shop.world.service.db.execute(&wrong).await;
        assert_ne!(shop.value(&mirrored).await, "none extra_tokens");
        shop.sync().await;
        assert_eq!(shop.value(known).await, " extra_tokens");
        shop.world.settled_in_the_background().await;
        assert_eq!(shop.value(&mirrored).await, "none extra_tokens", "{wrong}");
    }
    assert_eq!(shop.paid_items(&customer).await.len(), 2);
    assert_eq!(shop.addons().await, json!([of("extra_tokens", 2)]));
}

/// A price of the plan's own product that the file names by its id is the add-on's.
#[tokio::test]
async fn an_addon_may_be_sold_at_a_price_of_the_plans_product() {
    let mut shop = selling(&[]).await;
    let customer = shop.customer().await;
    let found = &[("lookup_keys[]", "valuecanvas_standard_monthly")];
    let found = shop.world.stripe.list("/v1/prices", found).await;
    let product = found[0]["product"].as_str().unwrap();
    let fields = [
        ("product", product),
        ("unit_amount", "700"),
        ("currency", "usd"),
        ("recurring[interval]", "month"),
    ];
    let made = shop.world.stripe.post("/v1/prices", &fields).await;
    let id = made["id"].as_str().unwrap();
    let told = format!(
        "SELECT plan_tier || ' ' || coalesce(addon, 'none') FROM billing_prices
          WHERE stripe_price_id = '{id}'"
    );
    // A sync takes it for a former fee, until the file says what it is.
    shop.sync().await;
    assert_eq!(shop.value(&told).await, "standard none");
    let addon = format!(
        "[[addons]]\nid = \"help\"\nname = \"Help\"\nprice = {{ interval = \"month\", currency = \"usd\", \
         amount = 700, stripe_price_ids = [\"{id}\"] }}\nquotas = {{ llm_tokens = 1_000 }}\n\n"
    );
    let first = "[[addons]]\nid = \"care\"";
    shop.change(&[(first, &format!("{addon}{first}"))]).await;
    assert_eq!(shop.value(&told).await, " help");
    shop.subscribe(with(json!(["help"]))).await.ok();
    shop.world.settle().await;
    assert_eq!(shop.addons().await, json!([of("help", 1)]));
    assert_eq!(shop.limit_of("llm_tokens").await, 1_001_000);
    assert_eq!(shop.paid_items(&customer).await.len(), 2);
}
