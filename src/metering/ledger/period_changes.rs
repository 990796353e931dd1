//! Corrects totals when period boundaries move.
//!
//! Stripe ends a period earlier (a new anchor, another interval, a trial or
//! subscription cut short) or later (a longer trial) than planned, and says so
//! afterwards. Usage counted in the meantime moves to the period it belongs to,
//! in the transaction that mirrors the new period. Closed periods
//! ([`ClosedPeriod`]) are corrected first.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::period::Period;
use billing_domain::usage_period::{self, EndedSubscription};
use jiff::Timestamp;
use sqlx::PgConnection;
use uuid::Uuid;

use super::account::Account;
use super::closed_periods::{self, ClosedPeriod};
use super::store::{self, Renewed, TotalKey, TotalPeriod};
use crate::catalogue::Catalogue;

/// How one total changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PeriodChange {
    /// Its period is the current one, with another end.
    NewEnd,
    /// Its period ended at `end`; usage since `since` belongs to the current
    /// period.
    Cut { end: i64, since: i64 },
    /// The subscription was suspended at `since`; usage from then on is free.
    /// Stripe makes no invoice, and still takes usage from before.
    Suspend { since: i64 },
    /// Its period is part of the current one.
    Merge,
}

impl PeriodChange {
    fn describe(self) -> &'static str {
        match self {
            Self::NewEnd => "extended or shortened",
            Self::Cut { .. } => "ended, and the rest moved",
            Self::Suspend { .. } => "suspended, and the rest moved",
            Self::Merge => "merged",
        }
    }
}

/// Records which price bills the usage before the periods that begin now. Call it
/// before the subscriptions' rows get the new periods' prices.
pub async fn close(conn: &mut PgConnection, renewed: &[Renewed]) -> Result<(), sqlx::Error> {
    if renewed.is_empty() {
        return Ok(());
    }
    store::keep_prices(conn, renewed).await
}

/// Moves the usage of `organizations` to match the current periods of their
/// subscriptions, and the `closed` ones. The subscriptions of `resumed`
/// organizations were suspended until now.
pub async fn rebook(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    closed: &[ClosedPeriod],
    resumed: &[Uuid],
) -> Result<(), sqlx::Error> {
    let found = store::rows(conn, organizations).await?;
    let metrics = billed_metrics(catalogue, closed);
    let counted = found.into_iter().map(|(id, name, _)| (id, name));
    let priced = closed.iter().flat_map(|closed| {
        let metrics = metrics.iter();
        metrics.map(|metric| (closed.organization_id, metric.clone()))
    });
    let keys: BTreeSet<(Uuid, String)> = counted.chain(priced).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let keys: Vec<(Uuid, String)> = keys.into_iter().collect();
    store::lock(conn, &keys).await?;
    if !closed.is_empty() {
        correct_closed(conn, catalogue, &metrics, &keys, closed).await?;
    }
    // Read again under the lock.
    let mut rows = BTreeMap::<(Uuid, String), Vec<TotalPeriod>>::new();
    for (organization_id, metric, row) in store::rows(conn, organizations).await? {
        rows.entry((organization_id, metric)).or_default().push(row);
    }
    // The grace hours make no difference here.
    let accounts = store::read(conn, &keys, catalogue, 0).await?;
    for ((organization_id, metric), account) in keys.iter().zip(&accounts) {
        let key = (*organization_id, metric.clone());
        let Ok(current) = account.current() else {
            continue;
        };
        let resumed = resumed.contains(organization_id);
        for mut row in rows.remove(&key).unwrap_or_default() {
            let total = TotalKey {
                organization_id: *organization_id,
                metric,
                start: row.start,
            };
            if is_free(current, row, resumed, account) {
                row.free = true;
                store::bill_by(conn, total, store::FREE, None).await?;
            }
            apply(conn, account, current, total, row).await?;
        }
    }
    Ok(())
}

/// The metrics that Stripe may charge for the closed periods.
fn billed_metrics(catalogue: &Catalogue, closed: &[ClosedPeriod]) -> Vec<String> {
    let plans = catalogue.plans().iter();
    let sold = plans.flat_map(|plan| &plan.quotas);
    let sold = sold.filter_map(|(metric, quota)| quota.is_billed().then_some(metric));
    let had = closed.iter().flat_map(|closed| &closed.prices).flatten();
    let had = had.map(|(metric, _)| metric);
    let metrics: BTreeSet<&String> = sold.chain(had).collect();
    metrics.into_iter().cloned().collect()
}

/// Whether a total covers a suspension of the subscription, current or just
/// ended: it is not billed, and not part of the subscription's period.
fn is_free(current: Period, row: TotalPeriod, resumed: bool, account: &Account) -> bool {
    let now = account.now.as_second();
    let runs = row.start <= now && now < row.end;
    if usage_period::is_subscribed(account.subscription.as_ref(), account.now) {
        resumed && runs && row.start != current.start_secs()
    } else {
        row.suspended && row.start == current.start_secs()
    }
}

/// Corrects the totals of closed periods.
async fn correct_closed(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    metrics: &[String],
    keys: &[(Uuid, String)],
    closed: &[ClosedPeriod],
) -> Result<(), sqlx::Error> {
    let accounts = store::read(conn, keys, catalogue, 0).await?;
    let mut subscribed = BTreeMap::new();
    for ((organization_id, _), account) in keys.iter().zip(&accounts) {
        let current = account.subscription;
        subscribed.entry(*organization_id).or_insert(current);
    }
    // Of concurrent subscriptions, only the one that meters usage counts.
    let counts = |closed: &&ClosedPeriod| {
        let current = subscribed.get(&closed.organization_id).copied().flatten();
        current.is_none_or(|current| {
            current.created_secs == closed.created || closed.end <= current.created_secs
        })
    };
    let mut closed: Vec<&ClosedPeriod> = closed.iter().filter(counts).collect();
    closed.sort_by_key(|closed| (closed.organization_id, closed.end, closed.start));
    closed.dedup();
    for round in rounds(&closed) {
        store::create_totals(conn, metrics, &round).await?;
        for ((organization_id, metric), account) in keys.iter().zip(&accounts) {
            let mut closed = round.iter();
            let Some(closed) = closed.find(|closed| closed.organization_id == *organization_id)
            else {
                continue;
            };
            let total = TotalKey {
                organization_id: *organization_id,
                metric,
                start: 0,
            };
            closed_periods::correct(conn, account.aggregation, total, closed).await?;
        }
    }
    Ok(())
}

/// One closed period of each organization at a time, in their order: the total of a later
/// one must not stand in the way of splitting an earlier one's.
fn rounds<'a>(closed: &[&'a ClosedPeriod]) -> Vec<Vec<&'a ClosedPeriod>> {
    let mut seen = BTreeMap::<Uuid, usize>::new();
    let mut rounds = Vec::<Vec<&ClosedPeriod>>::new();
    for closed in closed {
        let earlier = seen.entry(closed.organization_id).or_default();
        if rounds.len() == *earlier {
            rounds.push(Vec::new());
        }
        rounds[*earlier].push(closed);
        *earlier += 1;
    }
    rounds
}

async fn apply(
    conn: &mut PgConnection,
    account: &Account,
    current: Period,
    total: TotalKey<'_>,
    row: TotalPeriod,
) -> Result<(), sqlx::Error> {
    let subscribed = usage_period::is_subscribed(account.subscription.as_ref(), account.now);
    let now = account.now.as_second();
    let Some(change) = change_of(current, subscribed, row, account.ended, now) else {
        return Ok(());
    };
    tracing::info!(
        organization_id = %total.organization_id, metric = total.metric, step = change.describe(),
        period_start = total.start, "A billing period moved, and its usage with it"
    );
    let aggregation = account.aggregation;
    match change {
        PeriodChange::NewEnd => store::set_end(conn, total, current.end_secs(), false, false).await,
        PeriodChange::Cut { end, since } => {
            store::move_usage(conn, total, current, Some(since), aggregation).await?;
            fill_gap(conn, account, total, end, since).await?;
            // The last invoice of a scheduled end stays a draft for a while.
            let planned = account.subscription.and_then(|current| current.ends_secs);
            store::set_end(conn, total, end, planned != Some(end), false).await
        }
        PeriodChange::Suspend { since } => {
            store::move_usage(conn, total, current, Some(since), aggregation).await?;
            store::set_end(conn, total, since, false, false).await
        }
        PeriodChange::Merge => store::move_usage(conn, total, current, None, aggregation).await,
    }
}

/// Moves usage between `end` and `since`, when there was no subscription, to the
/// periods of that time.
async fn fill_gap(
    conn: &mut PgConnection,
    account: &Account,
    total: TotalKey<'_>,
    end: i64,
    mut since: i64,
) -> Result<(), sqlx::Error> {
    while since > end {
        let last = Timestamp::from_second(since - 1);
        let gap = last.ok().and_then(|last| account.period_at(last).ok());
        let Some(gap) = gap.filter(|gap| gap.start_secs() != total.start) else {
            return Ok(());
        };
        since = gap.start_secs().max(end);
        store::move_usage(conn, total, gap, Some(since), account.aggregation).await?;
    }
    Ok(())
}

/// How a total's period must change; `None` if it ended as planned.
fn change_of(
    current: Period,
    subscribed: bool,
    row: TotalPeriod,
    ended: Option<EndedSubscription>,
    now: i64,
) -> Option<PeriodChange> {
    let begins = current.start_secs();
    if row.free {
        return None;
    }
    if row.start == begins {
        return (row.end != current.end_secs()).then_some(PeriodChange::NewEnd);
    }
    let within = |at: &i64| row.start < *at && *at < row.end;
    let ended_at = ended.map(|ended| ended.end_secs).filter(within);
    if !subscribed && ended.is_none() {
        // Suspended, at an unknown time.
        let runs = row.start <= now && now < row.end;
        let since = now.max(row.start + 1);
        return runs.then_some(PeriodChange::Suspend { since });
    }
    if within(&begins) {
        let end = ended_at.map_or(begins, |at| at.min(begins));
        return Some(PeriodChange::Cut { end, since: begins });
    }
    if let Some(end) = ended_at.filter(|_| !subscribed && row.end <= begins) {
        // Its end became known only after the month in which it ended.
        return Some(PeriodChange::Cut {
            end,
            since: row.end,
        });
    }
    (begins < row.start && row.start < current.end_secs()).then_some(PeriodChange::Merge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(row: (i64, i64), subscribed: bool, ended: Option<i64>) -> Option<PeriodChange> {
        let current = Period::from_seconds(100, 200).unwrap();
        let (start, end) = row;
        let ended = ended.map(|end_secs| EndedSubscription {
            start_secs: 0,
            end_secs,
        });
        let row = TotalPeriod {
            start,
            end,
            closed: false,
            free: false,
            suspended: false,
        };
        change_of(current, subscribed, row, ended, 150)
    }

    #[test]
    fn a_period_ends_where_the_next_begins() {
        for (row, expected) in [
            ((0, 100), None),
            ((100, 200), None),
            ((100, 180), Some(PeriodChange::NewEnd)),
            ((100, 300), Some(PeriodChange::NewEnd)),
            (
                (0, 150),
                Some(PeriodChange::Cut {
                    end: 100,
                    since: 100,
                }),
            ),
            (
                (0, 500),
                Some(PeriodChange::Cut {
                    end: 100,
                    since: 100,
                }),
            ),
            ((120, 500), Some(PeriodChange::Merge)),
            ((200, 300), None),
        ] {
            assert_eq!(change(row, true, None), expected, "{row:?}");
        }
        // Between two subscriptions there was none.
        let cut = PeriodChange::Cut {
            end: 60,
            since: 100,
        };
        assert_eq!(change((0, 150), true, Some(60)), Some(cut));
    }

    #[test]
    fn without_a_subscription_the_last_ones_period_ends_with_it() {
        let cut = |end, since| Some(PeriodChange::Cut { end, since });
        // It ended at 100, where the free period begins.
        assert_eq!(change((50, 180), false, Some(100)), cut(100, 100));
        assert_eq!(
            change((120, 180), false, Some(100)),
            Some(PeriodChange::Merge)
        );
        assert_eq!(change((50, 100), false, Some(100)), None);
        // It ended before the current month began.
        assert_eq!(change((50, 180), false, Some(60)), cut(60, 100));
        assert_eq!(change((50, 90), false, Some(60)), cut(60, 90));
        // A suspended subscription's period is cut when the suspension is seen.
        let suspended = Some(PeriodChange::Suspend { since: 150 });
        assert_eq!(change((50, 180), false, None), suspended);
        assert_eq!(change((50, 130), false, None), None);
    }
}
