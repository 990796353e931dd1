//! What is told of now and then, however often it happens.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(10);

/// Counts what happens, for a log line that comes at once and then at most
/// every ten seconds.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// It happened; Some: tell of it, and of as many.
    pub fn happened(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, untold) = &mut *state;
        *untold += 1;
        if told.is_some_and(|told| now.saturating_duration_since(told) < EVERY) {
            return None;
        }
        *told = Some(now);
        Some(std::mem::take(untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_at_once_and_then_in_sums() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let after = |secs| seldom.happened(start + Duration::from_secs(secs));
        assert_eq!(after(0), Some(1));
        assert_eq!(after(1), None);
        assert_eq!(after(9), None);
        assert_eq!(after(10), Some(3));
        assert_eq!(after(12), None);
    }
}
