//! Grace periods: the time during which a soft limit may be exceeded. There is
//! at most one per organization, metric and billing period.

use jiff::{SignedDuration, Timestamp};

/// A half-open interval, `started_at <= t < expires_at`, that begins when the
/// quota is first exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GracePeriod {
    pub started_at: Timestamp,
    pub expires_at: Timestamp,
}

impl GracePeriod {
    /// The grace period that starts when the quota is exceeded at `now`.
    #[must_use]
    pub fn starting(now: Timestamp, hours: u32) -> Self {
        let length = SignedDuration::from_hours(i64::from(hours));
        Self {
            started_at: now,
            expires_at: now.saturating_add(length).unwrap_or(Timestamp::MAX),
        }
    }

    /// Whether the grace period has expired. It has at the instant of
    /// `expires_at`.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        now >= self.expires_at
    }
}

/// Why a grace period ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// A plan with a higher quota, or one that bills the overage, took effect.
    Upgraded,
    /// An operator raised the quota, or what exceeded it was taken back.
    QuotaRaised,
    /// The billing period ended first.
    PeriodEnded,
    /// The time ran out.
    Expired,
}

impl EndReason {
    /// The name used in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upgraded => "upgraded",
            Self::QuotaRaised => "quota_raised",
            Self::PeriodEnded => "period_ended",
            Self::Expired => "expired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_period_is_over_at_the_instant_it_expires() {
        let start: Timestamp = "2024-02-28T12:00:00.5Z".parse().unwrap();
        let grace = GracePeriod::starting(start, 24);
        assert_eq!(grace.expires_at.to_string(), "2024-02-29T12:00:00.5Z");
        let just_before = "2024-02-29T12:00:00.499999999Z".parse().unwrap();
        assert!(!grace.is_over(just_before));
        assert!(grace.is_over(grace.expires_at));
    }

    #[test]
    fn a_clock_that_steps_back_does_not_end_a_grace_period() {
        let start: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let grace = GracePeriod::starting(start, 24);
        assert!(!grace.is_over("2026-11-22T12:00:00Z".parse().unwrap()));
    }
}
