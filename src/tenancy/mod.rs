//! Organizations, who may act for them, and the signing keys that replicas
//! share. Nothing here is metered or billed.

pub mod auth;
pub mod organizations;
pub mod signing;
