//! Uses that were counted by mistake are taken back.

use jiff::Timestamp;
use reqwest::Method;
use serde_json::json;
use valuecanvas_billing::catalogue::OverLimit;

use super::billed::Billed;
use super::tenant::{Answer, EVENTS, Tenant};
use crate::support::TestService;

impl Tenant {
    async fn report(&self, service: &TestService, id: &str, quantity: u32) -> Answer {
        let event = json!({"id": id, "metric": "api_calls", "quantity": quantity});
        self.post(service, EVENTS, &event).await
    }

    async fn take_back(&self, service: &TestService, id: &str) -> Answer {
        let path = format!("{EVENTS}/{id}");
        self.send(service, Method::DELETE, &path, None).await
    }
}

#[tokio::test]
async fn a_use_is_taken_back_once_and_its_id_stays_used() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Mistaken").await;
    tenant.report(&service, "right", 3).await.ok();
    tenant.report(&service, "wrong", 40).await.ok();
    let taken = tenant.take_back(&service, "wrong").await.ok();
    assert_eq!(
        [
            &taken["id"],
            &taken["status"],
            &taken["metric"],
            &taken["quantity"]
        ],
        [
            &json!("wrong"),
            &json!("taken_back"),
            &json!("api_calls"),
            &json!(40)
        ]
    );
    assert_eq!(tenant.take_back(&service, "wrong").await.ok(), taken);
    assert_eq!(tenant.total(&service, "api_calls").await, "3");
    assert_eq!(tenant.usage(&service, "api_calls").await["usage"], 3);
    for quantity in [40, 0] {
        let again = tenant.report(&service, "wrong", quantity).await;
        assert_eq!(again.problem(), (409, "event_taken_back"));
    }
    let entry = "billing_audit_log WHERE action = 'usage_taken_back' AND resource_id = 'wrong'";
    assert_eq!(service.db.count(entry).await, 1);
    let stranger = Tenant::of(&service, "Stranger").await;
    let answer = stranger.take_back(&service, "right").await;
    assert_eq!(answer.problem(), (404, "event_not_found"));
}

#[tokio::test]
async fn a_grace_period_ends_with_what_caused_it_and_alerts_stay() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Crossing").await;
    tenant
        .set_quota(&service, "api_calls", "10", Some(OverLimit::Grace))
        .await;
    tenant.report(&service, "right", 6).await.ok();
    tenant.report(&service, "wrong", 5).await.ok();
    assert_eq!(
        service
            .db
            .count("grace_periods WHERE ended_at IS NULL")
            .await,
        1
    );
    tenant.take_back(&service, "wrong").await.ok();
    let ended = "grace_periods WHERE end_reason = 'quota_raised'";
    assert_eq!(service.db.count(ended).await, 1);
    assert_eq!(service.db.count("usage_alerts").await, 2);
    // The mistake used up nobody's grace: the first true crossing begins one, of full length.
    service
        .db
        .execute(
            "UPDATE grace_periods SET started_at = started_at - interval '3 days',
                                      ended_at = ended_at - interval '3 days',
                                      expires_at = expires_at - interval '3 days'",
        )
        .await;
    tenant.report(&service, "more", 5).await.ok();
    let allowed = tenant.consume(&service, "api_calls", 1).await;
    assert_eq!(allowed.header("x-quota-warning"), "true");
    let whole = "grace_periods WHERE end_reason IS NULL
                   AND expires_at > now() + interval '23 hours' AND usage_at_start = 11";
    assert_eq!(service.db.count(whole).await, 1);
    assert_eq!(
        service
            .db
            .count("grace_periods WHERE ended_at IS NULL")
            .await,
        1
    );
    assert_eq!(service.db.count("grace_periods").await, 1);
    assert_eq!(service.db.count("usage_alerts").await, 3);
}

#[tokio::test]
async fn a_closed_period_and_a_level_are_not_changed() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Late").await;
    tenant.report(&service, "old", 4).await.ok();
    service
        .db
        .execute(
            "UPDATE usage_events SET period_start = '2020-01-01';
             UPDATE usage_totals SET period_start = '2020-01-01', period_end = '2020-02-01'",
        )
        .await;
    let answer = tenant.take_back(&service, "old").await;
    assert_eq!(answer.problem(), (409, "usage_invoiced"));
    assert_eq!(tenant.total(&service, "api_calls").await, "4");
    let level = json!({"id": "seats", "metric": "user_seats", "quantity": 2});
    tenant.post(&service, EVENTS, &level).await.ok();
    let answer = tenant.take_back(&service, "seats").await;
    assert_eq!(answer.problem(), (422, "metric_not_summed"));
}

/// A crossing that would have happened without the mistake is one.
#[tokio::test]
async fn a_grace_period_that_was_needed_anyway_goes_on() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Over").await;
    tenant
        .set_quota(&service, "api_calls", "10", Some(OverLimit::Grace))
        .await;
    tenant.report(&service, "right", 12).await.ok();
    tenant.report(&service, "wrong", 5).await.ok();
    tenant.take_back(&service, "wrong").await.ok();
    let goes_on = "grace_periods WHERE ended_at IS NULL";
    assert_eq!(service.db.count(goes_on).await, 1);
}

/// A change of prices that charged nothing leaves nothing to be credited.
#[tokio::test]
async fn only_what_a_change_of_prices_charged_stays() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Changing").await;
    tenant.report(&service, "before", 40).await.ok();
    tenant.report(&service, "charged", 4).await.ok();
    service
        .db
        .execute("UPDATE usage_totals SET metered_since = now()")
        .await;
    tenant.take_back(&service, "before").await.ok();
    assert_eq!(tenant.total(&service, "api_calls").await, "4");
    service
        .db
        .execute(
            "INSERT INTO usage_charges (organization_id, id, metric, period_start,
                                        stripe_customer_id, stripe_subscription_id,
                                        stripe_price_id, units, overage_rate, amount, currency,
                                        changed_at, charged_by, charged_at)
             SELECT organization_id, gen_random_uuid(), metric, period_start, 'cus_1', 'sub_1',
                    'price_1', 4, 1, 400, 'usd', now(), 'change', now()
               FROM usage_totals",
        )
        .await;
    let answer = tenant.take_back(&service, "charged").await;
    assert_eq!(answer.problem(), (409, "usage_invoiced"));
    tenant.report(&service, "after", 3).await.ok();
    tenant.take_back(&service, "after").await.ok();
    assert_eq!(tenant.total(&service, "api_calls").await, "4");
}

#[tokio::test]
async fn a_cloud_event_is_named_by_its_source_and_id() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Sourced").await;
    let event = json!({"specversion": "1.0", "id": "1", "source": "/agents/a", "type": "api_calls",
                       "data": {"quantity": 2}});
    let kind = "application/cloudevents+json";
    let sent = tenant
        .post_raw(&service, EVENTS, kind, event.to_string())
        .await;
    sent.ok();
    assert_eq!(tenant.take_back(&service, "1").await.status, 404);
    let path = "1?source=%2Fagents%2Fa";
    assert_eq!(tenant.take_back(&service, path).await.ok()["quantity"], 2);
    assert_eq!(tenant.total(&service, "api_calls").await, "0");
}

#[tokio::test]
async fn stripe_is_told_of_less_by_the_next_report() {
    let billed = Billed::start().await;
    billed.record("right", "llm_tokens", "100").await;
    billed.record("wrong", "llm_tokens", "900").await;
    let now = Timestamp::now();
    billed.report(now).await;
    assert_eq!(billed.in_stripe("llm_tokens").await, json!(1_000));
    let service = billed.service();
    billed.tenant.take_back(service, "wrong").await.ok();
    billed.report(now).await;
    assert_eq!(billed.in_stripe("llm_tokens").await, json!(100));
    // As much again is another use, and told of as one.
    billed.record("another", "llm_tokens", "900").await;
    billed.report(now).await;
    assert_eq!(billed.in_stripe("llm_tokens").await, json!(1_000));
}
