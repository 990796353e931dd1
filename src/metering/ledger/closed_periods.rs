//! Corrects totals of closed periods, as Stripe's events report them, late and in
//! any order.
//!
//! An event that starts a period says when the previous one began and ended, and
//! which prices it had. Each closed period is therefore corrected by itself, even
//! if later ones are known already, and usage moves to the period it belongs to.

use billing_domain::period::Period;
use sqlx::PgConnection;
use uuid::Uuid;

use super::store::{self, TotalKey, TotalPeriod};
use crate::catalogue::Aggregation;

/// A closed period of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedPeriod {
    pub organization_id: Uuid,
    pub subscription_id: String,
    /// When its subscription began.
    pub created: i64,
    pub start: i64,
    pub end: i64,
    /// Whether it ended early and was invoiced immediately.
    pub at_once: bool,
    /// Whether a request of ours ended it, before which its usage was reported.
    /// Also set if that is unknown.
    pub ours: bool,
    /// The metered prices that it had at last: metric and price id. `None` if not all
    /// of its items are known.
    pub prices: Option<Vec<(String, String)>>,
}

impl ClosedPeriod {
    fn period(&self) -> Option<Period> {
        Period::from_seconds(self.start, self.end).ok()
    }

    /// The id of the price that bills a metric; empty if none does.
    fn price_of(&self, metric: &str) -> Option<&str> {
        let prices = self.prices.as_ref()?.iter();
        let ids = prices.filter(|(of, _)| of == metric).map(|(_, id)| &**id);
        Some(ids.min().unwrap_or_default())
    }
}

/// A correction of a total whose period overlaps the closed one. They are applied
/// in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Correction {
    /// Move usage after the closed period's end into a period of its own.
    Split { row: TotalPeriod },
    /// Move usage since the closed period's start into it.
    Begin { row: TotalPeriod },
    /// Merge the total, which lies within the closed period, into it.
    Merge { row: TotalPeriod },
    /// Set the end and price of the closed period's own total.
    Settle,
}

/// The corrections needed; `rows` are the totals of one account.
fn corrections(rows: &[TotalPeriod], start: i64, end: i64) -> Vec<Correction> {
    let mut corrections = Vec::new();
    let mut begun = Vec::new();
    for row in rows.iter().filter(|row| !row.free) {
        if row.start < end && end < row.end {
            corrections.push(Correction::Split { row: *row });
        }
        if row.start < start && start < row.end {
            begun.push(Correction::Begin { row: *row });
        } else if start < row.start && row.start < end {
            begun.push(Correction::Merge { row: *row });
        } else if row.start == start {
            begun.push(Correction::Settle);
        }
    }
    begun.sort_by_key(|correction| *correction == Correction::Settle);
    if begun.last().is_some_and(|last| *last != Correction::Settle) {
        begun.push(Correction::Settle);
    }
    corrections.extend(begun);
    corrections
}

/// Corrects the totals of one account by a closed period.
pub(super) async fn correct(
    conn: &mut PgConnection,
    aggregation: Aggregation,
    account: TotalKey<'_>,
    closed: &ClosedPeriod,
) -> Result<(), sqlx::Error> {
    let Some(period) = closed.period() else {
        return Ok(());
    };
    let at = |start: i64| TotalKey { start, ..account };
    let rows = store::rows_of(conn, account).await?;
    for correction in corrections(&rows, closed.start, closed.end) {
        match correction {
            Correction::Split { row } => {
                let Ok(rest) = Period::from_seconds(closed.end, row.end) else {
                    continue;
                };
                store::split(conn, at(row.start), closed.end).await?;
                let since = Some(closed.end);
                store::move_usage(conn, at(row.start), rest, since, aggregation).await?;
                store::set_end(conn, at(row.start), closed.end, row.closed, false).await?;
                store::count_late(conn, at(closed.end), aggregation).await?;
            }
            Correction::Begin { row } => {
                let since = Some(closed.start);
                store::move_usage(conn, at(row.start), period, since, aggregation).await?;
                // The earlier total ends here. If that is not its real end, its own closed
                // period corrects it.
                store::set_end(conn, at(row.start), closed.start, true, false).await?;
                store::count_late(conn, at(row.start), aggregation).await?;
            }
            Correction::Merge { row } => {
                store::move_usage(conn, at(row.start), period, None, aggregation).await?;
            }
            Correction::Settle => {
                store::set_end(conn, at(closed.start), closed.end, closed.at_once, true).await?;
                if let Some(price) = closed.price_of(account.metric) {
                    let subscription = Some(&*closed.subscription_id);
                    store::bill_by(conn, at(closed.start), price, subscription).await?;
                }
                store::mark_late(conn, at(closed.start), closed.ours).await?;
                store::count_late(conn, at(closed.start), aggregation).await?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(start: i64, end: i64) -> TotalPeriod {
        TotalPeriod {
            start,
            end,
            closed: false,
            free: false,
            suspended: false,
        }
    }

    #[test]
    fn totals_that_overlap_a_period_are_cut_and_joined_to_it() {
        let of = |rows: &[TotalPeriod]| corrections(rows, 100, 200);
        assert_eq!(of(&[row(0, 100), row(200, 300)]), []);
        assert_eq!(of(&[row(100, 200)]), [Correction::Settle]);
        // It began and ended within what had been taken for one period.
        let all = row(0, 300);
        let expected = [
            Correction::Split { row: all },
            Correction::Begin { row: all },
            Correction::Settle,
        ];
        assert_eq!(of(&[all]), expected);
        // A longer trial, during which one period seemed to end and another to begin.
        let (first, second) = (row(100, 150), row(150, 250));
        let expected = [
            Correction::Split { row: second },
            Correction::Merge { row: second },
            Correction::Settle,
        ];
        assert_eq!(of(&[first, second]), expected);
    }
}
