//! Periods that are over, as Stripe's events tell of them, late and in any order.
//!
//! An event that begins a period says how the one before it was: when it began,
//! when it ended, and which prices it had. So each is brought in order by itself,
//! although later ones are known already, and what was counted meanwhile goes to
//! where it was used.

use billing_domain::period::Period;
use sqlx::PgConnection;
use uuid::Uuid;

use super::store::{self, Place, Row};
use crate::catalogue::{Aggregation, MeteredPrices};

/// A period of a subscription that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub organization_id: Uuid,
    /// When its subscription began.
    pub created: i64,
    pub start: i64,
    pub end: i64,
    /// It ended before its time, and was invoiced in that moment.
    pub at_once: bool,
    /// A request of ours ended it, before which Stripe was told of its usage. Not
    /// everything that ours end says so, and then it is taken for ours.
    pub ours: bool,
    /// The lookup keys of the prices that it had in the end; None: not all of
    /// them are known.
    pub prices: Option<Vec<String>>,
}

impl Told {
    fn period(&self) -> Option<Period> {
        Period::from_seconds(self.start, self.end).ok()
    }

    /// The price that bills a metric; empty: none does.
    fn price_of(&self, prices: &MeteredPrices, metric: &str) -> Option<String> {
        let had = self.prices.as_ref()?;
        let all = prices.lookup_keys.iter().zip(&prices.metrics);
        let mut keys: Vec<&String> = all
            .filter(|(key, of)| *of == metric && had.contains(key))
            .map(|(key, _)| key)
            .collect();
        keys.sort();
        Some(keys.first().map_or(String::new(), |key| (*key).clone()))
    }
}

/// What is to be done about a total whose period overlaps a told one; in this
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// What was used since the end goes to a period of its own, up to where this
    /// one ended.
    Split { row: Row },
    /// What was used since the beginning goes to the told period.
    Begin { row: Row },
    /// It is part of the told period.
    Merge { row: Row },
    /// It is the told period.
    Settle,
}

/// `rows` are the totals of one account.
fn steps(rows: &[Row], start: i64, end: i64) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut begun = Vec::new();
    for row in rows.iter().filter(|row| !row.free) {
        if row.start < end && end < row.end {
            steps.push(Step::Split { row: *row });
        }
        if row.start < start && start < row.end {
            begun.push(Step::Begin { row: *row });
        } else if start < row.start && row.start < end {
            begun.push(Step::Merge { row: *row });
        } else if row.start == start {
            begun.push(Step::Settle);
        }
    }
    begun.sort_by_key(|step| *step == Step::Settle);
    if begun.last().is_some_and(|step| *step != Step::Settle) {
        begun.push(Step::Settle);
    }
    steps.extend(begun);
    steps
}

/// Brings one account in order with the periods that were told of.
pub(super) async fn settle(
    conn: &mut PgConnection,
    prices: &MeteredPrices,
    aggregation: Aggregation,
    account: Place<'_>,
    told: &[&Told],
) -> Result<(), sqlx::Error> {
    for told in told {
        let Some(period) = told.period() else {
            continue;
        };
        let at = |start: i64| Place { start, ..account };
        let rows = store::rows_of(conn, account).await?;
        for step in steps(&rows, told.start, told.end) {
            match step {
                Step::Split { row } => {
                    let Ok(rest) = Period::from_seconds(told.end, row.end) else {
                        continue;
                    };
                    store::split(conn, at(row.start), told.end).await?;
                    let since = Some(told.end);
                    store::shift(conn, at(row.start), rest, since, aggregation).await?;
                    store::reach(conn, at(row.start), told.end, row.closed, false).await?;
                    store::count_late(conn, at(told.end), aggregation).await?;
                }
                Step::Begin { row } => {
                    let since = Some(told.start);
                    store::shift(conn, at(row.start), period, since, aggregation).await?;
                    // It was to last longer. If that was not its own end, it is told of that, too.
                    store::reach(conn, at(row.start), told.start, true, false).await?;
                    store::count_late(conn, at(row.start), aggregation).await?;
                }
                Step::Merge { row } => {
                    store::shift(conn, at(row.start), period, None, aggregation).await?;
                }
                Step::Settle => {
                    let price = told.price_of(prices, account.metric);
                    store::reach(conn, at(told.start), told.end, told.at_once, true).await?;
                    store::bill_by(conn, at(told.start), price.as_deref()).await?;
                    store::mark_late(conn, at(told.start), told.ours).await?;
                    store::count_late(conn, at(told.start), aggregation).await?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(start: i64, end: i64) -> Row {
        Row {
            start,
            end,
            closed: false,
            free: false,
            suspended: false,
        }
    }

    #[test]
    fn totals_that_overlap_a_period_are_cut_and_joined_to_it() {
        let of = |rows: &[Row]| steps(rows, 100, 200);
        assert_eq!(of(&[row(0, 100), row(200, 300)]), []);
        assert_eq!(of(&[row(100, 200)]), [Step::Settle]);
        // It began and ended within what was thought one period.
        let all = row(0, 300);
        let expected = [
            Step::Split { row: all },
            Step::Begin { row: all },
            Step::Settle,
        ];
        assert_eq!(of(&[all]), expected);
        // A longer trial, in which a period was thought to end and another to begin.
        let (first, second) = (row(100, 150), row(150, 250));
        let expected = [
            Step::Split { row: second },
            Step::Merge { row: second },
            Step::Settle,
        ];
        assert_eq!(of(&[first, second]), expected);
    }
}
