//! What the jobs did: a process that ends takes its counters with it, so they
//! are added up in the database.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::db::WorkerTx;

pub type Counters = BTreeMap<String, u64>;

/// Enters a run.
pub async fn record(
    pool: &PgPool,
    job: &str,
    started_at: Timestamp,
    succeeded: bool,
    counters: &Counters,
) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    sqlx::query!(
        "INSERT INTO billing_job_runs (id, job, started_at, finished_at, succeeded, counters)
         VALUES ($1, $2, $3, now(), $4, $5)",
        Uuid::now_v7(),
        job,
        started_at.to_sqlx() as _,
        succeeded,
        serde_json::json!(counters)
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await
}

/// What all runs of `job` counted together.
pub async fn totals(pool: &PgPool, job: &str) -> Result<Counters, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let rows = sqlx::query!(
        r#"SELECT counter.key AS "series!", sum(counter.value::bigint)::bigint AS "total!"
             FROM billing_job_runs, jsonb_each_text(counters) counter
            WHERE job = $1 GROUP BY counter.key"#,
        job
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.series, row.total.try_into().unwrap_or(0)))
        .collect())
}
