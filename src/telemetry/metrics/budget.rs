//! What the budget of everything foreign is doing: see `http::budget`.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::server::budget::{Class, Doing, Shortage};

const CONNECTIONS: &str = "http_connections";
const CONNECTIONS_LIMIT: &str = "http_connections_limit";
const EVICTED: &str = "http_connections_evicted_total";
const REFUSED: &str = "http_connections_refused_total";
const BYTES: &str = "http_bytes_in_flight";
const BYTES_LIMIT: &str = "http_bytes_in_flight_limit";
const BYTES_REFUSED: &str = "http_bytes_refused_total";
const NOT_KEPT: &str = "http_answers_not_kept_total";

/// The heads of all requests, beside the classes of bodies.
pub const HEADS: &str = "heads";
/// A body that was slow while others needed its memory.
pub const SLOW: &str = "slow";

/// An answer that is not kept for its idempotency key: it is too large, there is
/// no room for its copy, or its organization has kept enough for a day.
pub const TOO_LARGE: &str = "too_large";
pub const NO_ROOM: &str = "no_room";
pub const DAY: &str = "day";

/// Describes them all, at zero.
pub fn start_at_zero() {
    describe_gauge!(
        CONNECTIONS,
        "Connections of the API's listener, by what they are doing."
    );
    describe_gauge!(CONNECTIONS_LIMIT, "How many there may be.");
    describe_counter!(
        EVICTED,
        "Connections closed to make place for others, by what they were doing."
    );
    describe_counter!(
        REFUSED,
        "Connections turned away, all others being answered."
    );
    describe_gauge!(
        BYTES,
        Unit::Bytes,
        "Large bodies and heads in memory, by class."
    );
    describe_gauge!(BYTES_LIMIT, Unit::Bytes, "How much there may be, by class.");
    describe_counter!(
        BYTES_REFUSED,
        "Bodies and heads that got no memory, by class and reason."
    );
    describe_counter!(
        NOT_KEPT,
        "Answers that were not kept for their idempotency keys, by reason."
    );
    for reason in [TOO_LARGE, NO_ROOM, DAY] {
        counter!(NOT_KEPT, "reason" => reason).absolute(0);
    }
    counter!(REFUSED).absolute(0);
    for doing in Doing::ALL.map(Doing::as_str) {
        counter!(EVICTED, "doing" => doing).absolute(0);
    }
    counter!(BYTES_REFUSED, "class" => HEADS, "reason" => Shortage::All.as_str()).absolute(0);
    for class in Class::ALL.map(Class::as_str) {
        for reason in [Shortage::Own.as_str(), Shortage::All.as_str(), SLOW] {
            counter!(BYTES_REFUSED, "class" => class, "reason" => reason).absolute(0);
        }
    }
}

/// How many connections do this.
pub fn connections(doing: &'static str, count: usize) {
    gauge!(CONNECTIONS, "doing" => doing).set(count as f64);
}

pub fn connections_limit(most: usize) {
    gauge!(CONNECTIONS_LIMIT).set(most as f64);
}

/// A connection that was closed for another.
pub fn evicted(doing: &'static str) {
    counter!(EVICTED, "doing" => doing).increment(1);
}

/// A connection that was turned away.
pub fn refused() {
    counter!(REFUSED).increment(1);
}

/// What is in memory of a class.
pub fn bytes(class: &'static str, taken: usize, most: usize) {
    gauge!(BYTES, "class" => class).set(taken as f64);
    gauge!(BYTES_LIMIT, "class" => class).set(most as f64);
}

/// An answer that was passed on and not kept.
pub fn answer_not_kept(reason: &'static str) {
    counter!(NOT_KEPT, "reason" => reason).increment(1);
}

/// A body or a head that got no memory.
pub fn bytes_refused(class: &'static str, reason: &'static str) {
    counter!(BYTES_REFUSED, "class" => class, "reason" => reason).increment(1);
}
