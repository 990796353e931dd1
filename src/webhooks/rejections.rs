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

/// The shortest interval between log lines and writes, since anybody can cause
/// rejections.
const PAUSE: Duration = Duration::from_secs(1);

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

    /// Logs and stores rejections until `stop` is cancelled.
    pub async fn keep(&self, pool: PgPool, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.came.notified() => {}
            }
            self.record(&pool).await;
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        self.record(&pool).await;
    }

    async fn record(&self, pool: &PgPool) {
        let new = std::mem::take(&mut *self.waiting());
        for (reason, deliveries) in &new {
            tracing::warn!(
                reason,
                deliveries,
                "Webhook deliveries refused; `doctor` says what to do"
            );
        }
        if let Err(error) = record(pool, &new).await {
            tracing::warn!(%error, "Rejected deliveries could not be stored for `doctor`");
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn record(pool: &PgPool, new: &BTreeMap<&'static str, u64>) -> Result<(), sqlx::Error> {
    if new.is_empty() {
        return Ok(());
    }
    let mut tx = WorkerTx::begin(pool).await?;
    store::add(tx.conn(), new).await?;
    tx.commit().await
}
