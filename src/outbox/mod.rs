//! Events out: the product is told what changed.
//!
//! A change leaves a mark in its own transaction, beside its entry in the audit log; the
//! publisher makes events of marks, numbered for each organization; the sender sends them,
//! signed and in order, to the endpoints of operators and of the settings.
//!
//! Nothing here changes billing state, and nothing here decides what is entered in the
//! audit log about it.

mod address;
pub mod data;
mod document;
pub mod endpoints;
mod event;
mod facts;
mod operations;
mod post;
pub mod publisher;
pub mod routes;
mod schedule;
pub mod sender;
mod signature;
mod steps;
mod store;
mod types;
pub mod upkeep;

pub use document::{schema, webhooks};
pub use operations::{find, list, recover, resend, resend_alerts};
pub use post::Answer;
pub use store::deliveries::{Delivery, Filter, Position, Recovered};
pub use types::{EventType, TEST};

/// The audit actions of this room.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    use endpoints::{CREATED, DISABLED, ENABLED, REMOVED, ROTATED, TESTED};
    use operations::{RECOVERED, RESENT};
    use routes::{DELIVERIES_LISTED, ENDPOINTS_LISTED};
    [
        CREATED,
        ROTATED,
        DISABLED,
        ENABLED,
        REMOVED,
        TESTED,
        RESENT,
        RECOVERED,
        ENDPOINTS_LISTED,
        DELIVERIES_LISTED,
    ]
    .into_iter()
}
