//! Releases expired reservations, which a crash left unsettled.

use std::collections::BTreeSet;

use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::{Ledger, LedgerError, store};
use crate::db::WorkerTx;
use crate::telemetry::terminal::counted;

const BATCH: i64 = 500;

/// Why some were not released. The next round finds them again.
#[derive(Debug, thiserror::Error)]
pub enum ExpiryError {
    #[error("reservations of {0} could not be released, the first because {1}")]
    Unreleased(String, LedgerError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Releases expired reservations; returns how many. An organization that is held, or
/// whose reservation cannot be settled, is skipped, and keeps no other's.
pub async fn release_expired(pool: &PgPool, ledger: &Ledger) -> Result<usize, ExpiryError> {
    let mut released = 0;
    let mut skipped = BTreeSet::<Uuid>::new();
    let mut failed = Vec::<LedgerError>::new();
    let mut progress = (usize::MAX, 0);
    // A batch in which nothing happened would be read again.
    'batches: while progress != (released, skipped.len()) {
        progress = (released, skipped.len());
        let known: Vec<Uuid> = skipped.iter().copied().collect();
        let mut tx = WorkerTx::begin(pool).await?;
        let expired = store::expired(tx.conn(), &known, BATCH).await?;
        tx.commit().await?;
        for reservation in expired {
            let organization_id = reservation.organization_id;
            if skipped.contains(&organization_id) {
                continue;
            }
            match ledger.settle(reservation, false).await {
                Ok(()) => released += 1,
                // Another replica was faster.
                Err(LedgerError::Rejected(_)) => {}
                Err(error) => {
                    let is_full = matches!(error, LedgerError::Full);
                    tracing::warn!(%organization_id, %error, "An expired reservation could not be released");
                    skipped.insert(organization_id);
                    failed.push(error);
                    if is_full {
                        break 'batches;
                    }
                }
            }
        }
    }
    if released > 0 {
        tracing::info!(released, "Reservations expired");
    }
    let organizations = counted(failed.len(), "organization");
    match failed.into_iter().next() {
        Some(first) => Err(ExpiryError::Unreleased(organizations, first)),
        None => Ok(released),
    }
}
