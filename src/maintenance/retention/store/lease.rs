//! The lease of a job that one process runs for all.

use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::db::WorkerTx;

/// How long a run that died keeps others from running.
pub const LEASE: Duration = Duration::from_secs(60);

/// Takes the lease of `job`, or holds on to it; false: another has it.
pub async fn take(pool: &PgPool, job: &str, lease_id: Uuid) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let taken = sqlx::query_scalar!(
        "INSERT INTO billing_job_leases AS held (job, lease_id, lease_expires_at)
         VALUES ($1, $2, now() + $3::integer * interval '1 second')
         ON CONFLICT (job) DO UPDATE SET
           lease_id = excluded.lease_id, lease_expires_at = excluded.lease_expires_at
          WHERE held.lease_id = excluded.lease_id OR held.lease_expires_at <= now()
         RETURNING lease_id",
        job,
        lease_id,
        LEASE.as_secs() as i32
    )
    .fetch_optional(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(taken.is_some())
}

pub async fn release(pool: &PgPool, job: &str, lease_id: Uuid) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    sqlx::query!(
        "DELETE FROM billing_job_leases WHERE job = $1 AND lease_id = $2",
        job,
        lease_id
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await
}

/// Whether a run of `job` ended since `since`, or one is under way.
pub async fn ran_since(pool: &PgPool, job: &str, since: Timestamp) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM billing_job_runs WHERE job = $1 AND finished_at > $2)
               OR EXISTS (SELECT FROM billing_job_leases
                           WHERE job = $1 AND lease_expires_at > now()) AS "ran!""#,
        job,
        since.to_sqlx() as _
    )
    .fetch_one(tx.conn())
    .await
}
