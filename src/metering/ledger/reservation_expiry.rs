//! Releases expired reservations, which a crash left unsettled.

use sqlx::postgres::PgPool;

use super::{Ledger, LedgerError, store};
use crate::db::WorkerTx;

const BATCH: i64 = 500;

/// Releases expired reservations; returns how many.
pub async fn release_expired(pool: &PgPool, ledger: &Ledger) -> Result<usize, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let expired = store::expired(tx.conn(), BATCH).await?;
    tx.commit().await?;
    let mut released = 0;
    for reservation in expired {
        match ledger.settle(reservation, false).await {
            Ok(()) => released += 1,
            Err(LedgerError::Rejected(_)) => {}
            // The next round finds it again.
            Err(_) => break,
        }
    }
    if released > 0 {
        tracing::info!(released, "Reservations expired");
    }
    Ok(released)
}
