//! Whether the process lives, whether it can do its work, and what it counted.

mod cached;
mod probes;
mod readiness;

pub use probes::{Probes, ProbesApi, health_router, metrics_router};
pub use readiness::Readiness;
