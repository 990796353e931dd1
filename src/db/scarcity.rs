//! Whether the server is out of connections. Pools then close idle connections
//! instead of keeping them, until this process is refused none: otherwise a part that
//! lost its connection, or never had one, would get none while others idle.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;

/// How long a refusal has effect.
const LASTS: Duration = Duration::from_secs(5);

static REFUSED: Mutex<Option<Instant>> = Mutex::new(None);

/// There are fewer connections than we take. A pooler in front of the server refuses
/// none, but makes us wait; pools wait for a server that refuses.
static WAITING_IS_REFUSAL: AtomicBool = AtomicBool::new(false);

/// From now on, a connection that does not open in time counts as refused.
pub fn waiting_is_refusal() {
    WAITING_IS_REFUSAL.store(true, Ordering::Relaxed);
}

/// How long a pool that is opened now keeps what it does not use. Where there are too few,
/// other replicas are to have it.
pub(super) fn idle_timeout() -> Duration {
    if WAITING_IS_REFUSAL.load(Ordering::Relaxed) {
        LASTS
    } else {
        Duration::from_mins(10)
    }
}

/// Notes an error if it is such a refusal. A slow server is not: reconnecting would
/// only add to its load.
pub(super) fn note(error: &sqlx::Error) {
    let waited =
        matches!(error, sqlx::Error::PoolTimedOut) && WAITING_IS_REFUSAL.load(Ordering::Relaxed);
    // Too many connections, of all, of this database or of this login.
    if waited || super::sql_state(error).is_some_and(|code| code == "53300") {
        *REFUSED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

pub(super) fn is_scarce() -> bool {
    let refused = *REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    refused.is_some_and(|at| at.elapsed() < LASTS)
}

/// Closes the connections of `pools` that nobody uses, while connections are scarce.
pub async fn give_back_idle(pools: &[PgPool]) {
    for pool in pools {
        while is_scarce()
            && let Some(connection) = pool.try_acquire()
        {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "an idle connection was already closed");
            }
        }
    }
}
