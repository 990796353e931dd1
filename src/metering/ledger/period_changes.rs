//! Periods whose boundaries moved.
//!
//! Stripe ends a period sooner (a new anchor, another interval, a trial or a
//! subscription that is cut short) or later (a longer trial) than was planned,
//! and says so after the fact. What was counted meanwhile goes to the period
//! that it was used in, in the transaction that mirrors the new period. What Stripe
//! tells of earlier periods ([`Told`]) is brought in order first.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::period::Period;
use billing_domain::usage_period::{self, Past};
use jiff::Timestamp;
use sqlx::PgConnection;
use uuid::Uuid;

use super::account::Account;
use super::closed_periods::{self, Told};
use super::store::{self, Place, Renewed, Row};
use crate::catalogue::{Catalogue, MeteredPrices};

/// What is to be done about one total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It is of the current period, which ends at another time.
    Reach,
    /// Its period ended at `end`; what was used since `since` is the current
    /// period's.
    Cut { end: i64, since: i64 },
    /// Its subscription is suspended since then: what is used from there on is
    /// free. Stripe makes no invoice, and takes what was used before.
    Suspend { since: i64 },
    /// Its period is part of the current one.
    Merge,
}

impl Step {
    /// For the log.
    fn word(self) -> &'static str {
        match self {
            Self::Reach => "extended or shortened",
            Self::Cut { .. } => "ended, and the rest moved",
            Self::Suspend { .. } => "suspended, and the rest moved",
            Self::Merge => "merged",
        }
    }
}

/// Keeps which price bills what was counted before the periods that begin now: to
/// be called before the subscriptions' rows have the prices of those.
pub async fn close(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    renewed: &[Renewed],
) -> Result<(), sqlx::Error> {
    if renewed.is_empty() {
        return Ok(());
    }
    store::keep_prices(conn, &MeteredPrices::of(catalogue), renewed).await
}

/// Brings what was counted of `organizations` in line with the periods that
/// their subscriptions have now, and with those that are over, which they were
/// `told` of. The subscriptions of those that have `resumed` were suspended until now.
pub async fn rebook(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    told: &[Told],
    resumed: &[Uuid],
) -> Result<(), sqlx::Error> {
    let found = store::rows(conn, organizations).await?;
    let prices = MeteredPrices::of(catalogue);
    let counted = found.into_iter().map(|(id, name, _)| (id, name));
    let priced = told.iter().flat_map(|told| {
        let metrics = prices.metrics.iter();
        metrics.map(|metric| (told.organization_id, metric.clone()))
    });
    let keys: BTreeSet<(Uuid, String)> = counted.chain(priced).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let keys: Vec<(Uuid, String)> = keys.into_iter().collect();
    store::lock(conn, &keys).await?;
    if !told.is_empty() {
        recall(conn, catalogue, &prices, &keys, told).await?;
    }
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
        let resumed = resumed.contains(organization_id);
        for mut row in rows.remove(&key).unwrap_or_default() {
            let place = Place {
                organization_id: *organization_id,
                metric,
                start: row.start,
            };
            if is_free(current, row, resumed, account) {
                row.free = true;
                store::bill_by(conn, place, Some(store::FREE)).await?;
            }
            settle(conn, account, current, place, row).await?;
        }
    }
    Ok(())
}

/// Whether a total is that of the time in which the subscription is, or was until
/// now, suspended: it is nobody's to bill, and no part of the subscription's period.
fn is_free(current: Period, row: Row, resumed: bool, account: &Account) -> bool {
    let now = account.now.as_second();
    let runs = row.start <= now && now < row.end;
    if usage_period::is_subscribed(account.subscribed.as_ref(), account.now) {
        resumed && runs && row.start != current.start_secs()
    } else {
        row.suspended && row.start == current.start_secs()
    }
}

/// Brings in order what was counted in periods that are over.
async fn recall(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    prices: &MeteredPrices,
    keys: &[(Uuid, String)],
    told: &[Told],
) -> Result<(), sqlx::Error> {
    let accounts = store::read(conn, keys, catalogue, 0).await?;
    let mut ours = BTreeMap::new();
    for ((organization_id, _), account) in keys.iter().zip(&accounts) {
        ours.entry(*organization_id).or_insert(account.subscribed);
    }
    // Of subscriptions beside each other, the one counts that usage follows.
    let counts = |told: &&Told| {
        let followed = ours.get(&told.organization_id).copied().flatten();
        followed
            .is_none_or(|held| held.created_secs == told.created || told.end <= held.created_secs)
    };
    let mut told: Vec<&Told> = told.iter().filter(counts).collect();
    told.sort_by_key(|told| (told.organization_id, told.end, told.start));
    told.dedup();
    store::expect(conn, &prices.metrics, &told).await?;
    for ((organization_id, metric), account) in keys.iter().zip(&accounts) {
        let of = |told: &&&Told| told.organization_id == *organization_id;
        let told: Vec<&Told> = told.iter().filter(of).copied().collect();
        let place = Place {
            organization_id: *organization_id,
            metric,
            start: 0,
        };
        closed_periods::settle(conn, prices, account.aggregation, place, &told).await?;
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
    let now = account.now.as_second();
    let Some(step) = step(current, subscribed, row, account.past, now) else {
        return Ok(());
    };
    tracing::info!(
        organization_id = %place.organization_id, metric = place.metric, step = step.word(),
        period_start = place.start, "A billing period moved, and what was counted with it"
    );
    match step {
        Step::Reach => store::reach(conn, place, current.end_secs(), false, false).await,
        Step::Cut { end, since } => {
            store::shift(conn, place, current, Some(since), account.aggregation).await?;
            fill(conn, account, place, end, since).await?;
            // The last invoice of an end by schedule is a draft for a while.
            let planned = account.subscribed.and_then(|held| held.ends_secs);
            store::reach(conn, place, end, planned != Some(end), false).await
        }
        Step::Suspend { since } => {
            store::shift(conn, place, current, Some(since), account.aggregation).await?;
            store::reach(conn, place, since, false, false).await
        }
        Step::Merge => store::shift(conn, place, current, None, account.aggregation).await,
    }
}

/// What was used between `end` and `since`, when there was no subscription, goes
/// to the periods of that time.
async fn fill(
    conn: &mut PgConnection,
    account: &Account,
    place: Place<'_>,
    end: i64,
    mut since: i64,
) -> Result<(), sqlx::Error> {
    while since > end {
        let last = Timestamp::from_second(since - 1);
        let gap = last.ok().and_then(|last| account.period_at(last).ok());
        let Some(gap) = gap.filter(|gap| gap.start_secs() != place.start) else {
            return Ok(());
        };
        since = gap.start_secs().max(end);
        store::shift(conn, place, gap, Some(since), account.aggregation).await?;
    }
    Ok(())
}

/// None: the total is of a period that ended as planned.
fn step(current: Period, subscribed: bool, row: Row, past: Option<Past>, now: i64) -> Option<Step> {
    let begins = current.start_secs();
    if row.free {
        return None;
    }
    if row.start == begins {
        return (row.end != current.end_secs()).then_some(Step::Reach);
    }
    let within = |at: &i64| row.start < *at && *at < row.end;
    let ended = past.map(|past| past.end_secs).filter(within);
    if !subscribed && past.is_none() {
        // It is suspended, and nobody knows since when.
        let runs = row.start <= now && now < row.end;
        let since = now.max(row.start + 1);
        return runs.then_some(Step::Suspend { since });
    }
    if within(&begins) {
        let end = ended.map_or(begins, |at| at.min(begins));
        return Some(Step::Cut { end, since: begins });
    }
    if let Some(end) = ended.filter(|_| !subscribed && row.end <= begins) {
        // Known of only after the month it ended in.
        return Some(Step::Cut {
            end,
            since: row.end,
        });
    }
    (begins < row.start && row.start < current.end_secs()).then_some(Step::Merge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step_of(row: (i64, i64), subscribed: bool, ended: Option<i64>) -> Option<Step> {
        let current = Period::from_seconds(100, 200).unwrap();
        let (start, end) = row;
        let past = ended.map(|end_secs| Past {
            start_secs: 0,
            end_secs,
        });
        let row = Row {
            start,
            end,
            closed: false,
            free: false,
            suspended: false,
        };
        step(current, subscribed, row, past, 150)
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
        let cut = |end, since| Some(Step::Cut { end, since });
        // It ended at 100, where what is free begins.
        assert_eq!(step_of((50, 180), false, Some(100)), cut(100, 100));
        assert_eq!(step_of((120, 180), false, Some(100)), Some(Step::Merge));
        assert_eq!(step_of((50, 100), false, Some(100)), None);
        // It ended before the month of now began.
        assert_eq!(step_of((50, 180), false, Some(60)), cut(60, 100));
        assert_eq!(step_of((50, 90), false, Some(60)), cut(60, 90));
        // A suspended one's is cut when that is seen.
        let suspended = Some(Step::Suspend { since: 150 });
        assert_eq!(step_of((50, 180), false, None), suspended);
        assert_eq!(step_of((50, 130), false, None), None);
    }
}
