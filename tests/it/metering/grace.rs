//! Grace periods: one in a billing period, ended for a reason.

use serde_json::json;
use valuecanvas_billing::catalogue::{Catalogue, OverLimit};
use valuecanvas_billing::metering::{grace, quotas};

use super::tenant::{EVENTS, Tenant};
use crate::support::program::{program_on, run};
use crate::support::{TestService, events};

async fn limited() -> (TestService, Tenant) {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Limited").await;
    tenant
        .set_quota(&service, "agent_executions", "3", None)
        .await;
    for _ in 0..3 {
        let answer = tenant.execute(&service).await;
        assert_eq!(answer.header("x-quota-warning"), "");
        answer.ok();
    }
    (service, tenant)
}

async fn expire(service: &TestService) {
    service
        .db
        .execute(
            "UPDATE grace_periods SET started_at = started_at - interval '25 hours',
                    expires_at = expires_at - interval '25 hours'",
        )
        .await;
}

#[tokio::test]
async fn the_guides_call_warns_then_refuses_then_passes_after_an_upgrade() {
    let (service, tenant) = limited().await;
    let over = tenant.execute(&service).await;
    assert_eq!(over.header("x-quota-warning"), "true");
    let expires: jiff::Timestamp = over.header("x-grace-period-expires").parse().unwrap();
    let hours = expires.duration_since(jiff::Timestamp::now()).as_hours();
    assert!((23..=24).contains(&hours), "{expires}");
    assert_eq!(over.ok(), json!({"agentId": "test", "output": "test"}));
    assert_eq!(service.metric("grace_periods_active_total").await, Some(1));
    let by_metric = "grace_periods_active{metric=\"agent_executions\"}";
    assert_eq!(service.metric(by_metric).await, Some(1));

    expire(&service).await;
    let denied = tenant.execute(&service).await;
    assert_eq!(denied.problem(), (402, "QUOTA_EXCEEDED_GRACE_EXPIRED"));
    let body = &denied.body;
    assert_eq!(
        [
            &body["metric"],
            &body["usage"],
            &body["quota"],
            &body["gracePeriodExpired"]
        ],
        [
            &json!("agent_executions"),
            &json!(4),
            &json!(3),
            &json!(true)
        ]
    );
    assert_eq!(tenant.execute(&service).await.status, 402);
    let listed = tenant
        .get(&service, "/api/billing/grace-periods")
        .await
        .ok();
    assert_eq!(listed["data"][0]["endReason"], "expired");
    assert_eq!(service.db.count("grace_periods").await, 1);
    assert_eq!(service.metric("grace_periods_expired_total").await, Some(1));

    service
        .db
        .execute(&format!(
            "INSERT INTO billing_customers (stripe_customer_id, organization_id)
             VALUES ('cus_up', '{}')",
            tenant.organization
        ))
        .await;
    tenant
        .set_quota(&service, "agent_executions", "plan", None)
        .await;
    let subscription = events::subscription("sub_up", "cus_up", "active", "standard");
    let event = events::event(
        "evt_up",
        "customer.subscription.created",
        1_700_000_000,
        subscription,
    );
    service.deliver(&event).await;
    service.settle().await;
    tenant.execute(&service).await.ok();
}

#[tokio::test]
async fn a_higher_quota_that_covers_the_usage_ends_it_at_once() {
    let (service, tenant) = limited().await;
    tenant.execute(&service).await.ok();
    tenant
        .set_quota(&service, "agent_executions", "10", None)
        .await;
    let listed = tenant
        .get(&service, "/api/billing/grace-periods")
        .await
        .ok();
    assert_eq!(listed["data"][0]["endReason"], "quota_raised");
    assert_eq!(
        service.metric("grace_periods_converted_total").await,
        Some(1)
    );
    assert_eq!(tenant.execute(&service).await.header("x-quota-warning"), "");
    // Lowered again, the same grace period goes on: there is no second one.
    tenant
        .set_quota(&service, "agent_executions", "3", None)
        .await;
    assert_eq!(
        tenant.execute(&service).await.header("x-quota-warning"),
        "true"
    );
    expire(&service).await;
    assert_eq!(tenant.execute(&service).await.status, 402);
    assert_eq!(service.db.count("grace_periods").await, 1);
}

#[tokio::test]
async fn a_catalogue_that_raises_the_quota_ends_it() {
    // With workers the catalogue's quotas would come back at any moment.
    let service = TestService::intake_only().await;
    let tenant = Tenant::of(&service, "Raised").await;
    // As an older file had it.
    let lower = "UPDATE usage_quotas SET quota = 3 WHERE metric = 'agent_executions'";
    service.db.execute(lower).await;
    for _ in 0..4 {
        tenant.execute(&service).await.ok();
    }
    assert_eq!(
        service
            .db
            .count("grace_periods WHERE ended_at IS NULL")
            .await,
        1
    );
    let catalogue = Catalogue::load(None).unwrap();
    let applied = quotas::apply_catalogue(&service.db.service_pool(), &catalogue).await;
    assert!(applied.unwrap().changed > 0);
    let reason = "SELECT end_reason FROM grace_periods";
    assert_eq!(service.db.value(reason).await, "quota_raised");
    let entries = "billing_audit_log WHERE action = 'grace_period_ended'";
    assert_eq!(service.db.count(entries).await, 1);
}

#[tokio::test]
async fn an_upgrade_ends_it_and_says_so() {
    let (service, tenant) = limited().await;
    tenant.execute(&service).await.ok();
    tenant
        .set_quota(&service, "agent_executions", "plan", None)
        .await;
    tenant
        .post(
            &service,
            EVENTS,
            &json!({"id": "x", "metric": "agent_executions", "quantity": 200}),
        )
        .await
        .ok();
    service
        .db
        .execute(&format!(
            "INSERT INTO billing_customers (stripe_customer_id, organization_id)
             VALUES ('cus_up', '{}')",
            tenant.organization
        ))
        .await;
    let subscription = events::subscription("sub_up", "cus_up", "active", "standard");
    let event = events::event(
        "evt_up",
        "customer.subscription.created",
        1_700_000_000,
        subscription,
    );
    service.deliver(&event).await;
    service.settle().await;
    let listed = tenant
        .get(&service, "/api/billing/grace-periods?active=false")
        .await
        .ok();
    assert_eq!(listed["data"][0]["endReason"], "upgraded");
    let audited = service
        .db
        .value("SELECT string_agg(action, ' ' ORDER BY sequence) FROM billing_audit_log WHERE action LIKE 'grace%'")
        .await;
    assert!(audited.ends_with("grace_period_ended"), "{audited}");
}

#[tokio::test]
async fn a_new_billing_period_starts_anew() {
    let (service, tenant) = limited().await;
    tenant.execute(&service).await.ok();
    // A month ago, as if a month had passed.
    service
        .db
        .execute(
            "UPDATE usage_totals SET period_start = period_start - interval '1 month',
                    period_end = period_start;
             UPDATE grace_periods SET period_start = period_start - interval '1 month',
                    period_end = period_start",
        )
        .await;
    let fresh = tenant.execute(&service).await;
    assert_eq!(fresh.header("x-quota-usage"), "1");
    assert_eq!(fresh.header("x-quota-warning"), "");
    assert_eq!(grace::sweep(&service.db.service_pool()).await.unwrap(), 1);
    let reason = service
        .db
        .value("SELECT end_reason FROM grace_periods")
        .await;
    assert_eq!(reason, "period_ended");
}

#[tokio::test]
async fn it_expires_once_however_many_look() {
    let (service, tenant) = limited().await;
    tenant.execute(&service).await.ok();
    expire(&service).await;
    let pool = service.db.service_pool();
    let sweeps = (0..8).map(|_| grace::sweep(&pool));
    let ended: usize = futures_util::future::join_all(sweeps)
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum();
    assert_eq!(ended, 1);
    assert_eq!(tenant.execute(&service).await.status, 402);
    let audited = service
        .db
        .count("billing_audit_log WHERE action = 'grace_period_ended'")
        .await;
    assert_eq!(audited, 1);
}

#[tokio::test]
async fn usage_after_the_fact_starts_it_too() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Facts").await;
    let body = json!({"id": "a", "metric": "api_calls", "quantity": 1_001});
    tenant.post(&service, EVENTS, &body).await.ok();
    assert_eq!(service.db.count("grace_periods").await, 1);
}

#[tokio::test]
async fn a_downgrade_below_the_usage_begins_grace_with_the_next_use() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Shrinking").await;
    tenant
        .set_quota(&service, "api_calls", "5000", Some(OverLimit::Grace))
        .await;
    tenant.consume(&service, "api_calls", 4_000).await.ok();
    tenant.set_quota(&service, "api_calls", "plan", None).await;
    assert_eq!(service.db.count("grace_periods").await, 0);
    let next = tenant.consume(&service, "api_calls", 1).await;
    assert_eq!(next.header("x-quota-warning"), "true");
    assert_eq!(service.db.count("grace_periods").await, 1);
}

#[tokio::test]
async fn the_guides_clean_up_removes_what_ended_long_ago() {
    let (service, tenant) = limited().await;
    tenant.execute(&service).await.ok();
    service
        .db
        .execute(&format!(
            "INSERT INTO grace_periods (organization_id, metric, period_start, period_end, quota,
                                        usage_at_start, started_at, expires_at, ended_at, end_reason)
             SELECT '{}', 'api_calls', now() - d * interval '1 day', now() - (d - 30) * interval '1 day',
                    1, 2, now() - d * interval '1 day', now() - (d - 1) * interval '1 day',
                    now() - (d - 1) * interval '1 day', 'expired'
               FROM unnest(ARRAY[40, 90, 120]) d",
            tenant.organization
        ))
        .await;
    let cleanup = |days: &str| {
        run(&mut program_on(
            &service.db,
            &["grace-periods", "cleanup", "--older-than-days", days],
        ))
    };
    for days in ["0", "-1", "abc"] {
        assert_eq!(cleanup(days).status, 2, "{days}");
    }
    let ran = cleanup("30");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("Grace period cleanup completed"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("\"cleaned\":2"), "{}", ran.stderr);
    assert_eq!(service.db.count("grace_periods").await, 2);
    let listed = run(&mut program_on(
        &service.db,
        &["grace-periods", "list", "--active", "--json"],
    ));
    assert_eq!(listed.json().as_array().unwrap().len(), 1);
}
