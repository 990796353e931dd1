//! Levels that are dated ahead count when their time comes.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use valuecanvas_billing::catalogue::OverLimit;
use valuecanvas_billing::tenancy::auth::Role;

use super::tenant::{CHECK, EVENTS, Tenant};
use crate::support::TestService;
use crate::support::service::Options;

async fn tell(service: &TestService, tenant: &Tenant, id: &str, level: i64, ahead: i64) {
    let at = Timestamp::now() + SignedDuration::from_secs(ahead);
    let event = json!({"id": id, "metric": "storage_gb", "quantity": level, "occurredAt": at});
    let answer = tenant.post(service, EVENTS, &event).await.ok();
    assert_eq!(answer["status"], "recorded");
}

/// Lets all that is ahead be now.
async fn let_time_pass(service: &TestService) {
    service
        .db
        .execute(
            "WITH moved AS (UPDATE usage_pending_levels SET occurred_at = now()
                            RETURNING organization_id, event_id)
             UPDATE usage_events e SET occurred_at = now() FROM moved m
              WHERE e.organization_id = m.organization_id AND e.event_id = m.event_id",
        )
        .await;
}

async fn with_storage(service: &TestService) -> Tenant {
    let tenant = Tenant::of(service, "Stored").await;
    tenant
        .set_quota(service, "storage_gb", "100", Some(OverLimit::Hard))
        .await;
    tenant
}

#[tokio::test]
async fn a_level_ahead_neither_counts_nor_hides_what_is_used_until_then() {
    let service = TestService::intake_only().await;
    let tenant = with_storage(&service).await;
    tenant.consume(&service, "storage_gb", 5).await.ok();
    tell(&service, &tenant, "zero", 0, 290).await;
    assert_eq!(tenant.usage(&service, "storage_gb").await["usage"], 5);
    // The same again is the same event.
    assert_eq!(service.db.count("usage_pending_levels").await, 1);
    let checked = tenant.consume(&service, "storage_gb", 60).await.ok();
    assert_eq!(checked["usage"], 60);
    let over = tenant.consume(&service, "storage_gb", 101).await;
    assert_eq!(over.problem(), (402, "QUOTA_EXCEEDED"));
    assert_eq!(tenant.total(&service, "storage_gb").await, "60");
    let_time_pass(&service).await;
    // Whoever reads sees it, and who asks next writes it.
    assert_eq!(tenant.usage(&service, "storage_gb").await["usage"], 0);
    assert_eq!(tenant.total(&service, "storage_gb").await, "60");
    let question = json!({"metric": "storage_gb", "quantity": 1});
    let asked = tenant.post(&service, CHECK, &question).await.ok();
    assert_eq!(asked["usage"], 0);
    assert_eq!(tenant.total(&service, "storage_gb").await, "0");
    assert_eq!(service.db.count("usage_pending_levels").await, 0);
    tenant.consume(&service, "storage_gb", 7).await.ok();
    assert_eq!(tenant.total(&service, "storage_gb").await, "7");
}

#[tokio::test]
async fn of_several_ahead_each_has_its_time() {
    let service = TestService::intake_only().await;
    let tenant = with_storage(&service).await;
    for (id, level, ahead) in [("c", 30, 270), ("a", 10, 90), ("b", 20, 180)] {
        tell(&service, &tenant, id, level, ahead).await;
    }
    let mut seen = Vec::new();
    for id in ["a", "b", "c"] {
        let due =
            format!("UPDATE usage_pending_levels SET occurred_at = now() WHERE event_id = '{id}'");
        service.db.execute(&due).await;
        let usage = tenant.usage(&service, "storage_gb").await;
        seen.push(usage["usage"].as_i64().unwrap());
        tell(&service, &tenant, &format!("{id}-other"), 99, 290).await;
        let events = "SELECT events FROM usage_totals";
        assert_eq!(service.db.value(events).await, (3 + seen.len()).to_string());
    }
    assert_eq!(seen, [10, 20, 30]);
    // Those of one group, and a sum is counted at once.
    let at = Timestamp::now() + SignedDuration::from_mins(2);
    let batch = json!([
        {"id": "x", "metric": "storage_gb", "quantity": 1, "occurredAt": at},
        {"id": "y", "metric": "storage_gb", "quantity": 2},
        {"id": "z", "metric": "api_calls", "quantity": 3, "occurredAt": at},
    ]);
    assert_eq!(
        tenant.post(&service, EVENTS, &batch).await.ok()["recorded"],
        3
    );
    assert_eq!(tenant.total(&service, "storage_gb").await, "2");
    assert_eq!(tenant.total(&service, "api_calls").await, "3");
}

/// Waits until no level waits any more.
async fn taken(service: &TestService) {
    for _ in 0..500 {
        if service.db.count("usage_pending_levels").await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("a level was not taken");
}

#[tokio::test]
async fn what_nobody_asks_about_is_taken_in_its_time_and_alerts() {
    let service = TestService::intake_only().await;
    let tenant = with_storage(&service).await;
    tenant.consume(&service, "storage_gb", 1).await.ok();
    tell(&service, &tenant, "much", 150, 200).await;
    assert_eq!(service.db.count("usage_alerts").await, 0);
    let_time_pass(&service).await;
    let _sweeping = TestService::beside_with(&service, Options::default()).await;
    taken(&service).await;
    assert_eq!(tenant.total(&service, "storage_gb").await, "150");
    assert_eq!(service.db.count("usage_alerts").await, 3);
}

#[tokio::test]
async fn what_was_forgotten_for_hours_is_what_its_period_ended_with() {
    let service = TestService::intake_only().await;
    let tenant = with_storage(&service).await;
    tenant.consume(&service, "storage_gb", 1).await.ok();
    tell(&service, &tenant, "last", 42, 200).await;
    // All of it lies in a period that ended long ago.
    service
        .db
        .execute(
            "UPDATE usage_totals SET period_start = date_trunc('second', now()) - interval '40 days',
                    period_end = now() - interval '3 hours',
                    last_at = now() - interval '5 hours';
             UPDATE usage_events SET period_start = date_trunc('second', now()) - interval '40 days',
                    recorded_at = now() - interval '5 hours',
                    occurred_at = CASE WHEN event_id = 'last' THEN now() - interval '4 hours' END;
             UPDATE usage_pending_levels SET period_start = date_trunc('second', now()) - interval '40 days',
                    occurred_at = now() - interval '4 hours'",
        )
        .await;
    let _sweeping = TestService::beside_with(&service, Options::default()).await;
    taken(&service).await;
    assert_eq!(tenant.total(&service, "storage_gb").await, "42");
}

#[tokio::test]
async fn the_catalogue_may_leave_levels_to_the_products_keys() {
    let plans = include_str!("../../../config/plans.toml").replacen(
        "storage_gb = { aggregation = \"last\"",
        "storage_gb = { aggregation = \"last\", told_by = \"api_keys\"",
        1,
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), plans).unwrap();
    let service = TestService::with(Options {
        plans_file: Some(file.path().to_owned()),
        ..Options::default()
    })
    .await;
    let tenant = with_storage(&service).await;
    let owner = Tenant {
        organization: tenant.organization,
        key: service.token(tenant.organization, Role::Owner).await,
    };
    tenant.consume(&service, "storage_gb", 50).await.ok();
    let zero = json!({"id": "zero", "metric": "storage_gb", "quantity": 0});
    let other = json!({"id": "other", "metric": "user_seats", "quantity": 1});
    let refused = owner.post(&service, EVENTS, &zero).await;
    assert_eq!(refused.problem(), (403, "metric_by_keys_only"));
    let batch = owner
        .post(&service, EVENTS, &json!([zero, other]))
        .await
        .ok();
    assert_eq!(batch["results"][0]["code"], "metric_by_keys_only");
    assert_eq!(batch["results"][1]["status"], "recorded");
    let checked = owner.consume(&service, "storage_gb", 0).await;
    assert_eq!(checked.problem(), (403, "metric_by_keys_only"));
    let question = json!({"metric": "storage_gb", "quantity": 60});
    owner.post(&service, CHECK, &question).await.ok();
    assert_eq!(tenant.total(&service, "storage_gb").await, "50");
    // The product's own program may.
    tenant.post(&service, EVENTS, &zero).await.ok();
    assert_eq!(tenant.total(&service, "storage_gb").await, "0");
}

/// Without times of their own, levels hold in the order in which they are said.
#[tokio::test]
async fn the_later_of_two_levels_in_a_batch_holds() {
    let service = TestService::intake_only().await;
    let tenant = with_storage(&service).await;
    for (first, second) in [("b", "a"), ("c", "d"), ("z", "e")] {
        let batch = json!([
            {"id": first, "metric": "storage_gb", "quantity": 5},
            {"id": second, "metric": "storage_gb", "quantity": 7},
        ]);
        tenant.post(&service, EVENTS, &batch).await.ok();
        assert_eq!(tenant.total(&service, "storage_gb").await, "7");
        let again =
            json!({"id": format!("{first}{second}"), "metric": "storage_gb", "quantity": 3});
        tenant.post(&service, EVENTS, &again).await.ok();
        assert_eq!(tenant.total(&service, "storage_gb").await, "3");
    }
    let order = "SELECT string_agg(event_id, ' ' ORDER BY recorded_at) FROM usage_events";
    assert_eq!(service.db.value(order).await, "b a ba c d cd z e ze");
}
