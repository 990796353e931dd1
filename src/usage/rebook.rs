//! Periods whose boundaries moved.
//!
//! Stripe ends a period sooner (a new anchor, another interval, a trial or a
//! subscription that is cut short) or later (a longer trial) than was planned,
//! and says so after the fact. What was counted meanwhile goes to the period
//! that it was used in, in the transaction that mirrors the new period.

use std::collections::BTreeMap;

use billing_domain::period::Period;
use billing_domain::usage_period;
use sqlx::PgConnection;
use uuid::Uuid;

use super::account::Account;
use super::store::{self, Place, Row};
use crate::plans::Catalogue;

/// What is to be done about one total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It is of the current period, which ends at another time.
    Reach,
    /// Its period ended at `end`; what was used since `since` is the current
    /// period's.
    Cut { end: i64, since: i64 },
    /// Its period is part of the current one.
    Merge,
}

impl Step {
    /// For the log.
    fn word(self) -> &'static str {
        match self {
            Self::Reach => "extended or shortened",
            Self::Cut { .. } => "ended, and the rest moved",
            Self::Merge => "merged",
        }
    }
}

/// Brings what was counted of `organizations` in line with the periods that
/// their subscriptions have now.
pub async fn rebook(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
) -> Result<(), sqlx::Error> {
    let found = store::rows(conn, organizations).await?;
    if found.is_empty() {
        return Ok(());
    }
    let mut keys: Vec<(Uuid, String)> = found.into_iter().map(|(id, name, _)| (id, name)).collect();
    keys.dedup();
    store::lock(conn, &keys).await?;
    // Again, now that nobody else counts.
    let mut rows = BTreeMap::<(Uuid, String), Vec<Row>>::new();
    for (organization_id, metric, row) in store::rows(conn, organizations).await? {
        rows.entry((organization_id, metric)).or_default().push(row);
    }
    // The grace hours decide nothing here.
    let accounts = store::read(conn, &keys, catalogue, 0).await?;
    for ((organization_id, metric), account) in keys.iter().zip(&accounts) {
        let key = (*organization_id, metric.clone());
        let Ok(current) = account.current() else {
            continue;
        };
        for row in rows.remove(&key).unwrap_or_default() {
            let place = Place {
                organization_id: *organization_id,
                metric,
                start: row.start,
            };
            settle(conn, account, current, place, row).await?;
        }
    }
    Ok(())
}

async fn settle(
    conn: &mut PgConnection,
    account: &Account,
    current: Period,
    place: Place<'_>,
    row: Row,
) -> Result<(), sqlx::Error> {
    let subscribed = usage_period::is_subscribed(account.subscribed.as_ref(), account.now);
    let overlaps = row.end > current.start_secs() && row.start != current.start_secs();
    let ended = if overlaps {
        store::ended_at(conn, place.organization_id).await?
    } else {
        None
    };
    let now = account.now.as_second();
    let Some(step) = step(current, subscribed, row, ended, now) else {
        return Ok(());
    };
    tracing::info!(
        organization_id = %place.organization_id, metric = place.metric, step = step.word(),
        period_start = place.start, "A billing period moved, and what was counted with it"
    );
    match step {
        Step::Reach => store::reach(conn, place, current.end_secs(), false).await,
        Step::Cut { end, since } => {
            store::shift(conn, place, current, Some(since), account.aggregation).await?;
            store::reach(conn, place, end, true).await
        }
        Step::Merge => store::shift(conn, place, current, None, account.aggregation).await,
    }
}

/// None: the total is of a period that ended as planned.
fn step(current: Period, subscribed: bool, row: Row, ended: Option<i64>, now: i64) -> Option<Step> {
    let begins = current.start_secs();
    if row.start == begins {
        return (row.end != current.end_secs()).then_some(Step::Reach);
    }
    let ended = ended.filter(|at| row.start < *at && *at < row.end);
    if !subscribed {
        // The month follows upon a subscription that ended before its time.
        let runs = row.start <= now && now < row.end;
        let since = ended.unwrap_or(now).max(row.start + 1);
        return runs.then_some(Step::Cut { end: since, since });
    }
    if row.start < begins && begins < row.end {
        let end = ended.map_or(begins, |at| at.min(begins));
        return Some(Step::Cut { end, since: begins });
    }
    (begins < row.start && row.start < current.end_secs()).then_some(Step::Merge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step_of(row: (i64, i64), subscribed: bool, ended: Option<i64>) -> Option<Step> {
        let current = Period::from_seconds(100, 200).unwrap();
        let (start, end) = row;
        step(current, subscribed, Row { start, end }, ended, 150)
    }

    #[test]
    fn a_period_ends_where_the_next_begins() {
        for (row, expected) in [
            ((0, 100), None),
            ((100, 200), None),
            ((100, 180), Some(Step::Reach)),
            ((100, 300), Some(Step::Reach)),
            (
                (0, 150),
                Some(Step::Cut {
                    end: 100,
                    since: 100,
                }),
            ),
            (
                (0, 500),
                Some(Step::Cut {
                    end: 100,
                    since: 100,
                }),
            ),
            ((120, 500), Some(Step::Merge)),
            ((200, 300), None),
        ] {
            assert_eq!(step_of(row, true, None), expected, "{row:?}");
        }
        // Between two subscriptions there was none.
        let cut = Step::Cut {
            end: 60,
            since: 100,
        };
        assert_eq!(step_of((0, 150), true, Some(60)), Some(cut));
    }

    #[test]
    fn without_a_subscription_the_last_ones_period_ends_with_it() {
        let cut = |at| Some(Step::Cut { end: at, since: at });
        assert_eq!(step_of((120, 180), false, Some(130)), cut(130));
        assert_eq!(step_of((50, 180), false, Some(130)), cut(130));
        assert_eq!(step_of((50, 180), false, None), cut(150));
        assert_eq!(step_of((50, 130), false, Some(130)), None);
    }
}
