//! A use that is held while a call is under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::WorkerTx;
use crate::metering::ledger::{self, Ledger, LedgerError, Reservation};
use crate::telemetry::metrics;

/// How long a reservation lasts whose replica crashed.
pub const TTL_SECS: u32 = 15 * 60;
/// How often is looked for reservations that are to be renewed.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// A settlement is tried until the database has it: first after this, then
/// after twice as long, up to that.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The reservations of calls that are under way, by id, and whose they are.
#[derive(Clone)]
pub struct Holds {
    held: Arc<Mutex<HashMap<Uuid, Uuid>>>,
    stop: CancellationToken,
}

impl Holds {
    /// What is to be settled is tried until `stop`, and then once more.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            held: Arc::default(),
            stop,
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Uuid, Uuid>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews them for as long as their calls last, until the service stops.
    pub async fn keep_renewed(self, pool: PgPool) {
        loop {
            if let Err(error) = self.renew(&pool).await {
                tracing::warn!(%error, "the reservations of calls were not renewed");
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(RENEW_EVERY) => {}
            }
        }
    }

    async fn renew(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let (ids, organizations): (Vec<Uuid>, Vec<Uuid>) =
            self.held().iter().map(|(id, of)| (*id, *of)).unzip();
        if ids.is_empty() {
            return Ok(());
        }
        let mut tx = WorkerTx::begin(pool).await?;
        ledger::renew_reservations(tx.conn(), &organizations, &ids, TTL_SECS).await?;
        tx.commit().await
    }
}

/// Settles its reservation when it is dropped: counted if the call was used,
/// else let go.
pub struct Hold {
    ledger: Ledger,
    holds: Holds,
    reservation: Option<Reservation>,
    used: bool,
}

impl Hold {
    /// None: nothing is held, as when it could not be decided.
    pub fn new(ledger: Ledger, holds: Holds, reservation: Option<Reservation>) -> Self {
        if let Some(reservation) = &reservation {
            let of = reservation.organization_id;
            holds.held().insert(reservation.id, of);
        }
        Self {
            ledger,
            holds,
            reservation,
            used: false,
        }
    }

    /// Says whether the call came to something.
    pub fn set_used(&mut self, used: bool) {
        self.used = used;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        metrics::forwarded_call(if self.used { "used" } else { "let_go" });
        if let Some(reservation) = self.reservation.take() {
            let (ledger, holds) = (self.ledger.clone(), self.holds.clone());
            tokio::spawn(settle(ledger, holds, reservation, self.used));
        }
    }
}

async fn settle(ledger: Ledger, holds: Holds, reservation: Reservation, used: bool) {
    let mut pause = FIRST_PAUSE;
    loop {
        let stopping = holds.stop.is_cancelled();
        match ledger.settle(reservation.clone(), used).await {
            Ok(()) => break,
            Err(LedgerError::Refused(refusal)) => {
                tracing::error!(%refusal, metric = reservation.metric, "a call could not be counted");
                break;
            }
            Err(error) if stopping => {
                tracing::error!(%error, metric = reservation.metric, used, "a call was not counted");
                break;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = holds.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
    holds.held().remove(&reservation.id);
}
