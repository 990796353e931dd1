//! `import stripe`: one at a time, by a lease that it holds on to while it works.

use std::time::Duration;

use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::record_run;
use super::retention::{LEASE, release_lease, take_lease};
use crate::subscriptions::import::{Beginning, CustomerMap, Heard, ImportReport};
use crate::subscriptions::{Failure, Subscriptions};

pub const JOB: &str = "stripe_import";

/// How often the lease is renewed.
const RENEW_EVERY: Duration = LEASE.checked_div(3).expect("three is not zero");

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(
        "another import is under way, or one died within the last minute: wait for it, then \
         go on with --resume"
    )]
    Running,
    #[error("another process took the import over; nothing is lost, --resume goes on")]
    LeaseLost,
    #[error("there is no import to go on with: the last one was finished, or none has begun")]
    NothingToResume,
    #[error("the map is not the one that the import began with; give the same, or begin anew")]
    OtherMap,
    #[error(
        "the key is of another account or mode than the import began with; use the same, or \
         begin anew"
    )]
    OtherAccount,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// Imports, and enters the run. What was done until the end is returned in any case.
pub async fn run(
    pool: &PgPool,
    subscriptions: &Subscriptions,
    map: &CustomerMap,
    begin: impl AsyncFnOnce() -> Result<Beginning, ImportError>,
    heard: Heard<'_>,
) -> Result<(ImportReport, Result<(), Failure>), ImportError> {
    let lease_id = Uuid::now_v7();
    if !take_lease(pool, JOB, lease_id).await? {
        return Err(ImportError::Running);
    }
    let started_at = jiff::Timestamp::now();
    let importing = async {
        let beginning = begin().await?;
        Ok(subscriptions.import(map, beginning, heard).await)
    };
    let done = while_leased(pool, lease_id, importing).await;
    release_lease(pool, JOB, lease_id).await?;
    let succeeded = matches!(&done, Ok((report, Ok(()))) if report.is_whole());
    record_run(pool, JOB, started_at, succeeded).await?;
    done
}

/// Goes on with `work` as long as the lease is ours.
async fn while_leased<T>(
    pool: &PgPool,
    lease_id: Uuid,
    work: impl Future<Output = Result<T, ImportError>>,
) -> Result<T, ImportError> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(RENEW_EVERY) => {
                if !take_lease(pool, JOB, lease_id).await? {
                    return Err(ImportError::LeaseLost);
                }
            }
        }
    }
}
