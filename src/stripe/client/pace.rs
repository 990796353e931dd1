//! How fast calls are made: for long work, which must leave Stripe's limit to others.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets calls begin at even intervals, whoever makes them. Clones share it.
#[derive(Debug, Clone)]
pub struct Pace {
    interval: Duration,
    turns: Arc<Mutex<Turns>>,
}

/// When the next call may begin; `None`: at any time.
#[derive(Debug, Default)]
struct Turns(Option<Instant>);

impl Turns {
    fn next(&mut self, now: Instant, interval: Duration) -> Instant {
        let turn = self.0.map_or(now, |next| next.max(now));
        self.0 = Some(turn + interval);
        turn
    }

    fn hold(&mut self, until: Instant) {
        self.0 = Some(self.0.map_or(until, |next| next.max(until)));
    }
}

impl Pace {
    /// At most `rate` calls a second, and at least one.
    pub fn per_second(rate: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / rate.max(1),
            turns: Arc::default(),
        }
    }

    /// Waits for a call's turn.
    pub async fn wait(&self) {
        let turn = self.turns().next(Instant::now(), self.interval);
        tokio::time::sleep_until(turn.into()).await;
    }

    /// Lets no call begin for `pause`: Stripe has refused one.
    pub fn hold(&self, pause: Duration) {
        self.turns().hold(Instant::now() + pause);
    }

    fn turns(&self) -> std::sync::MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_begin_at_even_intervals_and_wait_out_a_refusal() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let interval = Duration::from_millis(250);
        let mut turns = Turns::default();
        assert_eq!(turns.next(at(0), interval), at(0));
        assert_eq!(turns.next(at(10), interval), at(250));
        turns.hold(at(2_000));
        assert_eq!(turns.next(at(20), interval), at(2_000));
        assert_eq!(turns.next(at(30), interval), at(2_250));
        // Who comes late catches nothing up.
        assert_eq!(turns.next(at(9_000), interval), at(9_000));
        assert_eq!(turns.next(at(9_000), interval), at(9_250));
    }
}
