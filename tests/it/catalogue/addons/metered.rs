//! Usage beside add-ons: billed net of what they add, at the plan's rates.

use serde_json::{Value, json};

use super::{of, selling, with};
use crate::catalogue::shop::Shop;
use crate::catalogue::usage_at_changes::charged;

const TOKENS: &str =
    "llm_tokens = { quota = 1_000_000, over_limit = \"overage\", overage_rate = \"0.00001\" }";
const DEAR: &str =
    "llm_tokens = { quota = 1_000_000, over_limit = \"overage\", overage_rate = \"0.001\" }";

#[tokio::test]
async fn usage_is_billed_over_the_quota_of_plan_and_addons() {
    let mut shop = selling(&[(TOKENS, DEAR)]).await;
    let customer = shop.customer().await;
    shop.subscribe(with(json!([of("extra_tokens", 2)])))
        .await
        .ok();
    shop.world.settle().await;
    let both = async || (shop.overage().await, shop.metered_lines(&customer).await);
    for (used, overage) in [("1_900_000", 0), ("200_000", 10_000), ("50_000", 15_000)] {
        shop.uses("llm_tokens", &used.replace('_', "")).await;
        shop.report().await;
        assert_eq!(both().await, (overage, overage), "after {used}");
    }
    // One more covers what is used from now on. What was over is charged by itself, and what
    // Stripe was told of it is taken back.
    shop.put(with(json!([of("extra_tokens", 3)]))).await.ok();
    shop.world.settle().await;
    shop.report().await;
    assert_eq!(both().await, (0, 0));
    assert_eq!(charged(&shop, &customer).await, [15_000]);
    assert_eq!(shop.limit_of("llm_tokens").await, 2_500_000 + 150_000);
    // Fewer cover less: usage over what is left is billed with the period.
    shop.put(with(json!([of("extra_tokens", 1)]))).await.ok();
    shop.world.settle().await;
    shop.report().await;
    assert_eq!(both().await, (50_000, 50_000));
    assert_eq!(charged(&shop, &customer).await, [15_000]);
    let report = shop.report().await;
    assert!(report.unbilled.is_empty(), "{:?}", report.unbilled);
    let tokens = report
        .metrics
        .iter()
        .find(|one| one.metric == "llm_tokens")
        .unwrap();
    assert_eq!(tokens.pending.0, 0.into());
}

/// What is over the quota is not bought off by an add-on of the last minute, however often
/// and whoever buys it.
#[tokio::test]
async fn what_was_over_before_an_addon_stays_to_be_paid() {
    for in_stripe in [false, true] {
        let mut shop = selling(&[]).await;
        let customer = shop.customer().await;
        shop.subscribe(with(json!([]))).await.ok();
        shop.world.settle().await;
        shop.uses("api_calls", "250000").await;
        shop.report().await;
        let both = async |shop: &Shop| (shop.overage().await, shop.metered_lines(&customer).await);
        assert_eq!(both(&shop).await, (15_000, 15_000));
        if in_stripe {
            shop.adds_in_stripe(&customer, "endless_month").await;
        } else {
            shop.put(with(json!(["endless_calls"]))).await.ok();
            shop.world.settle().await;
        }
        assert_eq!(shop.limit_of("api_calls").await, Value::Null);
        shop.uses("api_calls", "1000").await;
        shop.report().await;
        assert_eq!(both(&shop).await, (0, 0), "in Stripe: {in_stripe}");
        assert_eq!(charged(&shop, &customer).await, [15_000]);
        // It is given up, by which nothing comes back.
        let mut leaving = with(json!([]));
        leaving["when"] = json!("period_end");
        shop.put(leaving).await.ok();
        shop.world.settle().await;
        shop.report().await;
        assert_eq!(both(&shop).await, (0, 0));
        shop.world.call_off().await.ok();
        shop.world.settle().await;
        shop.put(with(json!([]))).await.ok();
        shop.world.settle().await;
        shop.report().await;
        // The units that were charged are bought; those beside them are over again.
        assert_eq!(shop.limit_of("api_calls").await, 100_000 + 150_000);
        assert_eq!(both(&shop).await, (100, 100));
        shop.put(with(json!(["endless_calls"]))).await.ok();
        shop.world.settle().await;
        shop.report().await;
        assert_eq!(both(&shop).await, (0, 0));
        assert_eq!(charged(&shop, &customer).await, [100, 15_000]);
        let report = shop.report().await;
        assert!(report.unbilled.is_empty(), "{:?}", report.unbilled);
        let entries = "SELECT count(*) FROM billing_audit_log WHERE organization_id = $org
                          AND action = 'usage_charged'";
        assert_eq!(shop.value(entries).await, "2");
    }
}

/// A trial's usage costs nothing, and no add-on makes it cost something.
#[tokio::test]
async fn an_addon_in_a_trial_charges_no_usage() {
    let mut shop = selling(&[]).await;
    let customer = shop.customer().await;
    let mut first = with(json!([]));
    first["trialDays"] = json!(14);
    shop.subscribe(first).await.ok();
    shop.world.settle().await;
    shop.uses("api_calls", "250000").await;
    shop.put(with(json!(["endless_calls"]))).await.ok();
    shop.world.settle().await;
    shop.report().await;
    assert_eq!(shop.limit_of("api_calls").await, Value::Null);
    assert_eq!(charged(&shop, &customer).await, [0_i64; 0]);
}

#[tokio::test]
async fn a_limit_that_is_lifted_bills_nothing() {
    let mut shop = selling(&[]).await;
    let customer = shop.customer().await;
    shop.subscribe(with(json!(["endless_calls"]))).await.ok();
    shop.world.settle().await;
    shop.uses("api_calls", "250000").await;
    shop.report().await;
    assert_eq!(
        (shop.overage().await, shop.metered_lines(&customer).await),
        (0, 0)
    );
    shop.put(with(json!([]))).await.ok();
    shop.world.settle().await;
    shop.report().await;
    let overage = 150_000 / 10;
    assert_eq!(
        (shop.overage().await, shop.metered_lines(&customer).await),
        (overage, overage)
    );
    let usage = shop.usage("api_calls").await;
    assert_eq!(usage["quota"], 100_000);
    assert_ne!(usage["overageAmount"], Value::Null);
}

/// The period ends and the add-on with it: what was used in the period is judged by what
/// there was then.
#[tokio::test]
async fn a_period_that_is_over_has_the_addons_that_it_had() {
    let mut shop = selling(&[(TOKENS, DEAR)]).await;
    shop.customer().await;
    shop.subscribe(with(json!([of("extra_tokens", 2)])))
        .await
        .ok();
    shop.world.settle().await;
    shop.uses("llm_tokens", "1800000").await;
    // All of it was a month ago: the period ended when this one began.
    let organization = shop.world.organization;
    shop.world
        .service
        .db
        .execute(&format!(
            "UPDATE usage_events SET period_start = period_start - interval '1 month',
                    recorded_at = recorded_at - interval '1 day',
                    occurred_at = occurred_at - interval '1 day'
              WHERE organization_id = '{organization}';
             UPDATE usage_totals SET period_start = period_start - interval '1 month',
                    period_end = period_start, last_at = last_at - interval '1 day'
              WHERE organization_id = '{organization}';
             UPDATE billing_subscriptions
                SET current_period_start = current_period_start - interval '1 month',
                    current_period_end = current_period_start,
                    billing_cycle_anchor = billing_cycle_anchor - interval '1 month',
                    stripe_created_at = stripe_created_at - interval '1 month'
              WHERE organization_id = '{organization}'"
        ))
        .await;
    shop.put(with(json!([]))).await.ok();
    shop.world.settle().await;
    assert_eq!(shop.limit_of("llm_tokens").await, 1_000_000);
    let kept =
        "SELECT kept_added_quota::bigint || ' ' || kept_quota::bigint || ' ' || total::bigint
                  FROM usage_totals WHERE organization_id = $org AND metric = 'llm_tokens'
                 ORDER BY period_start LIMIT 1";
    assert_eq!(shop.value(kept).await, "1000000 2000000 1800000");
    // Stripe says again when it was made.
    shop.world
        .service
        .db
        .execute("UPDATE billing_subscriptions SET stripe_created_at = now() - interval '3 months'")
        .await;
    shop.report().await;
    let told = "SELECT coalesce(sum(units), 0)::bigint FROM usage_reports
                 WHERE organization_id = $org AND metric = 'llm_tokens'";
    // As many as the plan's price includes: nothing is over.
    assert_eq!(shop.value(told).await, "1000000");
}
