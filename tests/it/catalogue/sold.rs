//! What is sold, and what is sold no more.

use super::shop::Shop;
use valuecanvas_billing::app::StartError;
use valuecanvas_billing::catalogue::Catalogue;
use valuecanvas_billing::metering::quotas;

const VERSION: &str = "SELECT plan_tier || ' ' || coalesce(plan_version::text, 'none')
                         FROM organizations WHERE id = $org";

#[tokio::test]
async fn a_change_of_prices_is_sold_once_stripe_has_it() {
    let mut shop = Shop::open(&[]).await;
    shop.edit(&[("amount = 9_900", "amount = 10_900")]);
    shop.restart().await;
    let plans = shop.get("/api/billing/plans").await;
    assert_eq!(plans["data"][1]["priceAmount"], 9_900);
    let customer = shop.subscriber("standard").await;
    assert_eq!(shop.value(VERSION).await, "standard 1");
    let paid = shop.world.stripe.invoices(&customer).await;
    assert_eq!(paid[0]["amount_paid"], 9_900);

    // Synced, but this service still has the file of before: it goes on as before.
    shop.sync().await;
    let customer = shop.subscriber("standard").await;
    let paid = shop.world.stripe.invoices(&customer).await;
    assert_eq!(paid[0]["amount_paid"], 9_900);
    assert_eq!(shop.value(VERSION).await, "standard 1");

    shop.restart().await;
    let plans = shop.get("/api/billing/plans").await;
    assert_eq!(plans["data"][1]["priceAmount"], 10_900);
    let customer = shop.subscriber("standard").await;
    let paid = shop.world.stripe.invoices(&customer).await;
    assert_eq!(paid[0]["amount_paid"], 10_900);
    assert_eq!(shop.value(VERSION).await, "standard 2");
}

#[tokio::test]
async fn quotas_that_stripe_does_not_charge_follow_or_stay_as_the_plan_says() {
    let hard = (
        "storage_gb = { quota = 100, over_limit = \"overage\", overage_rate = \"0.50\" }",
        "storage_gb = { quota = 100, over_limit = \"hard\" }",
    );
    let raised = ("storage_gb = { quota = 100,", "storage_gb = { quota = 200,");
    let follows = (
        "name = \"Standard\"",
        "name = \"Standard\"\nexisting = \"follow\"",
    );
    let quota = "SELECT quota::integer FROM usage_quotas WHERE organization_id = $org
                    AND metric = 'storage_gb'";
    let mut kept = Shop::open(&[hard]).await;
    kept.subscriber("standard").await;
    kept.change(&[raised]).await;
    assert_eq!(kept.value(quota).await, "100");
    let mut following = Shop::open(&[hard, follows]).await;
    let customer = following.subscriber("standard").await;
    following.change(&[raised]).await;
    following.touch(&customer).await;
    assert_eq!(following.value(quota).await, "200");
    assert_eq!(following.value(VERSION).await, "standard 2");
}

#[tokio::test]
async fn without_a_subscription_the_plan_is_as_it_is_sold_now() {
    let mut shop = Shop::open(&[]).await;
    shop.customer().await;
    shop.change(&[(
        "quota = 100, over_limit = \"grace\"",
        "quota = 150, over_limit = \"grace\"",
    )])
    .await;
    let quota = "SELECT quota::integer FROM usage_quotas WHERE organization_id = $org
                    AND metric = 'agent_executions'";
    for _ in 0..200 {
        if shop.value(quota).await == "150" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(shop.value(quota).await, "150");
    assert_eq!(shop.value(VERSION).await, "free none");
}

#[tokio::test]
async fn a_retired_plan_serves_on_and_is_sold_no_more() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.change(&[("name = \"Standard\"", "name = \"Standard\"\nretired = true")])
        .await;
    shop.touch(&customer).await;
    assert_eq!(shop.value(VERSION).await, "standard 1");
    let plans = shop.get("/api/billing/plans").await;
    let tiers = plans["data"].as_array().unwrap().iter();
    let tiers: Vec<&str> = tiers.map(|plan| plan["tier"].as_str().unwrap()).collect();
    assert_eq!(tiers, ["free", "enterprise"]);
    shop.world.preview("enterprise").await.ok();
    shop.customer().await;
    let refused = shop.world.create("standard").await;
    assert_eq!(refused.problem(), (409, "plan_retired"));
    let refused = shop.world.preview("standard").await;
    assert_eq!(refused.problem(), (409, "plan_retired"));
}

#[tokio::test]
async fn a_plan_with_subscribers_cannot_vanish_from_the_file() {
    let mut shop = Shop::open(&[]).await;
    shop.subscriber("standard").await;
    shop.edit(&[("tier = \"standard\"", "tier = \"business\"")]);
    let pool = shop.world.service.db.service_pool();
    let found = valuecanvas_billing::subscriptions::check_vanished(&pool, &shop.catalogue()).await;
    let text = found.unwrap_err().to_string();
    assert!(
        text.contains("standard: 1 organization: Newcomer") && text.contains("retired = true"),
        "{text}"
    );
    let error = shop.refused_start().await;
    assert!(
        matches!(&error, StartError::VanishedPlans(found) if *found == text),
        "{error}"
    );
    // The organizations of the file that lacks nothing are none of its business.
    let whole = Catalogue::load(None).unwrap();
    valuecanvas_billing::subscriptions::check_vanished(&pool, &whole)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_metric_that_subscriptions_are_charged_for_cannot_vanish_from_the_file() {
    let mut shop = Shop::open(&[]).await;
    shop.subscriber("standard").await;
    let text = std::fs::read_to_string(shop.path()).unwrap();
    let without: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("storage_gb = "))
        .collect();
    std::fs::write(shop.path(), without.join("\n")).unwrap();
    let error = shop.refused_start().await.to_string();
    assert!(
        error.contains("storage_gb: 1") && error.contains("[metrics]"),
        "{error}"
    );
}

/// What was counted as a level would be billed as a sum.
#[tokio::test]
async fn the_aggregation_of_a_metric_that_is_charged_for_cannot_change() {
    let mut shop = Shop::open(&[]).await;
    let edit = [(
        "storage_gb = { aggregation = \"last\"",
        "storage_gb = { aggregation = \"sum\"",
    )];
    // Nobody is charged for it yet.
    shop.edit(&edit);
    let pool = shop.world.service.db.service_pool();
    let check = valuecanvas_billing::subscriptions::check_vanished;
    check(&pool, &shop.catalogue()).await.unwrap();
    shop.edit(&[(edit[0].1, edit[0].0)]);
    shop.subscriber("standard").await;
    check(&pool, &shop.catalogue()).await.unwrap();
    shop.edit(&edit);
    let text = check(&pool, &shop.catalogue())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("storage_gb from \"last\" to \"sum\""),
        "{text}"
    );
    let error = shop.refused_start().await;
    assert!(
        matches!(&error, StartError::VanishedPlans(found) if *found == text),
        "{error}"
    );
}

/// What has ended gets no plan any more, and Stripe is not asked for it.
#[tokio::test]
async fn a_subscription_that_ended_is_not_asked_for_when_its_price_becomes_known() {
    let mut shop = Shop::open(&[]).await;
    shop.subscriber("standard").await;
    let ended = shop.world.organization;
    shop.subscriber("standard").await;
    shop.world.service.stop().await;
    let db = &shop.world.service.db;
    db.execute(&format!(
        "UPDATE billing_subscription_items SET plan_tier = NULL;
         UPDATE billing_subscriptions SET ask_again_since = NULL;
         UPDATE billing_subscriptions SET status = 'canceled' WHERE organization_id = '{ended}'"
    ))
    .await;
    shop.sync().await;
    let asked = format!(
        "SELECT count(*) || ' ' || count(*) FILTER (WHERE organization_id = '{ended}')
           FROM billing_subscriptions WHERE ask_again_since IS NOT NULL"
    );
    assert_eq!(shop.value(&asked).await, "1 0");
}

#[tokio::test]
async fn an_organization_that_is_held_keeps_no_other_from_following() {
    let hard = (
        "storage_gb = { quota = 100, over_limit = \"overage\", overage_rate = \"0.50\" }",
        "storage_gb = { quota = 100, over_limit = \"hard\" }",
    );
    let follows = (
        "name = \"Standard\"",
        "name = \"Standard\"\nexisting = \"follow\"",
    );
    let mut shop = Shop::open(&[hard, follows]).await;
    shop.subscriber("standard").await;
    let held = shop.world.organization;
    shop.subscriber("standard").await;
    shop.world.service.stop().await;
    shop.edit(&[("storage_gb = { quota = 100,", "storage_gb = { quota = 200,")]);
    shop.sync().await;
    let (db, catalogue) = (&shop.world.service.db, shop.catalogue());
    let pool = db.service_pool();
    catalogue.record_versions(&pool, true).await.unwrap();
    let mut holder = db.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM usage_quotas WHERE organization_id = $1 FOR UPDATE")
        .bind(held)
        .execute(&mut *holder)
        .await
        .unwrap();
    let quotas_now = "SELECT string_agg(q.quota::integer::text, ' ' ORDER BY q.quota)
                        FROM usage_quotas q JOIN organizations o ON o.id = q.organization_id
                       WHERE q.metric = 'storage_gb' AND o.plan_tier = 'standard'";
    let applied = quotas::apply_catalogue(&pool, &catalogue).await.unwrap();
    assert_eq!(
        (applied.skipped, &*db.value(quotas_now).await),
        (1, "100 200")
    );
    holder.rollback().await.unwrap();
    let applied = quotas::apply_catalogue(&pool, &catalogue).await.unwrap();
    assert_eq!(
        (applied.skipped, &*db.value(quotas_now).await),
        (0, "200 200")
    );
}
