//! `audit verify`: the daily walk over all chains.

use jiff::Timestamp;
use sqlx::postgres::PgPool;

use super::record_run;

pub const JOB: &str = "audit-verification";

/// Records a verification of the whole log, which succeeded if the log holds.
pub async fn done(pool: &PgPool, started_at: Timestamp, holds: bool) -> Result<(), sqlx::Error> {
    record_run(pool, JOB, started_at, holds).await
}
