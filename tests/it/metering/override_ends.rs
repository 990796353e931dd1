//! Overrides of quotas whose end has come.

use valuecanvas_billing::catalogue::Catalogue;
use valuecanvas_billing::metering::quotas;

use crate::support::TestDatabase;

const OURS: &str = "usage_quota_overrides WHERE metric = 'api_calls'";
const ENTERED: &str = "billing_audit_log WHERE action = 'quota_override_expired'";

/// An override of the organization's calls that ended an hour ago.
async fn ended(db: &TestDatabase) {
    let organization = db.organization("cus_1").await;
    db.execute(&format!(
        "INSERT INTO usage_quota_overrides (organization_id, metric, unlimited, expires_at)
         VALUES ('{organization}', 'api_calls', true, now() - interval '1 hour')"
    ))
    .await;
}

#[tokio::test]
async fn those_that_cannot_be_ended_hold_up_no_others() {
    let db = TestDatabase::new().await;
    ended(&db).await;
    // Metrics that the catalogue no longer has.
    db.execute(
        "INSERT INTO usage_quota_overrides (organization_id, metric, unlimited, expires_at)
         SELECT organization_id, 'gone_' || n, true, now() - interval '2 hours'
           FROM usage_quota_overrides, generate_series(1, 100) n",
    )
    .await;
    let (pool, catalogue) = (db.service_pool(), Catalogue::load(None).unwrap());
    assert_eq!(quotas::sweep(&pool, &catalogue).await.unwrap(), 1);
    assert_eq!(db.count(OURS).await, 0);
    assert_eq!(quotas::sweep(&pool, &catalogue).await.unwrap(), 0);
    assert_eq!(db.count(ENTERED).await, 1);
}

#[tokio::test]
async fn replicas_end_one_once() {
    let db = TestDatabase::new().await;
    ended(&db).await;
    let (pool, catalogue) = (db.service_pool(), Catalogue::load(None).unwrap());
    let (one, other) = tokio::join!(
        quotas::sweep(&pool, &catalogue),
        quotas::sweep(&pool, &catalogue)
    );
    assert_eq!(one.unwrap() + other.unwrap(), 1);
    assert_eq!(db.count(ENTERED).await, 1);
    assert_eq!(db.count(OURS).await, 0);
}
