//! Whether the server refuses to write: its disk may be full, or the service lost
//! a right. Only a write tells, so whoever is refused one notes that, and
//! readiness tries until one succeeds.

use std::sync::atomic::{AtomicBool, Ordering};

/// Who cannot do without what it writes.
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

    /// Notes a refusal that lasts: a right that was taken away, a column or a
    /// table that is gone, somebody's trigger. Load does not.
    pub fn note(self, error: &sqlx::Error) {
        let lasts =
            !super::is_outage(error) && !super::is_conflict(error) && !super::is_timeout(error);
        if lasts && super::sql_state(error).is_some() {
            self.flag().store(true, Ordering::Relaxed);
        } else {
            note(error);
        }
    }

    /// Whether a write was refused, and none for show has succeeded since.
    pub fn may_be_refused(self) -> bool {
        self.flag().load(Ordering::Relaxed)
    }

    /// A write for show succeeded.
    pub fn succeeded(self) {
        self.flag().store(false, Ordering::Relaxed);
    }
}

/// Notes an error that says that the disk is full; others mean nothing here.
/// Intake's write for show needs the most room.
pub fn note(error: &sqlx::Error) {
    if super::sql_state(error).is_some_and(|code| code == "53100") {
        Writer::Intake.flag().store(true, Ordering::Relaxed);
    }
}
