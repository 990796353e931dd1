//! When a delivery is tried again, and when an endpoint is given up.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The pauses after failed attempts, as Standard Webhooks recommends.
const PAUSES_SECS: [i64; 7] = [
    5,
    5 * 60,
    30 * 60,
    2 * 3_600,
    5 * 3_600,
    10 * 3_600,
    10 * 3_600,
];

/// An endpoint that has failed for so long is disabled.
const PATIENCE: SignedDuration = SignedDuration::from_hours(5 * 24);

/// Longer than the longest pause between attempts: an endpoint that was sent nothing for so
/// long has not failed all the while.
pub const QUIET: Duration = Duration::from_secs(12 * 3_600);

/// When to try again after an attempt at `now` that failed, before which `failed_before`
/// others had; `None`: never. `jitter` is a random number; the pause grows by up to a tenth.
pub fn next_attempt(failed_before: u32, now: Timestamp, jitter: u32) -> Option<Timestamp> {
    let pause = *PAUSES_SECS.get(usize::try_from(failed_before).ok()?)?;
    let millis = pause * 1_000;
    let more = (millis / 10) * i64::from(jitter) / i64::from(u32::MAX);
    let pause = SignedDuration::from_millis(millis + more);
    Some(now.saturating_add(pause).unwrap_or(Timestamp::MAX))
}

/// Whether an endpoint that has failed since `failing_since`, and did at `now`, is
/// disabled.
pub fn is_given_up(failing_since: Timestamp, now: Timestamp) -> bool {
    now.duration_since(failing_since) >= PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_by_up_to_a_tenth_and_end() {
        let now = Timestamp::UNIX_EPOCH;
        let secs = |failed, jitter| next_attempt(failed, now, jitter).map(Timestamp::as_second);
        let least: Vec<i64> = (0..7).filter_map(|failed| secs(failed, 0)).collect();
        assert_eq!(least, [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000]);
        assert_eq!(secs(1, u32::MAX), Some(330));
        assert_eq!(secs(7, 0), None);
        assert_eq!(secs(u32::MAX, 0), None);
    }

    #[test]
    fn five_days_of_failures_are_enough() {
        let at = |hours| Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours);
        assert!(!is_given_up(at(0), at(119)));
        assert!(is_given_up(at(0), at(120)));
    }
}
