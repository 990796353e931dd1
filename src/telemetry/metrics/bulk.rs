//! Metrics of what operators do with all events that match a filter.

use metrics::{counter, describe_counter, describe_gauge, gauge};

const EVENTS: &str = "webhook_bulk_events_total";
const OPEN: &str = "webhook_bulk_actions_open";

const ACTIONS: [&str; 3] = [
    "replay_dead_letters",
    "discard_dead_letters",
    "replay_events",
];
const RESULTS: [&str; 3] = ["succeeded", "failed", "skipped"];

pub(super) fn describe() {
    describe_counter!(EVENTS, "Events of bulk actions, by action and result.");
    describe_gauge!(OPEN, "Bulk actions that are under way or wait.");
}

pub(super) fn start_at_zero() {
    for action in ACTIONS {
        for result in RESULTS {
            counter!(EVENTS, "action" => action, "result" => result).absolute(0);
        }
    }
    gauge!(OPEN).set(0.0);
}

/// One event of a bulk action, whose result was committed.
pub fn event(action: &'static str, result: &'static str) {
    counter!(EVENTS, "action" => action, "result" => result).increment(1);
}

/// How many bulk actions have not ended.
pub fn open(actions: i64) {
    gauge!(OPEN).set(actions as f64);
}
