//! Reservations that nobody settled: a crash left them behind, and they expire.

use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

use super::{Ledger, LedgerError, store};
use crate::db::WorkerTx;

const LOOK_EVERY: Duration = Duration::from_secs(15);
const BATCH: i64 = 500;

/// Lets expired reservations go, until `stop`.
pub async fn keep_released(pool: PgPool, ledger: Ledger, stop: CancellationToken) {
    loop {
        match release(&pool, &ledger).await {
            Ok(0) => {}
            Ok(released) => tracing::info!(released, "Reservations expired"),
            Err(error) => tracing::warn!(%error, "reservations could not be looked at"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn release(pool: &PgPool, ledger: &Ledger) -> Result<usize, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let expired = store::expired(tx.conn(), BATCH).await?;
    tx.commit().await?;
    let mut released = 0;
    for reservation in expired {
        match ledger.settle(reservation, false).await {
            Ok(()) => released += 1,
            Err(LedgerError::Refused(_)) => {}
            // The next look finds it again.
            Err(_) => break,
        }
    }
    Ok(released)
}
