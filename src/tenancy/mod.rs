//! Organizations, who may act for them, and the keys that our replicas sign
//! with. Nothing here is billed.

pub mod auth;
pub mod organizations;
pub mod signing;
