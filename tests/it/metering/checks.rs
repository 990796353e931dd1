//! Decisions: within the quota, over it by each kind, and where none can be
//! made.

use serde_json::json;
use valuecanvas_billing::catalogue::OverLimit;
use valuecanvas_billing::tenancy::auth::Permission;

use super::tenant::{CHECK, Tenant};
use crate::support::TestService;
use crate::support::service::Options;

#[tokio::test]
async fn a_question_consumes_nothing() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Asking").await;
    let ask = json!({"metric": "api_calls", "quantity": 400, "consume": false});
    for _ in 0..3 {
        let answer = tenant.post(&service, CHECK, &ask).await.ok();
        assert_eq!(
            answer,
            json!({"allowed": true, "metric": "api_calls", "usage": 0, "limit": 1000,
                   "remaining": 1000, "percentage": 0, "gracePeriod": null, "code": null})
        );
    }
    let answer = tenant.consume(&service, "api_calls", 333).await;
    for (name, value) in [
        ("x-quota-remaining", "667"),
        ("x-quota-percentage", "33.3"),
        ("x-quota-limit", "1000"),
        ("x-quota-usage", "333"),
        ("x-quota-metric", "api_calls"),
        ("x-quota-warning", ""),
        ("x-grace-period-expires", ""),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    assert_eq!(answer.ok()["usage"], 333);
}

#[tokio::test]
async fn a_hard_limit_is_met_and_not_exceeded() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Seated").await;
    tenant.consume(&service, "user_seats", 3).await.ok();
    let denied = tenant.consume(&service, "user_seats", 4).await;
    assert_eq!(denied.problem(), (402, "QUOTA_EXCEEDED"));
    assert_eq!(denied.header("content-type"), "application/problem+json");
    let body = &denied.body;
    assert_eq!(
        [
            &body["allowed"],
            &body["usage"],
            &body["quota"],
            &body["metric"],
            &body["gracePeriodExpired"]
        ],
        [
            &json!(false),
            &json!(3),
            &json!(3),
            &json!("user_seats"),
            &json!(false)
        ]
    );
    // A level may fall, and rise again.
    tenant.consume(&service, "user_seats", 1).await.ok();
    tenant.consume(&service, "user_seats", 3).await.ok();
    assert_eq!(tenant.total(&service, "user_seats").await, "3");
}

#[tokio::test]
async fn one_id_is_consumed_once_even_when_the_limit_is_reached_since() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Again").await;
    tenant
        .set_quota(&service, "api_calls", "2", Some(OverLimit::Hard))
        .await;
    let named = |id: &str| json!({"metric": "api_calls", "quantity": 1, "consume": true, "id": id});
    tenant.post(&service, CHECK, &named("a")).await.ok();
    tenant.post(&service, CHECK, &named("b")).await.ok();
    let again = tenant.post(&service, CHECK, &named("a")).await.ok();
    assert_eq!(
        (&again["allowed"], &again["usage"]),
        (&json!(true), &json!(2))
    );
    assert_eq!(tenant.post(&service, CHECK, &named("c")).await.status, 402);
    let other = json!({"metric": "api_calls", "quantity": 2, "consume": true, "id": "a"});
    let reused = tenant.post(&service, CHECK, &other).await;
    assert_eq!(reused.problem(), (409, "event_id_reused"));
}

#[tokio::test]
async fn over_an_overage_quota_calls_pass_with_a_warning_and_a_price() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Paying").await;
    service
        .db
        .execute(&format!(
            "UPDATE usage_quotas SET over_limit = 'overage', overage_rate = 0.10, quota = 5
              WHERE organization_id = '{}' AND metric = 'agent_executions'",
            tenant.organization
        ))
        .await;
    tenant.consume(&service, "agent_executions", 5).await.ok();
    let over = tenant.consume(&service, "agent_executions", 3).await;
    assert_eq!(over.header("x-quota-warning"), "true");
    assert_eq!(over.header("x-grace-period-expires"), "");
    assert_eq!(over.header("x-quota-remaining"), "0");
    assert_eq!(over.ok()["percentage"], 160);
    let usage = tenant.usage(&service, "agent_executions").await;
    assert_eq!(
        [
            &usage["overage"],
            &usage["overageRate"],
            &usage["overageAmount"],
            &usage["currency"]
        ],
        [&json!(3), &json!("0.1"), &json!(30), &json!("usd")]
    );
}

#[tokio::test]
async fn an_override_wins_until_the_plan_is_asked_for_again() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Special").await;
    tenant
        .set_quota(&service, "user_seats", "unlimited", None)
        .await;
    let answer = tenant.consume(&service, "user_seats", 5_000).await;
    assert_eq!(answer.header("x-quota-limit"), "unlimited");
    assert_eq!(answer.ok()["limit"], json!(null));
    tenant.set_quota(&service, "user_seats", "plan", None).await;
    assert_eq!(
        tenant.consume(&service, "user_seats", 5_001).await.status,
        402
    );
    let quotas = tenant.get(&service, "/api/billing/quotas").await.ok();
    let seats = quotas["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|q| q["metric"] == "user_seats");
    assert_eq!(seats.unwrap()["overridden"], false);
    let entries = service
        .db
        .count("billing_audit_log WHERE action = 'quota_set'")
        .await;
    assert_eq!(entries, 2);
}

#[tokio::test]
async fn a_missing_quota_is_not_unlimited() {
    // With workers it would bring the quotas back that the catalogue has.
    let service = TestService::intake_only().await;
    let tenant = Tenant::of(&service, "Bare").await;
    service.db.execute("DELETE FROM usage_quotas").await;
    let check = tenant.consume(&service, "api_calls", 1).await;
    assert_eq!(check.problem(), (503, "quota_missing"));
    let body = json!({"id": "a", "metric": "api_calls", "quantity": 1});
    let event = tenant.post(&service, super::tenant::EVENTS, &body).await;
    assert_eq!(event.problem(), (503, "quota_missing"));
    assert_eq!(service.db.count("usage_events").await, 0);
}

#[tokio::test]
async fn what_is_counted_needs_the_permission_to_count() {
    let service = TestService::start().await;
    let mut tenant = Tenant::of(&service, "Reader").await;
    tenant.key = service
        .api_key(tenant.organization, &[Permission::BillingRead])
        .await;
    assert_eq!(
        tenant.consume(&service, "api_calls", 1).await.problem(),
        (403, "forbidden")
    );
    tenant.get(&service, "/api/billing/usage").await.ok();
}

/// Holds the quota's row, so that nothing can be decided.
async fn block(service: &TestService) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut tx = service.db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE usage_quotas IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx
}

#[tokio::test]
async fn without_a_decision_calls_are_refused_unless_configured_to_pass() {
    let plans = include_str!("../../../config/plans.toml").replacen(
        "llm_tokens = { aggregation = \"sum\"",
        "llm_tokens = { aggregation = \"sum\", fail_open = true",
        1,
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), plans).unwrap();
    let service = TestService::with(Options {
        plans_file: Some(file.path().to_owned()),
        ..Options::default()
    })
    .await;
    let tenant = Tenant::of(&service, "Failing").await;
    tenant.consume(&service, "api_calls", 1).await.ok();
    let blocked = block(&service).await;
    let closed = tenant.consume(&service, "api_calls", 1).await;
    assert_eq!(closed.problem(), (503, "usage_unavailable"));
    assert!(!closed.header("retry-after").is_empty());
    let open = tenant.consume(&service, "llm_tokens", 1).await;
    assert_eq!(open.header("x-quota-failed-open"), "true");
    assert_eq!(open.ok()["allowed"], true);
    blocked.rollback().await.unwrap();
    tenant.consume(&service, "api_calls", 1).await.ok();
    assert_eq!(tenant.total(&service, "api_calls").await, "2");
    let series = "quota_decisions_total{outcome=\"failed_open\",metric=\"llm_tokens\"}";
    assert_eq!(service.metric(series).await, Some(1));
}
