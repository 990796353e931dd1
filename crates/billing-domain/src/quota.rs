//! Quotas: whether usage is allowed, given what was used before.

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::grace_period::GracePeriod;

/// How the quantities reported in a period are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregation {
    Sum,
    /// The highest level reported.
    Max,
    /// The last level reported, for gauges.
    Last,
}

impl Aggregation {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Max => "max",
            Self::Last => "last",
        }
    }

    /// The total after reporting `quantity`; `None` on overflow.
    #[must_use]
    pub fn with(self, used: Decimal, quantity: Decimal) -> Option<Decimal> {
        match self {
            Self::Sum => used.checked_add(quantity),
            Self::Max => Some(used.max(quantity)),
            Self::Last => Some(quantity),
        }
    }
}

/// What happens to usage over the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverLimit {
    /// It is denied.
    Hard,
    /// It is allowed during the grace period and denied afterwards.
    Grace,
    /// It is allowed, reported and billed.
    Overage,
}

impl OverLimit {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Grace => "grace",
            Self::Overage => "overage",
        }
    }

    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Hard, Self::Grace, Self::Overage]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// The quota for one metric and billing period, and what happens beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaPolicy {
    /// `None` means unlimited.
    pub quota: Option<Decimal>,
    pub over_limit: OverLimit,
    /// The most that may be used during a grace period; `None` means no
    /// maximum.
    pub grace_max: Option<Decimal>,
}

impl QuotaPolicy {
    /// The same with `adjustment` added to the quota, which never falls below zero.
    #[must_use]
    pub fn adjusted(self, adjustment: Decimal) -> Self {
        let add = |limit: Decimal| (limit + adjustment).max(Decimal::ZERO);
        Self {
            quota: self.quota.map(add),
            grace_max: self.grace_max.map(add),
            ..self
        }
    }
}

/// The most that may be used during a grace period, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraceCeiling {
    /// In percent of the effective quota.
    Percent(Decimal),
    Quantity(Decimal),
}

impl GraceCeiling {
    /// The maximum for an effective quota of `quota`.
    #[must_use]
    pub fn over(self, quota: Decimal) -> Decimal {
        match self {
            // On overflow there is no maximum, since no total can reach it.
            Self::Percent(percent) => quota
                .checked_mul(percent)
                .map_or(Decimal::MAX, |share| share / Decimal::ONE_HUNDRED),
            Self::Quantity(quantity) => quantity,
        }
    }
}

/// Whether usage is allowed, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The quota covers it, or it lowers the level.
    Within,
    /// It exceeds the quota and is billed.
    Overage,
    /// It exceeds the quota during the grace period. `starts` says whether this
    /// usage begins the grace period.
    InGrace { grace: GracePeriod, starts: bool },
    /// It exceeds the quota, and the grace period has expired.
    GraceExpired { grace: GracePeriod },
    /// It exceeds the maximum for a grace period, whether or not one has begun.
    GraceExhausted { grace: Option<GracePeriod> },
    /// It exceeds a hard quota.
    Exceeded,
}

impl Decision {
    #[must_use]
    pub const fn allowed(self) -> bool {
        matches!(self, Self::Within | Self::Overage | Self::InGrace { .. })
    }

    /// The code of a decision that does not allow.
    #[must_use]
    pub const fn refusal(self) -> Option<&'static str> {
        match self {
            Self::GraceExpired { .. } => Some("QUOTA_EXCEEDED_GRACE_EXPIRED"),
            Self::Exceeded | Self::GraceExhausted { .. } => Some("QUOTA_EXCEEDED"),
            Self::Within | Self::Overage | Self::InGrace { .. } => None,
        }
    }
}

/// Decides whether the level may change from `used` to `wanted`. `grace` is the
/// grace period of this billing period, if one began; `grace_hours` is the
/// length of a new one.
#[must_use]
pub fn decide(
    policy: &QuotaPolicy,
    used: Decimal,
    wanted: Decimal,
    grace: Option<GracePeriod>,
    grace_hours: u32,
    now: Timestamp,
) -> Decision {
    let covered = policy.quota.is_none_or(|quota| wanted <= quota);
    // Usage that does not raise the level is always allowed.
    if covered || wanted < used || (wanted == used && policy.over_limit == OverLimit::Hard) {
        return Decision::Within;
    }
    match (policy.over_limit, grace) {
        (OverLimit::Hard, _) => Decision::Exceeded,
        (OverLimit::Overage, _) => Decision::Overage,
        (OverLimit::Grace, Some(grace)) if grace.is_over(now) => Decision::GraceExpired { grace },
        (OverLimit::Grace, grace) if policy.grace_max.is_some_and(|max| wanted > max) => {
            Decision::GraceExhausted { grace }
        }
        (OverLimit::Grace, None) => Decision::InGrace {
            grace: GracePeriod::starting(now, grace_hours),
            starts: true,
        },
        (OverLimit::Grace, Some(grace)) => Decision::InGrace {
            grace,
            starts: false,
        },
    }
}

/// The used share of `quota` in percent, rounded down to two decimal places. A
/// quota of zero counts as fully used.
#[must_use]
pub fn percentage(used: Decimal, quota: Decimal) -> Decimal {
    let hundred = Decimal::ONE_HUNDRED;
    if quota.is_zero() {
        return hundred;
    }
    used.checked_mul(hundred)
        .and_then(|part| part.checked_div(quota))
        // On overflow the share is far above every threshold.
        .map_or(Decimal::MAX, |percent| percent.trunc_with_scale(2))
}

/// The used shares, in percent, that trigger an alert.
pub const ALERT_THRESHOLDS: [u8; 3] = [80, 100, 120];

/// The highest alert threshold that `used` has reached.
#[must_use]
pub fn threshold_reached(used: Decimal, quota: Decimal) -> Option<u8> {
    let reached = |percent: &u8| {
        let share = quota.checked_mul(Decimal::from(*percent));
        let part = used.checked_mul(Decimal::ONE_HUNDRED);
        match (part, share) {
            (Some(part), Some(share)) => part >= share && !used.is_zero(),
            _ => false,
        }
    };
    ALERT_THRESHOLDS.into_iter().rev().find(reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn decision(over_limit: OverLimit, used: i64, wanted: i64) -> Decision {
        let policy = QuotaPolicy {
            quota: Some(100.into()),
            over_limit,
            grace_max: None,
        };
        let now = at("2026-11-23T00:00:00Z");
        decide(&policy, used.into(), wanted.into(), None, 24, now)
    }

    #[test]
    fn the_quota_itself_may_be_used_up() {
        for kind in [OverLimit::Hard, OverLimit::Grace, OverLimit::Overage] {
            assert_eq!(decision(kind, 99, 100), Decision::Within);
        }
        assert_eq!(decision(OverLimit::Hard, 100, 101), Decision::Exceeded);
        assert_eq!(decision(OverLimit::Overage, 100, 101), Decision::Overage);
        assert!(matches!(
            decision(OverLimit::Grace, 100, 101),
            Decision::InGrace { starts: true, .. }
        ));
    }

    #[test]
    fn unlimited_is_never_exceeded() {
        let policy = QuotaPolicy {
            quota: None,
            over_limit: OverLimit::Hard,
            grace_max: None,
        };
        let now = at("2026-11-23T00:00:00Z");
        let decided = decide(&policy, Decimal::MAX, Decimal::MAX, None, 24, now);
        assert_eq!(decided, Decision::Within);
    }

    #[test]
    fn a_gauge_over_its_limit_may_fall() {
        assert_eq!(decision(OverLimit::Hard, 500, 400), Decision::Within);
        assert_eq!(decision(OverLimit::Hard, 500, 501), Decision::Exceeded);
    }

    #[test]
    fn a_grace_period_that_is_over_does_not_start_again() {
        let policy = QuotaPolicy {
            quota: Some(3.into()),
            over_limit: OverLimit::Grace,
            grace_max: None,
        };
        let grace = GracePeriod::starting(at("2026-11-01T00:00:00Z"), 24);
        let decide_at = |now| decide(&policy, 3.into(), 4.into(), Some(grace), 24, at(now));
        assert_eq!(
            decide_at("2026-11-01T23:59:59.999999Z"),
            Decision::InGrace {
                grace,
                starts: false
            }
        );
        for later in ["2026-11-02T00:00:00Z", "2026-11-30T23:59:59Z"] {
            assert_eq!(decide_at(later), Decision::GraceExpired { grace });
        }
    }

    #[test]
    fn a_grace_period_may_have_a_maximum() {
        let policy = QuotaPolicy {
            quota: Some(100.into()),
            over_limit: OverLimit::Grace,
            grace_max: Some(200.into()),
        };
        let grace = GracePeriod::starting(at("2026-11-01T00:00:00Z"), 24);
        let decide = |used: i64, wanted: i64, grace, now| {
            decide(&policy, used.into(), wanted.into(), grace, 24, at(now))
        };
        let within = "2026-11-01T12:00:00Z";
        assert!(decide(0, 200, None, within).allowed());
        assert!(decide(199, 200, Some(grace), within).allowed());
        let none = Decision::GraceExhausted { grace: None };
        assert_eq!(decide(0, 201, None, within), none);
        let some = Decision::GraceExhausted { grace: Some(grace) };
        assert_eq!(decide(200, 201, Some(grace), within), some);
        // A level above the maximum may fall but not stay.
        assert_eq!(decide(500, 400, Some(grace), within), Decision::Within);
        assert!(!decide(500, 500, Some(grace), within).allowed());
        let over = Decision::GraceExpired { grace };
        assert_eq!(decide(0, 201, Some(grace), "2026-11-03T00:00:00Z"), over);
    }

    #[test]
    fn an_adjustment_moves_every_limit() {
        let policy = QuotaPolicy {
            quota: Some(100.into()),
            over_limit: OverLimit::Grace,
            grace_max: Some(150.into()),
        };
        let limits = |adjustment: i64| {
            let adjusted = policy.adjusted(adjustment.into());
            (adjusted.quota, adjusted.grace_max)
        };
        assert_eq!(limits(40), (Some(140.into()), Some(190.into())));
        assert_eq!(limits(-120), (Some(0.into()), Some(30.into())));
        let unlimited = QuotaPolicy {
            quota: None,
            ..policy
        };
        assert_eq!(unlimited.adjusted(7.into()).quota, None);
    }

    #[test]
    fn a_ceiling_follows_the_quota_in_force() {
        let percent = GraceCeiling::Percent("150.5".parse().unwrap());
        assert_eq!(percent.over(1_000.into()), Decimal::from(1_505));
        assert_eq!(percent.over(Decimal::MAX), Decimal::MAX);
        assert_eq!(GraceCeiling::Quantity(7.into()).over(5.into()), 7.into());
    }

    #[test]
    fn a_percentage_is_rounded_down() {
        for (used, quota, percent) in [
            (1, 3, "33.33"),
            (2, 3, "66.66"),
            (0, 0, "100"),
            (5, 0, "100"),
            (0, 10, "0"),
            (12, 10, "120"),
        ] {
            let read: Decimal = percent.parse().unwrap();
            assert_eq!(percentage(used.into(), quota.into()), read);
        }
    }

    #[test]
    fn thresholds_are_reached_exactly() {
        let reached = |used: &str| threshold_reached(used.parse().unwrap(), 100.into());
        assert_eq!(reached("79.9999"), None);
        assert_eq!(reached("80"), Some(80));
        assert_eq!(reached("100"), Some(100));
        assert_eq!(reached("119.9999"), Some(100));
        assert_eq!(reached("5000"), Some(120));
        assert_eq!(threshold_reached(Decimal::ZERO, Decimal::ZERO), None);
    }
}
