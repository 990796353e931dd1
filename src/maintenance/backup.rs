//! Records backups, so that `doctor` and an alert can tell when the last one is too
//! old.

use jiff::Timestamp;
use sqlx::postgres::PgPool;

use super::{Counters, PushGateway, runs};

pub const JOB: &str = "backup";

/// Records a backup that succeeded or failed.
pub async fn done(
    pool: &PgPool,
    gateway: Option<&PushGateway>,
    started_at: Timestamp,
    succeeded: bool,
) -> Result<(), sqlx::Error> {
    let nothing = Counters::new();
    runs::record(pool, JOB, started_at, succeeded, &nothing).await?;
    if let Some(gateway) = gateway
        && let Err(error) = gateway
            .push(JOB, &nothing, succeeded.then(Timestamp::now))
            .await
    {
        tracing::warn!(%error, "the job's metrics could not be pushed");
    }
    Ok(())
}
