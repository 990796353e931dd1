//! The reservation of a call in progress: renewed while the call lasts, settled
//! when it ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use billing_domain::retry::Backoff;
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::WorkerTx;
use crate::metering::ledger::{self, Ledger, LedgerError, Reservation};
use crate::telemetry::metrics;
use crate::telemetry::metrics::background::Runs;

/// How long a reservation outlives a crash of its replica.
pub const TTL_SECS: u32 = 15 * 60;
/// How often to renew reservations.
pub const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Pauses between attempts to settle double from the first to the longest.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(15),
};

/// The reservations of calls in progress: reservation id to organization id.
#[derive(Clone)]
pub struct OpenReservations {
    open: Arc<Mutex<HashMap<Uuid, Uuid>>>,
    stop: CancellationToken,
}

impl OpenReservations {
    /// Settling is retried until `stop`, then attempted once more.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            open: Arc::default(),
            stop,
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Uuid, Uuid>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews reservations while their calls last, until the service stops.
    pub async fn keep_renewed(self, pool: PgPool, runs: Runs) {
        loop {
            let renewed = self.renew(&pool).await;
            runs.ended(&renewed);
            if let Err(error) = renewed {
                tracing::warn!(%error, "could not renew the reservations of calls");
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(RENEW_EVERY) => {}
            }
        }
    }

    async fn renew(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let (ids, organizations): (Vec<Uuid>, Vec<Uuid>) =
            self.open().iter().map(|(id, owner)| (*id, *owner)).unzip();
        if ids.is_empty() {
            return Ok(());
        }
        let mut tx = WorkerTx::begin(pool).await?;
        ledger::renew_reservations(tx.conn(), &organizations, &ids, TTL_SECS).await?;
        tx.commit().await
    }
}

/// Settles a call's reservation when dropped: confirms it if the call was used,
/// releases it otherwise.
pub struct CallReservation {
    ledger: Ledger,
    open: OpenReservations,
    reservation: Option<Reservation>,
    used: bool,
}

impl CallReservation {
    /// `reservation` is `None` for a call that was allowed without a decision.
    pub fn new(ledger: Ledger, open: OpenReservations, reservation: Option<Reservation>) -> Self {
        if let Some(reservation) = &reservation {
            let owner = reservation.organization_id;
            open.open().insert(reservation.id, owner);
        }
        Self {
            ledger,
            open,
            reservation,
            used: false,
        }
    }

    /// Sets whether the call counts.
    pub fn set_used(&mut self, used: bool) {
        self.used = used;
    }
}

impl Drop for CallReservation {
    fn drop(&mut self) {
        metrics::forwarded_call(if self.used { "used" } else { "let_go" });
        if let Some(reservation) = self.reservation.take() {
            let (ledger, open) = (self.ledger.clone(), self.open.clone());
            tokio::spawn(settle(ledger, open, reservation, self.used));
        }
    }
}

async fn settle(ledger: Ledger, open: OpenReservations, reservation: Reservation, used: bool) {
    for pause in BACKOFF.delays() {
        let stopping = open.stop.is_cancelled();
        match ledger.settle(reservation.clone(), used).await {
            Ok(()) => break,
            Err(LedgerError::Rejected(rejection)) => {
                tracing::error!(%rejection, metric = reservation.metric, "a call could not be counted");
                break;
            }
            Err(error) if stopping => {
                tracing::error!(%error, metric = reservation.metric, used, "a call was not counted");
                break;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = open.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    open.open().remove(&reservation.id);
}
