//! Quotas: what each organization may use of each metric.

pub mod store;
