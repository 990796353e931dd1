//! Liveness, readiness and metrics.

mod cached;
mod probes;
mod readiness;

pub use probes::{Probes, Scrapes, health, metrics};
pub use readiness::Readiness;
