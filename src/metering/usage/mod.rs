//! Usage over HTTP: events and checks in, decisions and totals out. Nothing is
//! counted or decided here; the ledger does both.

mod binary;
mod each;
mod events;
mod holds;
mod input;
mod metadata;
mod offload;
pub mod response;
pub mod routes;
mod schemas;
mod summary;
mod take_back;

pub use holds::Stored;
pub use offload::Offload;
pub use summary::{MetricUsage, overage_amount, read_all};
