//! A use that is held while a call is under way.

use std::time::Duration;

use crate::usage::{Ledger, LedgerError, Reservation};

/// How long a reservation lasts that nobody settles: longer than any call.
pub const TTL_SECS: u32 = 15 * 60;
/// How often, and after how long, it is tried again to count a use while the
/// database is away. What could not be counted is not billed.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Settles its reservation when it is dropped: counted if the call succeeded,
/// else let go. A client that hangs up drops it, too.
pub struct Hold {
    ledger: Ledger,
    reservation: Option<Reservation>,
    used: bool,
}

impl Hold {
    /// None: nothing is held, as when it could not be decided.
    pub fn new(ledger: Ledger, reservation: Option<Reservation>) -> Self {
        Self {
            ledger,
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
        if let Some(reservation) = self.reservation.take() {
            tokio::spawn(settle(self.ledger.clone(), reservation, self.used));
        }
    }
}

async fn settle(ledger: Ledger, reservation: Reservation, used: bool) {
    let mut pause = FIRST_PAUSE;
    for attempt in 1..=TRIES {
        match ledger.settle(reservation.clone(), used).await {
            Ok(()) => return,
            Err(LedgerError::Refused(refusal)) => {
                tracing::error!(%refusal, metric = reservation.metric, "a call could not be counted");
                return;
            }
            Err(error) if attempt == TRIES => {
                tracing::error!(%error, metric = reservation.metric, used, "a call was not counted");
            }
            Err(_) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }
}
