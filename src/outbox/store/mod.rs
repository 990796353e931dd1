//! SQL for events out.

pub mod changes;
pub mod deliveries;
pub mod endpoints;
pub mod lanes;
