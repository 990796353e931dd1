//! Retention as a part of the service: every replica looks, one runs.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

use super::{JOB, store};
use crate::config::RetentionConfig;
use crate::maintenance;

/// Small runs often disturb less than a large one at night; a day's worth is due
/// by then all the same.
const EVERY: SignedDuration = SignedDuration::from_hours(1);
/// Polling interval.
pub const POLL: Duration = Duration::from_secs(5 * 60);

/// Runs, if no process has for an hour. A run that `stop` interrupts leaves whole
/// batches.
pub async fn run_if_due(
    pool: &PgPool,
    kept: &RetentionConfig,
    stop: &CancellationToken,
) -> Result<(), sqlx::Error> {
    let now = Timestamp::now();
    if store::ran_since(pool, JOB, now - EVERY).await? {
        return Ok(());
    }
    let ran = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        ran = super::run(pool, kept, now, |_, _| {}) => ran,
    };
    let succeeded = match &ran {
        Ok(report) if report.already_running => return Ok(()),
        Ok(report) => report.is_whole(),
        Err(_) => false,
    };
    maintenance::record_run(pool, JOB, now, succeeded).await?;
    ran.map(drop)
}
