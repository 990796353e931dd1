//! Organizations, who may act for them, and what of their audit log who may read.
//! Nothing here is metered or billed.

pub mod audit_log;
pub mod auth;
pub mod names;
pub mod organizations;

use uuid::{Uuid, uuid};

/// The organization of sample events; its id is fixed, so that concurrent commands create
/// one. What is told of it teaches nothing about anybody else.
pub const SAMPLE: Uuid = uuid!("5a3b1e00-0000-7000-8000-000000000001");
