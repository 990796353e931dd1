//! Business figures: who pays, how much a month, and how that moved. Each figure is a view of
//! schema `reporting`, or made of one, and is defined in docs/reporting.md.
//!
//! Nothing here changes billing state. The journal writes down what the mirrored subscriptions
//! came to; all else reads.

pub mod csv;
pub mod figures;
mod history;
pub mod journal;
pub mod routes;
mod store;

pub use store::Filter;

/// The audit actions of this room.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    [
        routes::SHOWN,
        routes::MOVEMENTS_LISTED,
        routes::CUSTOMERS_LISTED,
    ]
    .into_iter()
}
