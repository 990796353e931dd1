//! Every change leaves a mark.

use sqlx::Executor as _;

use super::receiver::{Receiver, Reply, endpoint, service, until_count};

/// While there is no endpoint, workers leave no marks. Whoever did not see the first one
/// commits before it is there, so that everything after it is marked.
#[tokio::test]
async fn the_first_endpoint_waits_for_changes_that_did_not_see_it() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let organization = service.organization("Acme").await;
    until_count(&service, "outbound_changes", 0).await;
    let mut change = service.db.pool.begin().await.unwrap();
    let mark = format!(
        "SET LOCAL ROLE billing_worker;
         INSERT INTO outbound_changes (organization_id)
         SELECT '{organization}' WHERE EXISTS (SELECT FROM outbound_endpoints)"
    );
    change
        .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(mark)))
        .await
        .unwrap();
    let waits = "pg_locks l
        WHERE l.relation = 'outbound_changes'::regclass AND NOT l.granted AND l.mode = 'ShareLock'
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    tokio::join!(endpoint(&service.db, &receiver, &[]), async {
        until_count(&service, waits, 1).await;
        assert_eq!(service.db.count("outbound_endpoints").await, 0);
        change.commit().await.unwrap();
    });
    assert_eq!(service.db.count("outbound_endpoints").await, 1);
}
