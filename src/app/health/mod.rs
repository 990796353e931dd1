//! Liveness, readiness and metrics.

mod cached;
mod probes;
mod readiness;

pub use probes::{Probes, ProbesApi, health_router, metrics_router};
pub use readiness::Readiness;
