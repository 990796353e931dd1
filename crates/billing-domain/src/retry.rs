//! When a failed event is retried, and when it becomes a dead letter.

use std::time::Duration;

const FIRST_DELAY_MS: u64 = 1_000;
const LONGEST_DELAY_MS: u64 = 3_600_000;

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

/// The delay before the next attempt, after `failed_before` failures and one
/// more.
///
/// It lies between the previous backoff and the current one, so that events
/// that failed together are not retried together, and so that delays never
/// shrink. At the cap both backoffs are equal and there is no jitter.
pub fn delay(failed_before: u32, jitter: u32) -> Duration {
    let longest = backoff(failed_before);
    let shortest = match failed_before.checked_sub(1) {
        Some(before) => backoff(before),
        None => longest / 2,
    };
    let span_ms = u64::try_from((longest - shortest).as_millis()).unwrap_or(LONGEST_DELAY_MS);
    let share_ms = (span_ms * u64::from(jitter)) >> 32;
    longest - Duration::from_millis(share_ms)
}

/// `min(1 s · 2ⁿ, 1 h)`.
pub fn backoff(n: u32) -> Duration {
    let factor = 1_u64.checked_shl(n).unwrap_or(u64::MAX);
    Duration::from_millis(FIRST_DELAY_MS.saturating_mul(factor).min(LONGEST_DELAY_MS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn delays_double_up_to_an_hour() {
        let seconds: Vec<u64> = (0..14).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(
            seconds,
            [
                1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600
            ]
        );
        assert_eq!(backoff(u32::MAX), Duration::from_secs(3600));
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
            prop_assert!(now <= backoff(n) && now >= backoff(n) / 2);
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
