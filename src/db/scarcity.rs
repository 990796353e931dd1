//! Whether the server has no connection left. Then the pools give back what they
//! do not use at the moment, rather than keep it for later, until nobody of this
//! process is refused one: intake, which comes last, would else get none for as
//! long as the others poll. Noted is what intake, the ledger and readiness meet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a refusal counts.
const LASTS: Duration = Duration::from_secs(5);

static REFUSED: Mutex<Option<Instant>> = Mutex::new(None);

/// A pooler before the server has fewer than we take: it refuses nobody, and
/// lets one wait.
static WAITING_IS_REFUSAL: AtomicBool = AtomicBool::new(false);

/// From now on, a connection that does not come in time is one that was refused.
pub(super) fn waiting_is_refusal() {
    WAITING_IS_REFUSAL.store(true, Ordering::Relaxed);
}

/// Notes an error that says so; others mean nothing here. A slow server is none:
/// it would only have more to do.
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
