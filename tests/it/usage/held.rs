//! An account that another session holds delays nobody else.

use std::time::Duration;

use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::tenant::{EVENTS, Tenant};
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
