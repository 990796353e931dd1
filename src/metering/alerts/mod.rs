//! Usage alerts at 80, 100 and 120 % of a quota: this module lists them. It never raises
//! one, which the ledger does, and sends none, which events out do.

pub mod routes;
mod store;

pub use store::{Alert, Delivery, list_failed};
