//! Usage over HTTP: events and checks in, decisions and totals out. The ledger
//! counts; nothing is decided here.

mod events;
mod input;
mod metadata;
mod offload;
mod reading;
pub mod response;
pub mod routes;

pub use offload::Offload;
pub use reading::{MetricUsage, read_all};
