//! `grace-periods cleanup`: the daily job. It ends grace periods that are over, and
//! removes those that ended long ago.

use sqlx::postgres::PgPool;

use super::Run;
use crate::db::WorkerTx;
use crate::metering::grace;

pub const JOB: &str = "grace-period-cleanup";

/// The result of a run.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Cleaned {
    /// Grace periods ended because their time, or their billing period, was over.
    pub ended: usize,
    /// Grace periods removed.
    pub cleaned: u64,
}

/// Ends grace periods that are over, and removes those that ended more than `days`
/// days ago.
pub async fn run(run: &Run<'_>, days: u16) -> Result<Cleaned, sqlx::Error> {
    let cleaned = run.counted(clean(run.pool, days), |_| true).await?;
    tracing::info!(
        cleaned = cleaned.cleaned,
        ended = cleaned.ended,
        "Grace period cleanup completed"
    );
    Ok(cleaned)
}

async fn clean(pool: &PgPool, days: u16) -> Result<Cleaned, sqlx::Error> {
    let ended = grace::sweep(pool).await?;
    let mut tx = WorkerTx::begin(pool).await?;
    let cleaned = grace::cleanup(tx.conn(), i32::from(days)).await?;
    tx.commit().await?;
    Ok(Cleaned { ended, cleaned })
}
