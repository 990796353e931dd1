//! How busy intake is. Processing stands back while it is: what is stored can
//! wait, what is not stored yet cannot.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A commit that this many deliveries share tells of a crowd.
const CROWD: usize = 8;
/// How long a crowd is remembered.
const MEMORY: Duration = Duration::from_millis(100);

/// What the writer tells the workers of its process.
#[derive(Debug)]
pub struct Pressure {
    epoch: Instant,
    /// Milliseconds from the epoch to the last crowd; 0 before the first.
    crowded_at: AtomicU64,
}

impl Default for Pressure {
    fn default() -> Self {
        Self {
            // Long enough ago that no crowd is remembered at the start.
            epoch: Instant::now() - MEMORY,
            crowded_at: AtomicU64::new(0),
        }
    }
}

impl Pressure {
    /// A commit of `deliveries`.
    pub fn note(&self, deliveries: usize) {
        if deliveries >= CROWD {
            self.crowded_at.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    pub fn is_high(&self) -> bool {
        let since = self
            .now_ms()
            .saturating_sub(self.crowded_at.load(Ordering::Relaxed));
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
    fn only_a_crowd_is_pressure() {
        let pressure = Pressure::default();
        assert!(!pressure.is_high());
        pressure.note(CROWD - 1);
        assert!(!pressure.is_high());
        pressure.note(CROWD);
        assert!(pressure.is_high());
    }
}
