//! Whether the server's disk may be full. Only a write tells, so whoever is
//! refused one for it notes that, and readiness tries until one succeeds.

use std::sync::atomic::{AtomicBool, Ordering};

static FULL: AtomicBool = AtomicBool::new(false);

/// Notes an error that says so; others mean nothing here.
pub fn note(error: &sqlx::Error) {
    if super::sql_state(error).is_some_and(|code| code == "53100") {
        FULL.store(true, Ordering::Relaxed);
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
