//! Metrics of the budget of connections and memory: see `server::budget`.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::Labels;

const CONNECTIONS: &str = "http_connections";
const CONNECTIONS_LIMIT: &str = "http_connections_limit";
const EVICTED: &str = "http_connections_evicted_total";
const REFUSED: &str = "http_connections_refused_total";
const BYTES: &str = "http_bytes_in_flight";
const BYTES_LIMIT: &str = "http_bytes_in_flight_limit";
const BYTES_REFUSED: &str = "http_bytes_refused_total";
const NOT_KEPT: &str = "http_answers_not_kept_total";

/// The class of all requests' heads, beside the classes of bodies.
pub const HEADS: &str = "heads";
/// Reason: the body was slow while others needed its memory.
pub const SLOW: &str = "slow";

/// Reasons why a response is not stored for its idempotency key: it is too large,
/// there is no room for the copy, or the organization has used up its day's share.
pub const TOO_LARGE: &str = "too_large";
pub const NO_ROOM: &str = "no_room";
pub const DAY: &str = "day";

/// Describes all of them and starts them at zero.
pub(super) fn start_at_zero(labels: &Labels) {
    describe();
    for reason in [TOO_LARGE, NO_ROOM, DAY] {
        counter!(NOT_KEPT, "reason" => reason).absolute(0);
    }
    counter!(REFUSED).absolute(0);
    for &doing in &labels.connection_activities {
        counter!(EVICTED, "doing" => doing).absolute(0);
    }
    counter!(BYTES_REFUSED, "class" => HEADS, "reason" => labels.heads_shortage).absolute(0);
    for &class in &labels.body_classes {
        for &reason in labels.body_shortages.iter().chain([&SLOW]) {
            counter!(BYTES_REFUSED, "class" => class, "reason" => reason).absolute(0);
        }
    }
}

fn describe() {
    describe_gauge!(
        CONNECTIONS,
        "Connections of the API's listener, by what they are doing."
    );
    describe_gauge!(CONNECTIONS_LIMIT, "Maximum number of connections.");
    describe_counter!(
        EVICTED,
        "Connections closed to make room for others, by what they were doing."
    );
    describe_counter!(
        REFUSED,
        "Connections turned away because all others were being answered."
    );
    describe_gauge!(
        BYTES,
        Unit::Bytes,
        "Memory taken by large bodies and heads, by class."
    );
    describe_gauge!(
        BYTES_LIMIT,
        Unit::Bytes,
        "Memory that large bodies and heads may take, by class."
    );
    describe_counter!(
        BYTES_REFUSED,
        "Bodies and heads that got no memory, by class and reason."
    );
    describe_counter!(
        NOT_KEPT,
        "Responses that were not stored for their idempotency keys, by reason."
    );
}

/// How many connections are doing `doing`.
pub fn connections(doing: &'static str, count: usize) {
    gauge!(CONNECTIONS, "doing" => doing).set(count as f64);
}

pub fn connections_limit(most: usize) {
    gauge!(CONNECTIONS_LIMIT).set(most as f64);
}

/// A connection was closed to make room for another.
pub fn evicted(doing: &'static str) {
    counter!(EVICTED, "doing" => doing).increment(1);
}

/// A connection was turned away.
pub fn refused() {
    counter!(REFUSED).increment(1);
}

/// The memory that a class has taken, and may take.
pub fn bytes(class: &'static str, taken: usize, most: usize) {
    gauge!(BYTES, "class" => class).set(taken as f64);
    gauge!(BYTES_LIMIT, "class" => class).set(most as f64);
}

/// A response was passed on and not stored.
pub fn answer_not_kept(reason: &'static str) {
    counter!(NOT_KEPT, "reason" => reason).increment(1);
}

/// A body or a head got no memory.
pub fn bytes_refused(class: &'static str, reason: &'static str) {
    counter!(BYTES_REFUSED, "class" => class, "reason" => reason).increment(1);
}
