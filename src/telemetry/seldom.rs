//! Log lines of frequent happenings, limited in their rate.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(10);

/// Limits a log line to one every ten seconds; the first is immediate, and each
/// carries how often it happened since the last.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// Counts one more; `Some(times)` if it is time to log.
    pub fn happened(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (logged_at, unlogged) = &mut *state;
        *unlogged += 1;
        if logged_at.is_some_and(|at| now.saturating_duration_since(at) < EVERY) {
            return None;
        }
        *logged_at = Some(now);
        Some(std::mem::take(unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_logged_at_once_and_the_others_in_sums() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let after = |secs| seldom.happened(start + Duration::from_secs(secs));
        assert_eq!(after(0), Some(1));
        assert_eq!(after(1), None);
        assert_eq!(after(9), None);
        assert_eq!(after(10), Some(3));
        assert_eq!(after(12), None);
    }
}
