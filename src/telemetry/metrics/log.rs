//! What is counted of the log.

use metrics::{counter, describe_counter};

const LOST: &str = "log_lines_lost_total";

pub(super) fn start_at_zero() {
    describe_counter!(
        LOST,
        "Log lines that were dropped, since whoever reads the log had stopped."
    );
    counter!(LOST).absolute(0);
}

/// A line that nobody can read.
pub fn line_lost() {
    counter!(LOST).increment(1);
}
