//! The months in which a plan's allowance counts, where the plan is paid for longer.

use crate::period::{Cadence, Period, PeriodError};
use crate::usage_period::CurrentSubscription;

/// The month, counted from the anchor, that contains `at_secs`: the part of it that lies
/// in the billing period `paid`.
pub fn month_of(anchor_secs: i64, at_secs: i64, paid: Period) -> Result<Period, PeriodError> {
    let month = Cadence::MONTHLY.period_containing(anchor_secs, at_secs)?;
    Period::from_seconds(
        month.start_secs().max(paid.start_secs()),
        month.end_secs().min(paid.end_secs()),
    )
}

/// When the last month of a subscription began that ended at `end_secs`. `start_secs` is
/// when an earlier one did, or that one itself.
pub fn last_month(anchor_secs: i64, start_secs: i64, end_secs: i64) -> Result<i64, PeriodError> {
    let month = Cadence::MONTHLY.period_containing(anchor_secs, end_secs - 1)?;
    Ok(month.start_secs().max(start_secs))
}

impl CurrentSubscription {
    /// The same subscription with usage that counts by the month. `known` is one of its
    /// months, or its trial.
    pub fn by_month(self, known: Period) -> Result<Self, PeriodError> {
        let paid = self.period;
        let is_within = paid.contains(known.start_secs()) && known.end_secs() <= paid.end_secs();
        Ok(Self {
            // An older replica may have begun another billing period without its month.
            period: match is_within {
                true => known,
                false => month_of(self.anchor_secs, paid.start_secs(), paid)?,
            },
            cadence: Cadence::MONTHLY,
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::usage_period::{NotCounted, current, of};

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn yearly(anchor_secs: i64, year: i64) -> CurrentSubscription {
        let start = Cadence::YEARLY.boundary(anchor_secs, year).unwrap();
        CurrentSubscription {
            period: Cadence::YEARLY
                .period_containing(anchor_secs, start)
                .unwrap(),
            anchor_secs,
            cadence: Cadence::YEARLY,
            created_secs: anchor_secs,
            ends_secs: None,
        }
    }

    fn shown(held: &CurrentSubscription, now: &str) -> (String, String) {
        let period = current(Some(held), None, now.parse().unwrap()).unwrap();
        let show = |secs| Timestamp::from_second(secs).unwrap().to_string();
        (show(period.start_secs()), show(period.end_secs()))
    }

    #[test]
    fn a_year_from_the_31st_has_months_that_end_with_each_month() {
        let paid = yearly(at("2027-01-31T10:00:00Z"), 0);
        let first = month_of(paid.anchor_secs, paid.anchor_secs, paid.period).unwrap();
        let held = paid.by_month(first).unwrap();
        for (now, start, end) in [
            ("2027-01-31T10:00:00Z", "2027-01-31", "2027-02-28"),
            ("2027-02-28T09:59:59Z", "2027-01-31", "2027-02-28"),
            ("2027-02-28T10:00:00Z", "2027-02-28", "2027-03-31"),
            ("2027-04-30T10:00:00Z", "2027-04-30", "2027-05-31"),
            // The year that follows is not known yet, and leaps.
            ("2028-02-29T10:00:00Z", "2028-02-29", "2028-03-31"),
        ] {
            let expected = (format!("{start}T10:00:00Z"), format!("{end}T10:00:00Z"));
            assert_eq!(shown(&held, now), expected, "{now}");
        }
    }

    #[test]
    fn a_month_of_another_billing_period_counts_no_more() {
        let paid = yearly(at("2024-02-29T00:00:00Z"), 1);
        let stale = Period::from_seconds(at("2025-01-29T00:00:00Z"), at("2025-02-28T00:00:00Z"));
        let held = paid.by_month(stale.unwrap()).unwrap();
        assert_eq!(held.period.start_secs(), at("2025-02-28T00:00:00Z"));
        assert_eq!(held.period.end_secs(), at("2025-03-29T00:00:00Z"));
    }

    #[test]
    fn the_last_month_of_an_ended_year_is_the_one_that_was_cut() {
        let anchor = at("2027-01-31T00:00:00Z");
        let start = |end: &str| last_month(anchor, anchor, at(end)).unwrap();
        assert_eq!(start("2027-06-10T00:00:00Z"), at("2027-05-31T00:00:00Z"));
        assert_eq!(start("2027-06-30T00:00:00Z"), at("2027-05-31T00:00:00Z"));
        assert_eq!(start("2027-02-01T00:00:00Z"), anchor);
    }

    #[test]
    fn late_usage_counts_in_its_month_to_the_last_accepted_minute() {
        let paid = yearly(at("2027-01-31T10:00:00Z"), 0);
        let first = month_of(paid.anchor_secs, paid.anchor_secs, paid.period).unwrap();
        let held = paid.by_month(first).unwrap();
        let of = |occurred: &str, now: &str| {
            let (occurred, now) = (occurred.parse().unwrap(), now.parse().unwrap());
            of(Some(&held), None, occurred, now).map(|period| period.start_secs())
        };
        let last = "2027-04-30T09:59:59Z";
        let march = at("2027-03-31T10:00:00Z");
        assert_eq!(of(last, "2027-04-30T10:29:59Z"), Ok(march));
        assert_eq!(of(last, "2027-04-30T10:30:00Z"), Err(NotCounted::Closed));
    }

    proptest! {
        #[test]
        fn months_fill_every_year_and_are_never_counted_from_each_other(
            day in 28_i64..32,
            month in prop_oneof![Just(1_i64), Just(3), Just(5), Just(7), Just(8), Just(10), Just(12)],
            first_year in 2020_i64..2032,
            year in 0_i64..12,
            known in 0_i64..12,
            offset in 0_i64..366 * 86_400,
        ) {
            let anchor = at(&format!("{first_year:04}-{month:02}-{day:02}T23:59:59Z"));
            let paid = yearly(anchor, year);
            let boundary = |index| Cadence::MONTHLY.boundary(anchor, year * 12 + index).unwrap();
            prop_assert_eq!(boundary(0), paid.period.start_secs());
            prop_assert_eq!(boundary(12), paid.period.end_secs());
            let month = Period::from_seconds(boundary(known), boundary(known + 1)).unwrap();
            let held = paid.by_month(month).unwrap();
            let now = paid.period.start_secs() + offset % paid.period.length_secs();
            // Months before the known one are found from the anchor, too.
            let period = current(Some(&held), None, Timestamp::from_second(now).unwrap()).unwrap();
            let index = (0..12).find(|index| now < boundary(index + 1)).unwrap();
            prop_assert_eq!(period.start_secs(), boundary(index));
            prop_assert_eq!(period.end_secs(), boundary(index + 1));
        }
    }
}
