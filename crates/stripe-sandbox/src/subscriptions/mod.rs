//! The life of a subscription: creation, change, trial, pause, cancellation.
//! Amounts are decided here; invoices are assembled in [`crate::invoices`], and
//! nothing here charges a card.

pub mod accrued;
pub mod added_items;
pub mod cancel;
pub mod change;
pub mod create;
pub mod edit;
pub mod items;
pub mod migrate;
pub mod model;
pub mod payment;
pub mod pending;
pub mod periods;
pub mod prorations;
pub mod request;
pub mod resume;
pub mod routes;
pub mod share;
pub mod status;
pub mod update;
