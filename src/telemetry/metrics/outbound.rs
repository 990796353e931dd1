//! Metrics of events out.

use metrics::{counter, describe_counter, describe_gauge, gauge};

const DELIVERIES: &str = "outbound_deliveries_total";
const ENDPOINTS: &str = "outbound_endpoints";
const DISABLED: &str = "outbound_endpoints_disabled_total";
const UNPUBLISHED: &str = "outbound_publishing_failures_total";

pub(super) fn describe() {
    describe_counter!(
        DELIVERIES,
        "Attempts to deliver an event to an endpoint, by result."
    );
    describe_gauge!(
        ENDPOINTS,
        "Endpoints that events are sent to, by status: enabled, disabled by an operator, or given up."
    );
    describe_counter!(
        DISABLED,
        "Endpoints that were disabled because they are gone or failed for five days."
    );
    describe_counter!(
        UNPUBLISHED,
        "Organizations whose changes could not be made events; they are tried again."
    );
}

pub(super) fn start_at_zero() {
    for result in ["delivered", "retried", "failed"] {
        counter!(DELIVERIES, "result" => result).absolute(0);
    }
    counter!(DISABLED).absolute(0);
    counter!(UNPUBLISHED).absolute(0);
    for status in ["enabled", "disabled", "given_up"] {
        gauge!(ENDPOINTS, "status" => status).set(0.0);
    }
}

/// One attempt to deliver an event.
pub fn delivery(result: &'static str) {
    counter!(DELIVERIES, "result" => result).increment(1);
}

/// The endpoints by status.
pub fn endpoints(by_status: &[(&'static str, usize)]) {
    for (status, count) in by_status {
        gauge!(ENDPOINTS, "status" => *status).set(*count as f64);
    }
}

/// An endpoint was disabled because it failed.
pub fn endpoint_disabled() {
    counter!(DISABLED).increment(1);
}

/// An organization's changes could not be made events.
pub fn unpublished() {
    counter!(UNPUBLISHED).increment(1);
}
