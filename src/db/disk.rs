//! Whether the server refuses to write: its disk may be full, or the service lost
//! a right. Only a write tells, so whoever is refused one notes that, and
//! readiness tries until one succeeds.

use std::sync::atomic::{AtomicBool, Ordering};

static FULL: AtomicBool = AtomicBool::new(false);

/// Notes an error that says so; others mean nothing here.
pub fn note(error: &sqlx::Error) {
    if super::sql_state(error).is_some_and(|code| code == "53100") {
        FULL.store(true, Ordering::Relaxed);
    }
}

/// Notes a refusal of the writer of events that lasts: a right that was taken
/// away, a column or a table that is gone, somebody's trigger. Load does not.
pub fn note_refusal(error: &sqlx::Error) {
    let lasts = !super::is_outage(error) && !super::is_conflict(error) && !super::is_timeout(error);
    if lasts && super::sql_state(error).is_some() {
        FULL.store(true, Ordering::Relaxed);
    } else {
        note(error);
    }
}

/// Whether a write was refused, and none that needs room has succeeded since.
pub fn may_be_full() -> bool {
    FULL.load(Ordering::Relaxed)
}

/// A write that needs room succeeded.
pub fn has_room() {
    FULL.store(false, Ordering::Relaxed);
}
