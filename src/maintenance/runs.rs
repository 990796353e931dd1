//! The runs of jobs. A process that ends takes its counters with it, so the database
//! adds them up.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

use crate::db::{self, OpeningRefused, WorkerTx};

pub type Counters = BTreeMap<String, u64>;

/// Records a run.
pub async fn record(
    pool: &PgPool,
    job: &str,
    started_at: Timestamp,
    succeeded: bool,
    counters: &Counters,
) -> Result<(), sqlx::Error> {
    match WorkerTx::begin(pool).await {
        Ok(mut tx) => {
            enter(tx.conn(), job, started_at, succeeded, counters).await?;
            tx.commit().await
        }
        // An owner that is no superuser may not become billing_worker, but has policies
        // of its own.
        Err(sqlx::Error::Configuration(cause)) if cause.is::<OpeningRefused>() => {
            let mut connection = db::acquire(pool).await?;
            enter(&mut connection, job, started_at, succeeded, counters).await
        }
        Err(error) => Err(error),
    }
}

async fn enter(
    conn: &mut PgConnection,
    job: &str,
    started_at: Timestamp,
    succeeded: bool,
    counters: &Counters,
) -> Result<(), sqlx::Error> {
    // All runs of a month are added up for each push.
    let grown: Counters = counters
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(series, count)| (series.clone(), *count))
        .collect();
    sqlx::query!(
        "INSERT INTO billing_job_runs (id, job, started_at, finished_at, succeeded, counters)
         VALUES ($1, $2, $3, now(), $4, $5)",
        Uuid::now_v7(),
        job,
        started_at.to_sqlx() as _,
        succeeded,
        serde_json::json!(grown)
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The total counters of all runs of `job`.
pub async fn totals(pool: &PgPool, job: &str) -> Result<Counters, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let rows = sqlx::query!(
        r#"SELECT counted.series AS "series!", sum(counted.total)::bigint AS "total!"
             FROM (SELECT counter.key AS series, counter.value::bigint AS total
                     FROM billing_job_runs, jsonb_each_text(counters) counter WHERE job = $1
                   UNION ALL
                   -- What removed runs had counted.
                   SELECT series, total FROM billing_job_totals WHERE job = $1) counted
            GROUP BY counted.series"#,
        job
    )
    .fetch_all(tx.conn())
    .await?;
    let total =
        |total: i64| u64::try_from(total).map_err(|error| sqlx::Error::Decode(error.into()));
    rows.into_iter()
        .map(|row| Ok((row.series, total(row.total)?)))
        .collect()
}

/// What the newest run of `job` counted; nothing if it has never run.
pub async fn newest_counters(pool: &PgPool, job: &str) -> Result<Counters, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let counters = sqlx::query_scalar!(
        "SELECT counters FROM billing_job_runs WHERE job = $1 ORDER BY finished_at DESC LIMIT 1",
        job
    )
    .fetch_optional(tx.conn())
    .await?;
    let counters = counters.map(serde_json::from_value).transpose();
    Ok(counters
        .map_err(|error| sqlx::Error::Decode(error.into()))?
        .unwrap_or_default())
}

/// The newest run of a job.
#[derive(Debug, Clone)]
pub struct LastRun {
    pub job: String,
    pub last_succeeded: bool,
    /// Seconds since a run last succeeded; `None` if none did.
    pub since_success_secs: Option<i64>,
    /// When that was, in seconds since 1970.
    pub success_secs: Option<i64>,
}

/// The newest run of each job in `jobs` that has ever run.
pub async fn last_runs(pool: &PgPool, jobs: &[&str]) -> Result<Vec<LastRun>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    sqlx::query_as!(
        LastRun,
        r#"SELECT scheduled.job AS "job!", newest.succeeded AS last_succeeded,
                  extract(epoch FROM now() - success.finished_at)::bigint AS since_success_secs,
                  extract(epoch FROM success.finished_at)::bigint AS success_secs
             FROM unnest($1::text[]) AS scheduled(job)
            CROSS JOIN LATERAL (
              SELECT r.succeeded FROM billing_job_runs r WHERE r.job = scheduled.job
               ORDER BY r.finished_at DESC LIMIT 1) newest
             LEFT JOIN LATERAL (
              SELECT r.finished_at FROM billing_job_runs r
               WHERE r.job = scheduled.job AND r.succeeded
               ORDER BY r.finished_at DESC LIMIT 1) success ON true"#,
        jobs as &[&str]
    )
    .fetch_all(tx.conn())
    .await
}

/// Seconds since a run of `job` last succeeded; `None` if none is recorded. The
/// connection may be the owner's. Not checked at compile time: the table may not
/// exist.
pub async fn since_success_secs(
    conn: &mut PgConnection,
    job: &str,
) -> Result<Option<i64>, sqlx::Error> {
    let remembered: bool =
        sqlx::query_scalar("SELECT to_regclass('public.billing_job_runs') IS NOT NULL")
            .fetch_one(&mut *conn)
            .await?;
    if !remembered {
        return Ok(None);
    }
    sqlx::query_scalar(
        "SELECT extract(epoch FROM now() - max(finished_at))::bigint
           FROM public.billing_job_runs WHERE job = $1 AND succeeded",
    )
    .bind(job)
    .fetch_one(conn)
    .await
}

/// The outcome of events that were retried.
#[derive(Debug, Clone, Copy)]
pub struct Retried {
    pub succeeded: i64,
    pub dead_lettered: i64,
}

impl Retried {
    pub fn ended(self) -> i64 {
        self.succeeded + self.dead_lettered
    }
}

/// The retried events that were processed or dead-lettered within a day.
pub async fn retried_today(pool: &PgPool) -> Result<Retried, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    sqlx::query_as!(
        Retried,
        r#"SELECT (SELECT count(*) FROM webhook_events
                    WHERE processed AND retry_count > 0
                      AND processed_at > now() - interval '1 day') AS "succeeded!",
                  (SELECT count(*) FROM webhook_dead_letter_queue
                    WHERE retry_count > 0
                      AND dead_lettered_at > now() - interval '1 day') AS "dead_lettered!""#
    )
    .fetch_one(tx.conn())
    .await
}
