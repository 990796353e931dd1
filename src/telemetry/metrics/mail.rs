//! Metrics of mails to customers.

use metrics::{counter, describe_counter, describe_gauge, gauge};

const OUTCOMES: &str = "mails_total";
const WAITING: &str = "mails_waiting";
const OLDEST: &str = "mails_oldest_waiting_seconds";

const KINDS: [&str; 6] = [
    "payment_failed",
    "action_required",
    "trial_ending",
    "card_expiring",
    "quota_warning",
    "quota_reached",
];
const RESULTS: [&str; 4] = ["sent", "retried", "failed", "withdrawn"];

pub(super) fn describe() {
    describe_counter!(OUTCOMES, "Mails to customers, by kind and result.");
    describe_gauge!(WAITING, "Mails that wait to be sent.");
    describe_gauge!(OLDEST, "How long the oldest mail has waited.");
}

pub(super) fn start_at_zero() {
    for kind in KINDS {
        for result in RESULTS {
            counter!(OUTCOMES, "kind" => kind, "result" => result).absolute(0);
        }
    }
    gauge!(WAITING).set(0.0);
    gauge!(OLDEST).set(0.0);
}

/// What came of a mail.
pub fn outcome(kind: &str, result: &'static str) {
    if let Some(kind) = KINDS.into_iter().find(|known| *known == kind) {
        counter!(OUTCOMES, "kind" => kind, "result" => result).increment(1);
    }
}

/// The mails that wait, and for how long the oldest has.
pub fn waiting(mails: i64, oldest_secs: i64) {
    gauge!(WAITING).set(mails as f64);
    gauge!(OLDEST).set(oldest_secs as f64);
}
