//! An account that another session holds delays nobody else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::fairness::neighbours;
use super::tenant::{CHECK, EVENTS, Tenant};
use crate::support::TestService;

#[tokio::test]
async fn a_held_account_keeps_nobody_else_waiting() {
    let service = TestService::start().await;
    let held = Tenant::of(&service, "Held").await;
    let mut others = Vec::new();
    for number in 0..8 {
        others.push(Tenant::of(&service, &format!("Other {number}")).await);
    }
    let mut holder = PgConnection::connect_with(&service.db.options("postgres"))
        .await
        .unwrap();
    let mut tx = holder.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM usage_quotas WHERE organization_id = $1 FOR UPDATE")
        .bind(held.organization)
        .execute(&mut *tx)
        .await
        .unwrap();
    // Each round has a request of the held account, which waits in vain.
    let round = async |round: u32| {
        let id = format!("held-{round}");
        let body = json!({"id": id, "metric": "api_calls", "quantity": 1});
        let waiting = held.post(&service, EVENTS, &body);
        let others = others
            .iter()
            .map(|other| other.consume(&service, "api_calls", 1));
        let all = futures_util::future::join_all(others);
        let (waited, answers) = tokio::join!(waiting, all);
        assert_eq!(waited.problem(), (503, "usage_unavailable"));
        for answer in answers {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    for number in 0..2 {
        round(number).await;
    }
    // While it still waits, the others come and go: more than once each.
    let body = json!({"id": "last", "metric": "api_calls", "quantity": 1});
    let waiting = held.post(&service, EVENTS, &body);
    let busy = async {
        for _ in 0..20 {
            for other in &others {
                assert_eq!(other.consume(&service, "api_calls", 1).await.status, 200);
            }
        }
    };
    let freed = async {
        busy.await;
        tx.rollback().await.unwrap();
    };
    let first = tokio::time::timeout(Duration::from_secs(60), async {
        tokio::join!(waiting, freed)
    });
    let (answered, ()) = first.await.unwrap();
    // It is counted when the account is free in time, and never twice.
    assert!([200, 503].contains(&answered.status), "{answered:?}");
    let again = held.post(&service, EVENTS, &body).await;
    assert_eq!(again.status, 200);
    assert_eq!(held.total(&service, "api_calls").await, "1");
    for other in &others {
        assert_eq!(other.total(&service, "api_calls").await, "22");
    }
}

/// Whatever another session holds of an organization, and however much that
/// one sends: its neighbour in the lane is answered all the while.
async fn assert_nobody_waits_with(service: &TestService, hold: &'static str) {
    let tenants = neighbours(service, 2).await;
    let (held, other) = (&tenants[0], &tenants[1]);
    // Every row is there, and grace runs: its end is entered in the audit log.
    held.set_quota(service, "api_calls", "1", None).await;
    held.consume(service, "api_calls", 5).await.ok();
    service
        .db
        .execute(&format!(
            "UPDATE grace_periods SET started_at = now() - interval '2 days',
                                      expires_at = now() - interval '1 day'
              WHERE organization_id = '{}'",
            held.organization
        ))
        .await;
    let mut holder = PgConnection::connect_with(&service.db.options("postgres"))
        .await
        .unwrap();
    let mut tx = holder.begin().await.unwrap();
    sqlx::query(hold)
        .bind(held.organization)
        .execute(&mut *tx)
        .await
        .unwrap();
    let refused = AtomicUsize::new(0);
    let flood = futures_util::future::join_all((0..300).map(|number| {
        let body = if number % 2 == 0 {
            json!([{"id": format!("held-{number}"), "metric": "api_calls", "quantity": 1}])
        } else {
            json!({"metric": "api_calls", "quantity": 1, "consume": true})
        };
        let path = if number % 2 == 0 { EVENTS } else { CHECK };
        let refused = &refused;
        async move {
            let answer = held.post(service, path, &body).await;
            if answer.status == 503 {
                refused.fetch_add(1, Ordering::Relaxed);
            }
            answer
        }
    }));
    // Until the first of the held ones is given up, after two seconds.
    let busy = async {
        let mut answered = 0;
        while refused.load(Ordering::Relaxed) == 0 {
            let answer = other.consume(service, "llm_tokens", 1).await;
            assert_eq!(answer.status, 200, "{hold}: {answer:?}");
            answered += 1;
        }
        answered
    };
    let done = tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(flood, busy) });
    let (answers, answered) = done.await.expect("the held ones are given up");
    assert!(
        answered >= 10,
        "{hold}: {answered} of the other's were answered"
    );
    for answer in answers {
        assert!(
            [200, 402, 503].contains(&answer.status),
            "{hold}: {answer:?}"
        );
    }
    tx.rollback().await.unwrap();
    // It counts again.
    held.post(
        service,
        EVENTS,
        &json!({"id": "after", "metric": "api_calls", "quantity": 1}),
    )
    .await
    .ok();
}

#[tokio::test]
async fn nobody_waits_for_anothers_quotas() {
    let service = TestService::start().await;
    assert_nobody_waits_with(
        &service,
        "SELECT 1 FROM usage_quotas WHERE organization_id = $1 FOR UPDATE",
    )
    .await;
}

#[tokio::test]
async fn nobody_waits_for_anothers_totals() {
    let service = TestService::start().await;
    assert_nobody_waits_with(
        &service,
        "SELECT 1 FROM usage_totals WHERE organization_id = $1 FOR UPDATE",
    )
    .await;
}

#[tokio::test]
async fn nobody_waits_for_anothers_grace_period() {
    let service = TestService::start().await;
    assert_nobody_waits_with(
        &service,
        "SELECT 1 FROM grace_periods WHERE organization_id = $1 FOR UPDATE",
    )
    .await;
}

#[tokio::test]
async fn nobody_waits_for_anothers_audit_chain() {
    let service = TestService::start().await;
    assert_nobody_waits_with(
        &service,
        "SELECT 1 FROM billing_audit_chain_heads WHERE organization_id = $1 FOR UPDATE",
    )
    .await;
}

#[tokio::test]
async fn a_held_organization_counts_all_the_same() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Held").await;
    let mut holder = PgConnection::connect_with(&service.db.options("postgres"))
        .await
        .unwrap();
    let mut tx = holder.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM organizations WHERE id = $1 FOR UPDATE")
        .bind(tenant.organization)
        .execute(&mut *tx)
        .await
        .unwrap();
    for number in 0..3 {
        let body = json!({"id": number.to_string(), "metric": "api_calls", "quantity": 1});
        tenant.post(&service, EVENTS, &body).await.ok();
    }
    tx.rollback().await.unwrap();
}
