//! Periods whose boundaries move: what was used is billed once, in the period
//! that it was used in.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::billed::Billed;
use super::tenant::EVENTS;
use crate::subscriptions::world::{DAY, UPCOMING, seconds, text};
use crate::support::TestService;
use crate::support::service::{Options, WEBHOOKS};

const HOUR: i64 = 3_600;

async fn usage(billed: &Billed, metric: &str) -> i64 {
    let usage = billed.tenant.usage(billed.service(), metric).await;
    usage["usage"].as_i64().unwrap()
}

#[tokio::test]
async fn a_trial_that_is_extended_keeps_its_usage() {
    let at = Timestamp::now().as_second() - 5 * HOUR;
    let billed = Billed::without_subscription(Some(at)).await;
    let body = json!({"planTier": "standard", "trialDays": 14});
    let path = "/api/billing/subscription";
    billed
        .world
        .call(reqwest::Method::POST, path, Some(body))
        .await
        .ok();
    billed.catch_up().await;
    billed.world.settle().await;
    billed.record("a", "api_calls", "900").await;
    let end = at + 30 * DAY;
    billed
        .in_dashboard(&[("trial_end", &end.to_string())])
        .await;
    billed.world.settle().await;
    let shown = billed.tenant.usage(billed.service(), "api_calls").await;
    assert_eq!(
        (&shown["usage"], seconds(&shown["periodEnd"])),
        (&json!(900), end)
    );
    // As it was left before: the old end is long past.
    billed
        .service()
        .db
        .execute("UPDATE usage_totals SET period_end = now() - interval '3 hours'")
        .await;
    billed.record("b", "api_calls", "50").await;
    assert_eq!(usage(&billed, "api_calls").await, 950);
    assert_eq!(billed.service().db.count("usage_totals").await, 1);
    let ends = "SELECT extract(epoch FROM period_end)::bigint FROM usage_totals";
    assert_eq!(billed.service().db.value(ends).await, end.to_string());
}

#[tokio::test]
async fn a_period_that_began_by_itself_is_part_of_the_extended_one() {
    // The trial's end passes, and Stripe's word of its extension comes later.
    let at = Timestamp::now().as_second() - 5 * HOUR;
    let billed = Billed::without_subscription(Some(at)).await;
    let body = json!({"planTier": "standard", "trialDays": 14});
    let path = "/api/billing/subscription";
    billed
        .world
        .call(reqwest::Method::POST, path, Some(body))
        .await
        .ok();
    billed.world.settle().await;
    billed.record("a", "api_calls", "900").await;
    billed.record("x", "storage_gb", "7").await;
    let db = &billed.service().db;
    db.execute(
        "UPDATE billing_subscriptions SET current_period_end = date_trunc('second', now()),
                billing_cycle_anchor = date_trunc('second', now())",
    )
    .await;
    db.execute("UPDATE usage_totals SET period_end = date_trunc('second', now())")
        .await;
    billed.record("b", "api_calls", "5").await;
    billed.record("y", "storage_gb", "9").await;
    assert_eq!(usage(&billed, "api_calls").await, 5);
    billed.catch_up().await;
    let end = (at + 30 * DAY).to_string();
    billed.in_dashboard(&[("trial_end", &end)]).await;
    billed.world.settle().await;
    assert_eq!(usage(&billed, "api_calls").await, 905);
    assert_eq!(usage(&billed, "storage_gb").await, 9);
    assert_eq!(db.count("usage_totals").await, 2);
}

#[tokio::test]
async fn a_period_that_begins_anew_takes_only_what_was_used_in_it() {
    let at = Timestamp::now().as_second() - 5 * HOUR;
    let billed = Billed::without_subscription(Some(at)).await;
    billed.world.create("standard").await.ok();
    billed.catch_up().await;
    billed.world.settle().await;
    billed.record("a", "api_calls", "100000").await;
    billed.record("b", "api_calls", "1000").await;
    // The event is late, and what is used meanwhile is the new period's.
    billed.world.deliver_nothing().await;
    let restart = billed.catch_up().await;
    billed
        .in_dashboard(&[("billing_cycle_anchor", "now")])
        .await;
    billed.record("c", "api_calls", "30").await;
    assert_eq!(usage(&billed, "api_calls").await, 101_030);
    billed.world.deliver_again().await;
    billed.in_dashboard(&[("metadata[seen]", "1")]).await;
    billed.world.settle().await;
    assert_eq!(usage(&billed, "api_calls").await, 30);

    let report = billed.report(Timestamp::now()).await;
    assert_eq!((report.sent, report.failed), (2, 0));
    assert_eq!(billed.told("api_calls", 0, restart).await, "101000");
    assert_eq!(billed.told("api_calls", restart, restart + DAY).await, "30");
    let upcoming = billed.tenant.get(billed.service(), UPCOMING).await.ok();
    assert_eq!(upcoming["totalAmount"], 9_900);
    // The restart's invoice was made before: 1,000 over the quota are lost.
    assert_eq!(report.unbilled.len(), 1);
    assert_eq!(report.unbilled[0].units.0, 1_000.into());
    assert_eq!(report.unbilled[0].reason.as_str(), "told_too_late");
}

#[tokio::test]
async fn what_is_dated_ahead_moves_with_two_ends_that_are_heard_of_at_once() {
    let at = Timestamp::now().as_second() - 5 * HOUR;
    let mut billed = Billed::without_subscription(Some(at)).await;
    billed.world.create("standard").await.ok();
    billed.catch_up().await;
    billed.world.settle().await;
    // Nobody works until both have come.
    let replica = billed.world.beside().await;
    billed.world.service.stop().await;
    let webhooks = format!("{}{WEBHOOKS}", replica.base);
    billed.world.deliver_to(&webhooks).await;
    let first = billed.catch_up().await;
    let (second, late) = (first + 2, first + 3);
    for (id, at) in [("a", first), ("b", second - 1), ("c", second), ("d", late)] {
        let at = Timestamp::from_second(at).unwrap();
        let event = json!({"id": id, "metric": "api_calls", "quantity": 10, "occurredAt": at});
        billed.tenant.post(&replica, EVENTS, &event).await.ok();
    }
    billed
        .in_dashboard(&[("billing_cycle_anchor", "now")])
        .await;
    while billed.catch_up().await < second {}
    let path = format!(
        "/v1/subscriptions/{}",
        text(&billed.subscription().await, "id")
    );
    let ended = billed
        .world
        .stripe
        .send(reqwest::Method::DELETE, &path, &[])
        .await;
    let ended = ended["ended_at"].as_i64().unwrap();
    billed.world.stripe.sandbox.deliveries_settled().await;
    let service = &mut billed.world.service;
    let options = Options {
        secrets: service.secrets.clone(),
        stripe_api: Some(billed.world.stripe.api()),
        ..Options::default()
    };
    *service = TestService::on(service.db.clone(), options).await;
    billed.world.settle().await;
    let counted =
        "SELECT string_agg(event_id || (period_start >= to_timestamp({})), ' ' ORDER BY event_id)
                     FROM usage_events"
            .replace("{}", &ended.to_string());
    let db = &billed.service().db;
    let expected = ["a", "b", "c", "d"]
        .iter()
        .zip([first, second - 1, second, late]);
    let expected: Vec<String> = expected
        .map(|(id, at)| format!("{id}{}", at >= ended))
        .collect();
    assert_eq!(db.value(&counted).await, expected.join(" "));
    let astray = "SELECT count(*) FROM usage_events e JOIN usage_totals t
                     USING (organization_id, metric, period_start)
                   WHERE e.occurred_at < t.period_start OR e.occurred_at >= t.period_end";
    assert_eq!(db.value(astray).await, "0");
}

#[tokio::test]
async fn who_ends_at_once_is_billed_for_what_was_used_so_far() {
    let billed = Billed::start().await;
    billed.record("a", "api_calls", "300000").await;
    // Stripe does not take it: then nothing ends.
    billed
        .world
        .stripe
        .fault(&[
            ("fault", "server_error"),
            ("every", "1"),
            ("path", "/v1/billing/meter_events"),
        ])
        .await;
    let refused = billed.world.cancel(true).await;
    assert_eq!(refused.problem(), (502, "stripe_failed"));
    assert_eq!(text(&billed.subscription().await, "status"), "active");
    billed.world.stripe.clear_faults().await;
    billed.catch_up().await;
    billed.world.cancel(true).await.ok();
    billed.world.settle().await;
    let last = billed
        .world
        .stripe
        .invoices(&billed.customer)
        .await
        .pop()
        .unwrap();
    assert_eq!(last["total"], 20_000, "200,000 over the quota");
    let report = billed.report(Timestamp::now()).await;
    assert_eq!((report.sent, report.unbilled.len()), (0, 0));
}

#[tokio::test]
async fn usage_that_is_told_in_the_second_of_the_end_is_billed() {
    let at = Timestamp::now().as_second() - 5 * HOUR;
    for (trial, expected) in [(false, 20_000), (true, 0)] {
        let billed = Billed::without_subscription(Some(at)).await;
        let mut body = json!({"planTier": "standard"});
        if trial {
            body["trialDays"] = json!(14);
        }
        let path = "/api/billing/subscription";
        let made = billed.world.call(reqwest::Method::POST, path, Some(body));
        made.await.ok();
        billed.world.settle().await;
        billed.record("a", "api_calls", "300000").await;
        // The clock stands: it is told, and ends, in one second.
        billed.catch_up().await;
        billed.world.cancel(true).await.ok();
        billed.world.settle().await;
        let invoices = billed.world.stripe.invoices(&billed.customer).await;
        let amounts = invoices.iter().map(|invoice| &invoice["total"]);
        let total: i64 = amounts.map(|amount| amount.as_i64().unwrap()).sum();
        let fee = if trial { 0 } else { 9_900 };
        assert_eq!(total, fee + expected);
        let report = billed.report(Timestamp::now()).await;
        assert_eq!(report.unbilled.len(), 0, "{:?}", report.unbilled);
    }
}

#[tokio::test]
async fn late_usage_is_taken_as_long_as_it_is_billed() {
    let billed = Billed::start().await;
    let db = &billed.service().db;
    // The period ended 29 minutes ago, and the next began by itself.
    db.execute(
        "UPDATE billing_subscriptions SET stripe_created_at = date_trunc('second', now()) - interval '20 days',
                current_period_start = date_trunc('second', now()) - interval '20 days',
                current_period_end = date_trunc('second', now()) - interval '29 minutes',
                billing_cycle_anchor = date_trunc('second', now()) - interval '29 minutes'",
    )
    .await;
    let ago = |minutes| Timestamp::now() - SignedDuration::from_mins(minutes);
    let event = |id: &str, at: Timestamp| json!({"id": id, "metric": "api_calls", "quantity": 150_000, "occurredAt": at});
    let late = event("a", ago(32));
    billed
        .tenant
        .post(billed.service(), EVENTS, &late)
        .await
        .ok();
    assert_eq!(usage(&billed, "api_calls").await, 0);
    let report = billed.report(Timestamp::now()).await;
    assert_eq!((report.sent, report.unbilled.len()), (1, 0));
    // A report that comes an hour after the end is too late.
    db.execute(
        "UPDATE billing_subscriptions SET current_period_end = date_trunc('second', now()) - interval '31 minutes'",
    )
    .await;
    db.execute("UPDATE billing_subscriptions SET billing_cycle_anchor = current_period_end")
        .await;
    let closed = event("b", ago(32));
    let closed = billed.tenant.post(billed.service(), EVENTS, &closed).await;
    assert_eq!(closed.problem(), (422, "period_closed"));
    // What was taken before is not refused when it comes again.
    let again = billed.tenant.post(billed.service(), EVENTS, &late).await;
    assert_eq!(again.ok()["status"], "duplicate");
}
