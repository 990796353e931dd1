//! Metrics of the log itself.

use metrics::{counter, describe_counter};

const LOST: &str = "log_lines_lost_total";

pub(super) fn start_at_zero() {
    describe_counter!(
        LOST,
        "Log lines dropped because the reader of the log had stopped."
    );
    counter!(LOST).absolute(0);
}

/// A line was dropped.
pub fn line_lost() {
    counter!(LOST).increment(1);
}
