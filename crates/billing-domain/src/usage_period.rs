//! The billing period that usage counts in: the subscription's period, or the
//! part of the UTC calendar month that no subscription covers.

use jiff::{SignedDuration, Timestamp};

use crate::period::{Cadence, Period, PeriodError};

/// How long after the end of a period its usage is still accepted. Stripe keeps
/// a renewal invoice open for about an hour, and usage must be reported by
/// then; the remaining half hour leaves time for three report runs.
pub const LATE: SignedDuration = SignedDuration::from_mins(30);
/// How long after the end of a period Stripe finalizes its invoice.
pub const FINALIZED: SignedDuration = SignedDuration::from_hours(1);
/// How far in the future usage may lie, to allow for clock skew.
pub const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// The subscription that an organization's period follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentSubscription {
    /// The latest period that Stripe reported.
    pub period: Period,
    /// The anchor from which later periods are counted.
    pub anchor_secs: i64,
    pub cadence: Cadence,
    /// When the subscription was created.
    pub created_secs: i64,
    /// When the subscription will end, if an end is set.
    pub ends_secs: Option<i64>,
}

/// The last period of a subscription that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedSubscription {
    pub start_secs: i64,
    /// When the subscription ended.
    pub end_secs: i64,
}

/// Why usage counts in no period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotCounted {
    #[error("its billing period is closed")]
    Closed,
    #[error("it lies more than five minutes ahead")]
    Ahead,
    #[error(transparent)]
    Period(#[from] PeriodError),
}

/// The period that contains `now`. If Stripe has not reported it yet, it is
/// computed from the anchor.
pub fn current(
    subscription: Option<&CurrentSubscription>,
    ended: Option<EndedSubscription>,
    now: Timestamp,
) -> Result<Period, PeriodError> {
    let secs = floor(now);
    match subscription {
        Some(subscription) if subscription.covers(secs) => subscription.containing(secs),
        _ => free(subscription, ended, secs),
    }
}

/// The period that contains `secs` when no current subscription does: that of
/// the ended subscription, or the part of the calendar month between the end of
/// one subscription and the start of the next.
fn free(
    subscription: Option<&CurrentSubscription>,
    ended: Option<EndedSubscription>,
    secs: i64,
) -> Result<Period, PeriodError> {
    let month = month(secs)?;
    let (mut start, mut end) = (month.start_secs(), month.end_secs());
    let next = subscription
        .map(CurrentSubscription::begins)
        .filter(|at| secs < *at);
    if let Some(ended) = ended {
        if secs >= ended.end_secs {
            start = start.max(ended.end_secs);
        } else if secs >= ended.start_secs {
            (start, end) = (ended.start_secs, ended.end_secs);
        } else {
            end = end.min(ended.start_secs);
        }
    }
    if let Some(over) = subscription.and_then(|subscription| subscription.ends_secs)
        && next.is_none()
        && over <= secs
    {
        start = start.max(over);
    }
    Period::from_seconds(start, next.map_or(end, |next| end.min(next)))
}

/// Whether the current period is the subscription's rather than the calendar
/// month.
#[must_use]
pub fn is_subscribed(subscription: Option<&CurrentSubscription>, now: Timestamp) -> bool {
    subscription.is_some_and(|subscription| subscription.covers(floor(now)))
}

/// The period in which usage at `occurred` counts, as of `now`.
pub fn of(
    subscription: Option<&CurrentSubscription>,
    ended: Option<EndedSubscription>,
    occurred: Timestamp,
    now: Timestamp,
) -> Result<Period, NotCounted> {
    let open = current(subscription, ended, now)?;
    beside(open, subscription, ended, occurred, now)
}

/// The same for whoever knows that `open` is [`current`] at `now`.
pub fn beside(
    open: Period,
    subscription: Option<&CurrentSubscription>,
    ended: Option<EndedSubscription>,
    occurred: Timestamp,
    now: Timestamp,
) -> Result<Period, NotCounted> {
    if occurred > now.saturating_add(AHEAD).unwrap_or(Timestamp::MAX) {
        return Err(NotCounted::Ahead);
    }
    let secs = floor(occurred);
    if open.contains(secs) {
        return Ok(open);
    }
    if secs >= open.end_secs() {
        return Ok(current(subscription, ended, occurred)?);
    }
    // Usage before the open period counts only in the period directly before
    // it, and only for a limited time.
    let late = now.as_second() - open.start_secs() < LATE.as_secs();
    if !late {
        return Err(NotCounted::Closed);
    }
    let before = current(subscription, ended, occurred)?;
    let adjoins = current(subscription, ended, second(open.start_secs() - 1)?)? == before;
    if adjoins {
        Ok(before)
    } else {
        Err(NotCounted::Closed)
    }
}

impl CurrentSubscription {
    fn begins(&self) -> i64 {
        self.created_secs.min(self.period.start_secs())
    }

    fn covers(&self, secs: i64) -> bool {
        let begun = secs >= self.begins();
        begun && self.ends_secs.is_none_or(|end| secs < end)
    }

    fn containing(&self, secs: i64) -> Result<Period, PeriodError> {
        if self.period.contains(secs) {
            return Ok(self.period);
        }
        let found = self.cadence.period_containing(self.anchor_secs, secs)?;
        // Computed periods need not line up with the reported one, for example
        // after a trial.
        let (start, end) = (found.start_secs(), found.end_secs());
        if secs < self.period.start_secs() {
            Period::from_seconds(
                start.max(self.created_secs),
                end.min(self.period.start_secs()),
            )
        } else {
            Period::from_seconds(start.max(self.period.end_secs()), end)
        }
    }
}

/// The UTC calendar month that contains `secs`.
fn month(secs: i64) -> Result<Period, PeriodError> {
    Cadence::MONTHLY.period_containing(0, secs)
}

fn second(secs: i64) -> Result<Timestamp, PeriodError> {
    Timestamp::from_second(secs).map_err(|_| PeriodError::OutOfRange)
}

/// Rounds down to whole seconds, before 1970 as well.
fn floor(instant: Timestamp) -> i64 {
    let secs = instant.as_second();
    if instant.subsec_nanosecond() < 0 {
        secs - 1
    } else {
        secs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::period::Interval;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn subscription(start: &str, end: &str) -> CurrentSubscription {
        CurrentSubscription {
            period: Period::new(at(start), at(end)).unwrap(),
            anchor_secs: at(start).as_second(),
            cadence: Cadence::MONTHLY,
            created_secs: at(start).as_second(),
            ends_secs: None,
        }
    }

    fn shown(period: Period) -> (String, String) {
        let show = |secs| Timestamp::from_second(secs).unwrap().to_string();
        (show(period.start_secs()), show(period.end_secs()))
    }

    #[test]
    fn without_a_subscription_the_month_rolls_over_to_the_microsecond() {
        let period = |now| shown(current(None, None, at(now)).unwrap());
        let february = ("2024-02-01T00:00:00Z".into(), "2024-03-01T00:00:00Z".into());
        assert_eq!(period("2024-02-01T00:00:00Z"), february);
        assert_eq!(period("2024-02-29T23:59:59.999999Z"), february);
        assert_eq!(period("2024-03-01T00:00:00Z").0, "2024-03-01T00:00:00Z");
    }

    #[test]
    fn a_subscription_renews_by_itself_and_returns_to_the_31st() {
        let held = subscription("2026-01-31T10:00:00Z", "2026-02-28T10:00:00Z");
        let period = |now| shown(current(Some(&held), None, at(now)).unwrap());
        assert_eq!(
            period("2026-02-28T10:00:00Z"),
            ("2026-02-28T10:00:00Z".into(), "2026-03-31T10:00:00Z".into())
        );
        assert_eq!(
            period("2026-02-28T09:59:59.999999Z").0,
            "2026-01-31T10:00:00Z"
        );
        assert_eq!(period("2026-05-01T00:00:00Z").0, "2026-04-30T10:00:00Z");
        // Before the subscription, the calendar month applies.
        assert_eq!(period("2026-01-31T09:59:59Z").0, "2026-01-01T00:00:00Z");
    }

    #[test]
    fn a_subscription_that_ends_leaves_the_rest_of_the_calendar_month() {
        let mut held = subscription("2026-01-15T00:00:00Z", "2026-02-15T00:00:00Z");
        held.ends_secs = Some(held.period.end_secs());
        let period = current(Some(&held), None, at("2026-02-15T00:00:00Z")).unwrap();
        let rest = ("2026-02-15T00:00:00Z".into(), "2026-03-01T00:00:00Z".into());
        assert_eq!(shown(period), rest);
        let ended = EndedSubscription {
            start_secs: held.period.start_secs(),
            end_secs: held.period.end_secs(),
        };
        let of = |now| shown(current(None, Some(ended), at(now)).unwrap());
        assert_eq!(of("2026-02-15T00:00:00Z"), rest);
        assert_eq!(of("2026-02-14T23:59:59Z"), shown(held.period));
        let before = ("2026-01-01T00:00:00Z".into(), "2026-01-15T00:00:00Z".into());
        assert_eq!(of("2026-01-14T00:00:00Z"), before);
        assert_eq!(of("2026-03-02T00:00:00Z").0, "2026-03-01T00:00:00Z");
        // The calendar month applies until the next subscription begins.
        let next = subscription("2026-02-20T00:00:00Z", "2026-03-20T00:00:00Z");
        let between = current(Some(&next), Some(ended), at("2026-02-16T00:00:00Z")).unwrap();
        let expected = ("2026-02-15T00:00:00Z".into(), "2026-02-20T00:00:00Z".into());
        assert_eq!(shown(between), expected);
    }

    #[test]
    fn late_usage_counts_in_its_own_period_while_that_is_open() {
        let of = |occurred, now| of(None, None, at(occurred), at(now)).map(|p| shown(p).0);
        let (late, november) = ("2026-11-30T23:59:59Z", "2026-11-01T00:00:00Z");
        assert_eq!(of(late, "2026-12-01T00:29:59Z").unwrap(), november);
        assert_eq!(of(late, "2026-12-01T00:30:00Z"), Err(NotCounted::Closed));
        let october = "2026-10-31T23:59:59Z";
        assert_eq!(of(october, "2026-12-01T00:00:00Z"), Err(NotCounted::Closed));
    }

    #[test]
    fn usage_ahead_is_refused_beyond_five_minutes() {
        let of = |occurred| of(None, None, at(occurred), at("2026-11-30T23:58:00Z"));
        let next = of("2026-12-01T00:03:00Z").map(|p| shown(p).0);
        assert_eq!(next.unwrap(), "2026-12-01T00:00:00Z");
        assert_eq!(of("2026-12-01T00:03:00.000001Z"), Err(NotCounted::Ahead));
        assert_eq!(of("9999-12-30T22:00:00Z"), Err(NotCounted::Ahead));
    }

    #[test]
    fn usage_before_the_subscription_counts_in_its_month_while_that_is_open() {
        let held = subscription("2026-11-10T12:00:00Z", "2026-12-10T12:00:00Z");
        let of = |now| of(Some(&held), None, at("2026-11-10T11:59:00Z"), at(now));
        let month = of("2026-11-10T12:29:59Z").map(|p| shown(p).0);
        assert_eq!(month.unwrap(), "2026-11-01T00:00:00Z");
        assert_eq!(of("2026-11-10T12:30:00Z"), Err(NotCounted::Closed));
    }

    proptest! {
        #[test]
        fn periods_follow_each_other_without_gap_or_overlap(
            anchor in 0_i64..4_000_000_000,
            later in 0_i64..1_000_000_000,
            count in 1_u16..13,
            interval in prop_oneof![
                Just(Interval::Week), Just(Interval::Month), Just(Interval::Year)
            ],
        ) {
            let cadence = Cadence::every(count, interval).unwrap();
            let first = cadence.period_containing(anchor, anchor).unwrap();
            let held = CurrentSubscription {
                period: first,
                anchor_secs: anchor,
                cadence,
                created_secs: anchor,
                ends_secs: None,
            };
            let now = Timestamp::from_second(anchor + later).unwrap();
            let period = current(Some(&held), None, now).unwrap();
            prop_assert!(period.contains(anchor + later));
            let next = Timestamp::from_second(period.end_secs()).unwrap();
            prop_assert_eq!(current(Some(&held), None, next).unwrap().start_secs(), period.end_secs());
            let last = Timestamp::from_second(period.end_secs() - 1).unwrap();
            prop_assert_eq!(current(Some(&held), None, last).unwrap(), period);
            prop_assert_eq!(of(Some(&held), None, now, now).unwrap(), period);
        }

        #[test]
        fn a_clock_that_steps_back_changes_no_past_period(
            occurred in 1_000_000_000_i64..4_000_000_000,
            back in 0_i64..300,
        ) {
            let occurred = Timestamp::from_second(occurred).unwrap();
            let earlier = occurred - SignedDuration::from_secs(back);
            prop_assert_eq!(of(None, None, occurred, earlier), of(None, None, occurred, occurred));
        }
    }
}
