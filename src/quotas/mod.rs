//! Quotas: what each organization may use of each metric.

mod store;

pub use store::set_plan;
