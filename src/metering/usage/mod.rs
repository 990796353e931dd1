//! Usage over HTTP: events and checks in, decisions and totals out. Nothing is
//! counted or decided here; the ledger does both.

mod each;
mod events;
mod input;
mod metadata;
mod offload;
pub mod response;
pub mod routes;
mod schemas;
mod summary;

pub use offload::Offload;
pub use summary::{MetricUsage, overage_amount, read_all};
