//! How long to wait before the next attempt, and when a failed event becomes a
//! dead letter.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

/// Events that failed: from a second to an hour.
const EVENTS: Backoff = Backoff {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(3_600),
};

/// Delays that double, up to a longest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Backoff {
    /// The delays before the second attempt, the third, and so on, without end.
    pub fn delays(self) -> impl Iterator<Item = Duration> {
        ExponentialBuilder::new()
            .with_factor(2.0)
            .with_min_delay(self.first.min(self.longest))
            .with_max_delay(self.longest)
            .without_max_times()
            .build()
    }

    /// The delay after a failure that followed `failed_before` others.
    #[must_use]
    pub fn delay(self, failed_before: u32) -> Duration {
        // No first delay of a nanosecond or more doubles as often as this.
        let n = usize::try_from(failed_before.min(96)).unwrap_or_default();
        self.delays().nth(n).unwrap_or(self.longest)
    }

    /// A delay between the previous one and [`delay`](Self::delay), so that what
    /// failed together is not retried together, and delays never shrink. At the
    /// longest delay both are equal and there is no jitter.
    ///
    /// `jitter` is a random number; all 32 bits are used.
    #[must_use]
    pub fn jittered(self, failed_before: u32, jitter: u32) -> Duration {
        let longest = self.delay(failed_before);
        let shortest = match failed_before.checked_sub(1) {
            Some(before) => self.delay(before),
            None => longest / 2,
        };
        let span = u64::try_from((longest - shortest).as_nanos()).unwrap_or(u64::MAX);
        let share = (u128::from(span) * u128::from(jitter)) >> 32;
        longest - Duration::from_nanos(u64::try_from(share).unwrap_or(span))
    }
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Retry after this delay.
    RetryAfter(Duration),
    /// Keep the event for an operator.
    DeadLetter,
}

/// Decides what follows the attempt that just failed.
///
/// `failed_before` counts the failed attempts before this one, and
/// `max_retries` the attempts allowed after the first. `jitter` is a random
/// number; all 32 bits are used.
pub fn after_failure(failed_before: u32, max_retries: u32, jitter: u32) -> NextStep {
    if failed_before >= max_retries {
        NextStep::DeadLetter
    } else {
        NextStep::RetryAfter(delay(failed_before, jitter))
    }
}

/// The delay of an event's next attempt, after `failed_before` failures and one
/// more.
pub fn delay(failed_before: u32, jitter: u32) -> Duration {
    EVENTS.jittered(failed_before, jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn delays_double_up_to_an_hour() {
        let seconds: Vec<u64> = (0..14).map(|n| EVENTS.delay(n).as_secs()).collect();
        assert_eq!(
            seconds,
            [
                1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600
            ]
        );
        assert_eq!(EVENTS.delay(u32::MAX), Duration::from_secs(3600));
        let tiny = Backoff {
            first: Duration::from_nanos(1),
            longest: Duration::MAX,
        };
        assert_eq!(tiny.delay(u32::MAX), Duration::MAX);
        let inverted = Backoff {
            first: Duration::from_secs(9),
            longest: Duration::from_secs(3),
        };
        assert_eq!(inverted.delay(0), Duration::from_secs(3));
    }

    #[test]
    fn the_first_attempt_and_twenty_retries_then_the_dead_letter_queue() {
        let failures = (0..).position(|n| after_failure(n, 20, 0) == NextStep::DeadLetter);
        assert_eq!(failures, Some(20));
        assert_eq!(after_failure(0, 0, 0), NextStep::DeadLetter);
    }

    proptest! {
        #[test]
        fn jitter_keeps_delays_monotone_and_capped(n in 0_u32..64, a: u32, b: u32) {
            let (now, next) = (delay(n, a), delay(n + 1, b));
            prop_assert!(now <= EVENTS.delay(n) && now >= EVENTS.delay(n) / 2);
            prop_assert!(next >= now);
            prop_assert!(next <= Duration::from_secs(3600));
        }
    }

    #[test]
    fn delays_of_events_that_failed_together_differ_until_the_cap() {
        for n in 0..13 {
            assert!(delay(n, 0) > delay(n, u32::MAX), "{n}");
        }
        assert_eq!(delay(13, 0), delay(13, u32::MAX));
    }
}
