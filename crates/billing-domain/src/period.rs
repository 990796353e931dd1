//! Billing periods: half-open UTC intervals, counted from an anchor.
//!
//! Every boundary is computed from the anchor, never from the previous
//! boundary. An anchor on the 31st therefore returns to the 31st after a short
//! month instead of drifting to the 28th.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// Why a period cannot be constructed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    /// The end is not after the start.
    #[error("a period must end after it starts")]
    Empty,
    /// The interval count is zero.
    #[error("a billing interval must repeat at least every 1 unit")]
    ZeroInterval,
    /// The result is outside the range of representable times.
    #[error("the period lies outside the range of representable times")]
    OutOfRange,
}

/// A half-open interval, `start <= t < end`, with a resolution of one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Period {
    start_secs: i64,
    end_secs: i64,
}

impl Period {
    /// The interval from `start` up to, but not including, `end`.
    ///
    /// Fractions of a second are dropped, because Stripe's periods are whole
    /// seconds.
    pub fn new(start: Timestamp, end: Timestamp) -> Result<Self, PeriodError> {
        Self::from_seconds(start.as_second(), end.as_second())
    }

    /// The interval between two Unix times.
    pub fn from_seconds(start_secs: i64, end_secs: i64) -> Result<Self, PeriodError> {
        if end_secs <= start_secs {
            return Err(PeriodError::Empty);
        }
        Timestamp::from_second(start_secs).map_err(|_| PeriodError::OutOfRange)?;
        Timestamp::from_second(end_secs).map_err(|_| PeriodError::OutOfRange)?;
        Ok(Self {
            start_secs,
            end_secs,
        })
    }

    /// The first second of the period, as Unix time.
    #[must_use]
    pub const fn start_secs(&self) -> i64 {
        self.start_secs
    }

    /// The first second after the period, as Unix time.
    #[must_use]
    pub const fn end_secs(&self) -> i64 {
        self.end_secs
    }

    /// The length of the period; at least one second.
    #[must_use]
    pub const fn length_secs(&self) -> i64 {
        self.end_secs - self.start_secs
    }

    /// The time left in the period at `at_secs`: the whole length before the
    /// start, zero from the end on.
    #[must_use]
    pub fn remaining_secs(&self, at_secs: i64) -> i64 {
        self.end_secs - at_secs.clamp(self.start_secs, self.end_secs)
    }

    /// Whether the period contains `at_secs`. The end is excluded.
    #[must_use]
    pub const fn contains(&self, at_secs: i64) -> bool {
        self.start_secs <= at_secs && at_secs < self.end_secs
    }
}

/// The unit of a recurring price's interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Interval {
    /// Twenty-four hours.
    Day,
    /// Seven days.
    Week,
    /// A calendar month.
    Month,
    /// A calendar year.
    Year,
}

/// How often a price recurs: every `count` intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cadence {
    interval: Interval,
    count: u16,
}

impl Cadence {
    pub const MONTHLY: Self = Self {
        interval: Interval::Month,
        count: 1,
    };

    pub const YEARLY: Self = Self {
        interval: Interval::Year,
        count: 1,
    };

    /// Every `count` intervals; an error if `count` is zero.
    pub fn every(count: u16, interval: Interval) -> Result<Self, PeriodError> {
        if count == 0 {
            return Err(PeriodError::ZeroInterval);
        }
        Ok(Self { interval, count })
    }

    /// The boundary `index` intervals after the anchor, or before it if
    /// negative. If a month lacks the anchor's day, its last day is used.
    pub fn boundary(&self, anchor_secs: i64, index: i64) -> Result<i64, PeriodError> {
        let steps = index
            .checked_mul(i64::from(self.count))
            .ok_or(PeriodError::OutOfRange)?;
        let span = match self.interval {
            Interval::Day => Span::new().try_days(steps),
            Interval::Week => Span::new().try_weeks(steps),
            Interval::Month => Span::new().try_months(steps),
            Interval::Year => Span::new().try_years(steps),
        }
        .map_err(|_| PeriodError::OutOfRange)?;
        let moved = utc(anchor_secs)?
            .checked_add(span)
            .map_err(|_| PeriodError::OutOfRange)?;
        let zoned = moved
            .to_zoned(TimeZone::UTC)
            .map_err(|_| PeriodError::OutOfRange)?;
        Ok(zoned.timestamp().as_second())
    }

    /// The period that contains `at_secs`, counted from the anchor.
    pub fn period_containing(&self, anchor_secs: i64, at_secs: i64) -> Result<Period, PeriodError> {
        // The estimate is at most one off in either direction. It is too high,
        // for example, before the anchor's day of the month is reached.
        let mut index = self.estimated_index(anchor_secs, at_secs)?;
        let mut start = self.boundary(anchor_secs, index)?;
        let mut end = self.boundary(anchor_secs, index + 1)?;
        while start > at_secs {
            index -= 1;
            (start, end) = (self.boundary(anchor_secs, index)?, start);
        }
        while end <= at_secs {
            index += 1;
            (start, end) = (end, self.boundary(anchor_secs, index + 1)?);
        }
        Period::from_seconds(start, end)
    }

    fn estimated_index(&self, anchor_secs: i64, at_secs: i64) -> Result<i64, PeriodError> {
        const DAY_SECS: i64 = 86_400;
        let count = i64::from(self.count);
        let elapsed_secs = at_secs
            .checked_sub(anchor_secs)
            .ok_or(PeriodError::OutOfRange)?;
        let (anchor, at) = (utc(anchor_secs)?, utc(at_secs)?);
        let months = i64::from(at.year() - anchor.year()) * 12 + i64::from(at.month())
            - i64::from(anchor.month());
        Ok(match self.interval {
            Interval::Day => elapsed_secs.div_euclid(DAY_SECS * count),
            Interval::Week => elapsed_secs.div_euclid(7 * DAY_SECS * count),
            Interval::Month => months.div_euclid(count),
            Interval::Year => months.div_euclid(12 * count),
        })
    }
}

fn utc(secs: i64) -> Result<DateTime, PeriodError> {
    let timestamp = Timestamp::from_second(secs).map_err(|_| PeriodError::OutOfRange)?;
    Ok(TimeZone::UTC.to_datetime(timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().expect("a timestamp").as_second()
    }

    fn month_containing(anchor: &str, instant: &str) -> (i64, i64) {
        let period = Cadence::MONTHLY
            .period_containing(at(anchor), at(instant))
            .expect("in range");
        (period.start_secs(), period.end_secs())
    }

    #[test]
    fn an_anchor_on_the_31st_returns_to_the_31st_after_february() {
        let anchor = "2026-01-31T10:00:00Z";
        assert_eq!(
            month_containing(anchor, "2026-03-01T00:00:00Z"),
            (at("2026-02-28T10:00:00Z"), at("2026-03-31T10:00:00Z"))
        );
        assert_eq!(
            month_containing(anchor, "2026-04-30T10:00:00Z"),
            (at("2026-04-30T10:00:00Z"), at("2026-05-31T10:00:00Z"))
        );
    }

    #[test]
    fn a_leap_day_anchor_renews_on_the_28th_in_common_years() {
        let yearly = Cadence::every(1, Interval::Year).expect("yearly");
        let period = yearly
            .period_containing(at("2024-02-29T00:00:00Z"), at("2025-06-01T00:00:00Z"))
            .expect("in range");
        assert_eq!(period.start_secs(), at("2025-02-28T00:00:00Z"));
        assert_eq!(period.end_secs(), at("2026-02-28T00:00:00Z"));
    }

    #[test]
    fn a_boundary_belongs_to_the_period_it_opens() {
        let anchor = "2026-11-05T00:00:00Z";
        assert_eq!(
            month_containing(anchor, "2026-12-05T00:00:00Z").0,
            at("2026-12-05T00:00:00Z")
        );
        assert_eq!(
            month_containing(anchor, "2026-12-04T23:59:59Z").0,
            at("2026-11-05T00:00:00Z")
        );
    }

    #[test]
    fn periods_before_the_anchor_lie_on_the_same_grid() {
        assert_eq!(
            month_containing("2026-05-31T00:00:00Z", "2026-03-15T00:00:00Z"),
            (at("2026-02-28T00:00:00Z"), at("2026-03-31T00:00:00Z"))
        );
    }

    #[test]
    fn impossible_periods_are_refused() {
        assert_eq!(Period::from_seconds(5, 5), Err(PeriodError::Empty));
        assert_eq!(Period::from_seconds(6, 5), Err(PeriodError::Empty));
        assert_eq!(
            Period::from_seconds(0, i64::MAX),
            Err(PeriodError::OutOfRange)
        );
        assert_eq!(
            Cadence::every(0, Interval::Month),
            Err(PeriodError::ZeroInterval)
        );
        assert_eq!(
            Cadence::MONTHLY.boundary(0, i64::MAX),
            Err(PeriodError::OutOfRange)
        );
    }
}
