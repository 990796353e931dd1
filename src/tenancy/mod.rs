//! Organizations, who may act for them, and what of their audit log who may read.
//! Nothing here is metered or billed.

pub mod audit_log;
pub mod auth;
pub mod names;
pub mod organizations;
