//! Whether the server refuses writes, because its disk is full or the service lost a
//! right. Only a write can tell: a writer that is refused notes it, and readiness
//! then rehearses a write until one succeeds.

use std::sync::atomic::{AtomicBool, Ordering};

/// The writers that readiness watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    Intake,
    Ledger,
}

static REFUSED: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];

impl Writer {
    fn flag(self) -> &'static AtomicBool {
        &REFUSED[self as usize]
    }

    /// Notes a lasting refusal: a revoked right, a missing column or table, a foreign
    /// trigger. Load is not one.
    pub fn note(self, error: &sqlx::Error) {
        let lasts =
            !super::is_outage(error) && !super::is_conflict(error) && !super::is_timeout(error);
        if lasts && super::sql_state(error).is_some() {
            self.flag().store(true, Ordering::Relaxed);
        } else {
            note(error);
        }
    }

    /// Whether a write was refused and no rehearsal has succeeded since.
    pub fn may_be_refused(self) -> bool {
        self.flag().load(Ordering::Relaxed)
    }

    /// A rehearsed write succeeded.
    pub fn succeeded(self) {
        self.flag().store(false, Ordering::Relaxed);
    }
}

/// Notes an error if it says that the disk is full. Intake's rehearsal needs the most
/// space.
pub fn note(error: &sqlx::Error) {
    if super::sql_state(error).is_some_and(|code| code == "53100") {
        Writer::Intake.flag().store(true, Ordering::Relaxed);
    }
}
