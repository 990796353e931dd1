//! Metrics of refused uses that are stored.

use metrics::{counter, describe_counter};

const STORED: &str = "usage_denials_stored_total";
const DROPPED: &str = "usage_denials_dropped_total";

const REASONS: [&str; 3] = ["share", "full", "failed"];

pub(super) fn describe() {
    describe_counter!(
        STORED,
        "Refused uses that were stored, to be explained by their request ids."
    );
    describe_counter!(
        DROPPED,
        "Refused uses that were not stored: one organization's share or the room was full, or the database failed."
    );
}

pub(super) fn start_at_zero() {
    counter!(STORED).absolute(0);
    for reason in REASONS {
        counter!(DROPPED, "reason" => reason).absolute(0);
    }
}

pub fn stored(denials: usize) {
    counter!(STORED).increment(denials as u64);
}

pub fn dropped(reason: &'static str, denials: usize) {
    counter!(DROPPED, "reason" => reason).increment(denials as u64);
}
