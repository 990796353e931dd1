//! Rejected deliveries: counted by reason, logged, and stored by the hour, so
//! that `doctor` sees the rejections of all replicas.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::store::rejections as store;
pub use super::store::rejections::{LastDelivery, Rejected, last_delivery, of_last_day};
use crate::db::WorkerTx;
use crate::telemetry::metrics::background::Runs;

/// The shortest interval between log lines and writes, since anybody can cause
/// rejections.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Rejections that are not stored yet.
#[derive(Debug, Default)]
pub struct Rejections {
    new: Mutex<BTreeMap<&'static str, u64>>,
    came: Notify,
}

impl Rejections {
    /// Notes a rejection; `reason` is the error code of the response.
    pub fn note(&self, reason: &'static str) {
        *self.waiting().entry(reason).or_default() += 1;
        self.came.notify_one();
    }

    /// Logs and stores rejections until `stop` is cancelled. A run is one that has
    /// some to store.
    pub async fn keep(&self, pool: PgPool, runs: Runs, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.came.notified() => {}
            }
            self.record(&pool, &runs).await;
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        self.record(&pool, &runs).await;
    }

    async fn record(&self, pool: &PgPool, runs: &Runs) {
        let new = std::mem::take(&mut *self.waiting());
        for (reason, deliveries) in &new {
            tracing::warn!(
                reason,
                deliveries,
                "Webhook deliveries refused; `doctor` says what to do"
            );
        }
        if new.is_empty() {
            return;
        }
        let recorded = record(pool, &new).await;
        runs.ended(&recorded);
        if let Err(error) = recorded {
            tracing::warn!(%error, "Rejected deliveries could not be stored for `doctor`");
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn record(pool: &PgPool, new: &BTreeMap<&'static str, u64>) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::add(tx.conn(), new).await?;
    tx.commit().await
}
