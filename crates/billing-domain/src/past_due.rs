//! What a subscription grants while it is past due.

use jiff::{SignedDuration, Timestamp};

use crate::status::SubscriptionStatus;

/// The most days of access that a policy may give.
pub const MAX_DAYS: u16 = 365;

/// How long a subscription grants its plan after a payment has failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PastDueAccess {
    /// Until Stripe gives up.
    #[default]
    Keep,
    /// Not at all.
    None,
    /// For this many times 24 hours, from the first failure.
    Days(u16),
}

impl PastDueAccess {
    /// Reads `keep`, `none` or, for instance, `7d`.
    pub fn read(text: &str) -> Option<Self> {
        match text {
            "keep" => Some(Self::Keep),
            "none" => Some(Self::None),
            _ => {
                let days = text.strip_suffix('d')?;
                let plain = days.bytes().all(|b| b.is_ascii_digit()) && !days.starts_with('0');
                let days = days.parse().ok().filter(|days| *days <= MAX_DAYS && plain);
                days.map(Self::Days)
            }
        }
    }

    /// When access ends for a subscription that is past due since `since`.
    pub fn ends_at(self, since: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Keep => None,
            Self::None => Some(since),
            Self::Days(days) => {
                let days = SignedDuration::from_hours(24 * i64::from(days));
                // A time that no clock can show never comes.
                since.checked_add(days).ok()
            }
        }
    }
}

/// What is known of the access by one subscription.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Access {
    /// The first failure of what is still unpaid; `None` if it is not past due.
    pub past_due_since: Option<Timestamp>,
    /// When it ends, or has ended; `None` if it does not end by itself.
    pub ends_at: Option<Timestamp>,
    /// Whether it has ended: then the subscription grants nothing until it is paid.
    pub ended: bool,
}

impl Access {
    /// The access by a subscription of `status` at `now`, whose oldest unpaid invoice first
    /// failed at `since`.
    pub fn of(
        policy: PastDueAccess,
        status: &SubscriptionStatus,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        if *status != SubscriptionStatus::PastDue {
            return Self::default();
        }
        let ends_at = since.and_then(|since| policy.ends_at(since));
        Self {
            past_due_since: since,
            ends_at,
            ended: policy == PastDueAccess::None || ends_at.is_some_and(|end| end <= now),
        }
    }

    /// Whether a subscription of `status` grants its plan.
    pub fn grants_plan(self, status: &SubscriptionStatus) -> bool {
        status.grants_plan() && !self.ended
    }

    /// Whether it grants nothing for now, and may do so again.
    pub fn is_suspended(self, status: &SubscriptionStatus) -> bool {
        status.is_suspended() || (self.ended && status.grants_plan())
    }

    /// Whether its usage costs something.
    pub fn charges_usage(self, status: &SubscriptionStatus) -> bool {
        status.charges_usage() && !self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAST_DUE: SubscriptionStatus = SubscriptionStatus::PastDue;

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn a_policy_is_a_word_or_a_number_of_days() {
        use PastDueAccess::{Days, Keep};
        let read = PastDueAccess::read;
        assert_eq!(read("keep"), Some(Keep));
        assert_eq!(read("none"), Some(PastDueAccess::None));
        assert_eq!(read("1d"), Some(Days(1)));
        assert_eq!(read("365d"), Some(Days(365)));
        for wrong in [
            "", "d", "0d", "07d", "366d", "65536d", "-1d", "+1d", "1.5d", "1 d", "1D", "1", "7h",
            "Keep", "never",
        ] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn access_ends_so_many_days_after_the_first_failure() {
        let since = at("2026-02-27T10:00:00Z");
        let access =
            |now: &str| Access::of(PastDueAccess::Days(3), &PAST_DUE, Some(since), at(now));
        let before = access("2026-03-02T09:59:59Z");
        assert!(before.grants_plan(&PAST_DUE) && before.charges_usage(&PAST_DUE));
        assert_eq!(before.ends_at, Some(at("2026-03-02T10:00:00Z")));
        let after = access("2026-03-02T10:00:00Z");
        assert!(after.is_suspended(&PAST_DUE));
        assert!(!after.grants_plan(&PAST_DUE) && !after.charges_usage(&PAST_DUE));
    }

    #[test]
    fn the_words_say_always_and_never() {
        let now = at("2026-03-02T10:00:00Z");
        let kept = Access::of(PastDueAccess::Keep, &PAST_DUE, Some(Timestamp::MIN), now);
        assert!(kept.grants_plan(&PAST_DUE) && kept.ends_at.is_none());
        for since in [None, Some(now), Some(Timestamp::MAX)] {
            let none = Access::of(PastDueAccess::None, &PAST_DUE, since, now);
            assert!(!none.grants_plan(&PAST_DUE), "{since:?}");
        }
    }

    #[test]
    fn another_status_is_left_as_it_is() {
        let (now, since) = (at("2026-03-02T10:00:00Z"), Some(Timestamp::MIN));
        for status in ["active", "trialing", "unpaid", "paused", "canceled"] {
            let status = SubscriptionStatus::from(status);
            let access = Access::of(PastDueAccess::None, &status, since, now);
            assert_eq!(access, Access::default(), "{status}");
            assert_eq!(access.grants_plan(&status), status.grants_plan());
            assert_eq!(access.is_suspended(&status), status.is_suspended());
        }
    }

    #[test]
    fn a_time_beyond_all_clocks_never_comes() {
        let late = Access::of(
            PastDueAccess::Days(365),
            &PAST_DUE,
            Some(Timestamp::MAX),
            Timestamp::MAX,
        );
        assert!(late.grants_plan(&PAST_DUE) && late.ends_at.is_none());
    }
}
