//! Metrics of uses that the product holds by ids of its own.

use metrics::{counter, describe_counter};

const HOLDS: &str = "usage_reservations_total";

pub(super) fn describe() {
    describe_counter!(
        HOLDS,
        "Reservations that the product made, and how they were settled."
    );
}

pub(super) fn start_at_zero() {
    for outcome in [
        "held",
        "denied",
        "too_many",
        "confirmed",
        "released",
        "expired",
    ] {
        counter!(HOLDS, "outcome" => outcome).absolute(0);
    }
}

/// A reservation was made, denied or settled, and that was committed.
pub fn reservation(outcome: &'static str) {
    counter!(HOLDS, "outcome" => outcome).increment(1);
}
