//! Releases expired reservations, which a crash or the product left unsettled.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use futures_util::stream::{self, StreamExt as _};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::holds::{Hold, HoldOutcome, Settled};
use super::{Ledger, LedgerError, Reservation, store};
use crate::db::WorkerTx;
use crate::telemetry::metrics;
use crate::telemetry::terminal::counted;

const BATCH: i64 = 500;
/// Released at the same time, so that they share commits.
const AT_ONCE: usize = 32;

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
    let skipped = Mutex::new(BTreeSet::<Uuid>::new());
    let skipped = || skipped.lock().unwrap_or_else(PoisonError::into_inner);
    let mut failed = Vec::<LedgerError>::new();
    let mut progress = (usize::MAX, 0);
    // A batch in which nothing happened would be read again.
    while progress != (released, skipped().len()) {
        progress = (released, skipped().len());
        let known: Vec<Uuid> = skipped().iter().copied().collect();
        let mut tx = WorkerTx::begin(pool).await?;
        let expired = store::expired(tx.conn(), &known, BATCH).await?;
        let (organizations, ids) = expired
            .iter()
            .filter(|(_, is_hold)| *is_hold)
            .map(|(reservation, _)| (reservation.organization_id, reservation.id))
            .unzip::<Uuid, Uuid, Vec<Uuid>, Vec<Uuid>>();
        let mut holds = store::holds(tx.conn(), &organizations, &ids).await?;
        tx.commit().await?;
        let releases = expired.into_iter().map(|(reservation, _)| {
            let hold = holds.remove(&(reservation.organization_id, reservation.id));
            let organization_id = reservation.organization_id;
            // Those of one that is held do not wait for it one after the other.
            async move {
                let is_held = skipped().contains(&organization_id);
                match is_held {
                    true => (organization_id, Ok(false)),
                    false => release(ledger, reservation, hold).await,
                }
            }
        });
        let mut releases = stream::iter(releases).buffer_unordered(AT_ONCE);
        let mut is_full = false;
        while let Some((organization_id, outcome)) = releases.next().await {
            match outcome {
                Ok(is_let_go) => released += usize::from(is_let_go),
                // Another replica was faster.
                Err(LedgerError::Rejected(_)) => {}
                Err(error) => {
                    is_full |= matches!(error, LedgerError::Full);
                    if skipped().insert(organization_id) {
                        tracing::warn!(%organization_id, %error, "An expired reservation could not be released");
                        failed.push(error);
                    }
                }
            }
        }
        if is_full {
            break;
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

/// Returns whether it holds nothing any more.
async fn release(
    ledger: &Ledger,
    reservation: Reservation,
    hold: Option<Hold>,
) -> (Uuid, Result<bool, LedgerError>) {
    let organization_id = reservation.organization_id;
    let Some(hold) = hold else {
        let settled = ledger.settle(reservation, false).await;
        return (organization_id, settled.map(|()| true));
    };
    let id = hold.name.clone();
    let settled = ledger.expire_hold(organization_id, hold).await;
    let settled = settled.map(|hold| {
        let expired = |settled: &Settled| settled.outcome == HoldOutcome::Expired;
        if hold.settled.as_ref().is_some_and(expired) {
            metrics::holds::reservation(HoldOutcome::Expired.as_str());
            tracing::debug!(%organization_id, id, metric = hold.metric, "A reservation expired");
        }
        hold.settled.is_some()
    });
    (organization_id, settled)
}
