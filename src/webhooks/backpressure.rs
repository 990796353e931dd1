//! Backpressure: processing yields while intake is busy. Stored events can wait;
//! deliveries cannot.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The number of deliveries in a commit from which intake counts as busy.
const BUSY: usize = 8;
/// How long intake counts as busy after such a commit.
const MEMORY: Duration = Duration::from_millis(100);

/// Shared by the intake writer and the workers of a process.
#[derive(Debug)]
pub struct Backpressure {
    epoch: Instant,
    /// Milliseconds from the epoch to the last busy commit; 0 before the first.
    busy_at: AtomicU64,
}

impl Default for Backpressure {
    fn default() -> Self {
        Self {
            // Long enough ago that intake is not busy at the start.
            epoch: Instant::now() - MEMORY,
            busy_at: AtomicU64::new(0),
        }
    }
}

impl Backpressure {
    /// Notes a commit of `deliveries`.
    pub fn note(&self, deliveries: usize) {
        if deliveries >= BUSY {
            self.busy_at.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    pub fn is_high(&self) -> bool {
        let since = self
            .now_ms()
            .saturating_sub(self.busy_at.load(Ordering::Relaxed));
        u128::from(since) < MEMORY.as_millis()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_busy_commit_is_pressure() {
        let pressure = Backpressure::default();
        assert!(!pressure.is_high());
        pressure.note(BUSY - 1);
        assert!(!pressure.is_high());
        pressure.note(BUSY);
        assert!(pressure.is_high());
    }
}
