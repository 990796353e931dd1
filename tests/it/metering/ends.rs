//! Subscriptions that end: what was used is billed, or said to be lost, and what
//! is free is neither.

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::json;

use super::billed::Billed;
use super::tenant::EVENTS;
use crate::subscriptions::world::text;

async fn on_clock() -> Billed {
    let at = Timestamp::now().as_second() - 5 * 3_600;
    Billed::without_subscription(Some(at)).await
}

async fn usage(billed: &Billed, metric: &str) -> i64 {
    let usage = billed.tenant.usage(billed.service(), metric).await;
    usage["usage"].as_i64().unwrap()
}

/// What its invoices come to, beyond the fee.
async fn overage(billed: &Billed) -> i64 {
    let invoices = billed.world.stripe.invoices(&billed.customer).await;
    let amounts = invoices.iter().map(|invoice| &invoice["total"]);
    amounts.map(|amount| amount.as_i64().unwrap()).sum::<i64>() - 9_900
}

#[tokio::test]
async fn what_an_end_without_an_invoice_leaves_is_said_to_be_lost() {
    for (invoice_now, lost, paid) in [("false", 1, 0), ("true", 0, 20_000)] {
        let billed = on_clock().await;
        billed.world.create("standard").await.ok();
        billed.world.settle().await;
        billed.record("a", "api_calls", "300000").await;
        billed.catch_up().await;
        // It is told in time, which is not enough.
        assert_eq!(billed.report(Timestamp::now()).await.sent, 1);
        billed.catch_up().await;
        billed.catch_up().await;
        let path = format!(
            "/v1/subscriptions/{}",
            text(&billed.subscription().await, "id")
        );
        let fields = [("invoice_now", invoice_now)];
        let stripe = &billed.world.stripe;
        stripe.send(Method::DELETE, &path, &fields).await;
        billed.world.settle().await;
        let metric = "usage_unbilled_total{reason=\"ended_without_invoice\"}";
        let before = billed.service().metric(metric).await;
        let report = billed.report(Timestamp::now()).await;
        assert_eq!(report.unbilled.len(), lost, "{:?}", report.unbilled);
        assert_eq!(overage(&billed).await, paid);
        if let Some(found) = report.unbilled.first() {
            assert_eq!(found.units.0, 200_000.into());
            assert_eq!(found.reason.as_str(), "ended_without_invoice");
            assert!(billed.service().metric(metric).await > before);
        }
    }
}

#[tokio::test]
async fn what_is_told_within_the_hour_of_a_scheduled_end_is_billed() {
    let billed = on_clock().await;
    billed.world.create("standard").await.ok();
    billed.world.settle().await;
    billed.record("a", "api_calls", "150000").await;
    let end = billed.catch_up().await + 5;
    billed
        .in_dashboard(&[("cancel_at", &end.to_string())])
        .await;
    billed.world.settle().await;
    billed.report(Timestamp::now()).await;
    billed.record("b", "api_calls", "150000").await;
    assert!(
        Timestamp::now().as_second() < end,
        "the machine is too slow"
    );
    while billed.catch_up().await < end {}
    billed.world.settle().await;
    let report = billed.report(Timestamp::now()).await;
    assert_eq!((report.sent, report.unbilled.len()), (1, 0));
    // The last invoice was a draft for an hour.
    let clock = billed.clock.as_deref().unwrap();
    let stripe = &billed.world.stripe;
    stripe.advance(clock, end + 2 * 3_600).await;
    assert_eq!(overage(&billed).await, 20_000);
}

#[tokio::test]
async fn what_is_free_before_and_after_a_subscription_is_told_to_nobody() {
    let billed = on_clock().await;
    billed.record("a", "api_calls", "700000").await;
    billed.catch_up().await;
    billed.world.create("standard").await.ok();
    billed.world.settle().await;
    assert_eq!(usage(&billed, "api_calls").await, 0);
    billed.catch_up().await;
    billed.record("b", "api_calls", "50").await;
    let end = billed.catch_up().await;
    billed.world.cancel(true).await.ok();
    billed.world.settle().await;
    assert_eq!(usage(&billed, "api_calls").await, 0);
    billed.record("c", "api_calls", "800000").await;
    // What comes late is the subscription's.
    let late = Timestamp::from_second(end).unwrap() - SignedDuration::from_millis(1);
    let late = json!({"id": "d", "metric": "api_calls", "quantity": 5, "occurredAt": late});
    let answer = billed.tenant.post(billed.service(), EVENTS, &late).await;
    answer.ok();
    assert_eq!(usage(&billed, "api_calls").await, 800_000);
    let report = billed.report(Timestamp::now()).await;
    assert_eq!(report.unbilled.len(), 0, "{:?}", report.unbilled);
    let db = &billed.service().db;
    let told = "SELECT sum(units) FROM usage_reports";
    assert_eq!(db.value(told).await, "55");
    let overlaps = "SELECT count(*) FROM usage_totals a JOIN usage_totals b
                      ON a.period_start < b.period_start AND b.period_start < a.period_end";
    assert_eq!(db.value(overlaps).await, "0");
    let rows = "SELECT string_agg(trim_scale(total)::text, ' ' ORDER BY period_start)
                  FROM usage_totals WHERE metric = 'api_calls'";
    assert_eq!(db.value(rows).await, "700000 55 800000");
}

#[tokio::test]
async fn usage_that_is_dated_ahead_is_told_when_its_time_has_come() {
    let billed = Billed::start().await;
    let now = Timestamp::now();
    let soon = now + SignedDuration::from_mins(4);
    for (id, metric, quantity, at) in [
        ("a", "api_calls", 100, now),
        ("b", "api_calls", 20, soon),
        ("c", "storage_gb", 7, now),
        ("d", "storage_gb", 9, soon),
    ] {
        let event = json!({"id": id, "metric": metric, "quantity": quantity, "occurredAt": at});
        let answer = billed.tenant.post(billed.service(), EVENTS, &event).await;
        answer.ok();
    }
    billed.report(Timestamp::now()).await;
    let told = |metric| billed.told(metric, 0, now.as_second() + 3_600);
    assert_eq!(told("api_calls").await, "100");
    assert_eq!(told("storage_gb").await, "0");
    billed.report(soon + SignedDuration::from_secs(1)).await;
    assert_eq!(told("api_calls").await, "120");
    assert_eq!(told("storage_gb").await, "9");
}

/// More than Stripe counts: it will not take it, however often it is sent.
#[tokio::test]
async fn usage_that_stripe_refuses_keeps_nobody_from_leaving() {
    let billed = on_clock().await;
    billed.world.create("standard").await.ok();
    billed.world.settle().await;
    billed.record("a", "api_calls", "9999999999999999999").await;
    billed.catch_up().await;
    billed.world.cancel(true).await.ok();
    assert_eq!(billed.report(Timestamp::now()).await.failed, 1);
}

/// What Stripe was told just before the end stays in the period that it is billed in,
/// though the end has the same second.
#[tokio::test]
async fn what_is_used_and_canceled_within_a_second_is_billed_and_not_used_again() {
    for _ in 0..3 {
        let billed = Billed::start().await;
        let into = Timestamp::now().subsec_nanosecond();
        let rest = 1_000_000_000 - u64::try_from(into).unwrap();
        tokio::time::sleep(std::time::Duration::from_nanos(rest)).await;
        billed.record("a", "agent_executions", "6000").await;
        billed.world.cancel(true).await.ok();
        billed.world.settle().await;
        assert_eq!(overage(&billed).await, 10_000);
        assert_eq!(usage(&billed, "agent_executions").await, 0);
        let report = billed.report(Timestamp::now()).await;
        assert_eq!(report.unbilled.len(), 0, "{:?}", report.unbilled);
    }
}
