//! The ledger's SQL: what is read here, what is written in [`write`].

mod closed_periods;
mod pending;
mod periods;
mod rehearsal;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use billing_domain::grace_period::GracePeriod;
use billing_domain::period::{Cadence, Period};
use billing_domain::quota::{Limit, OverLimit};
use billing_domain::usage_period::{Past, Subscribed};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::NewEvent;
use super::Reservation;
use super::account::{Account, Due, Grace, Level, Tally};
use crate::catalogue::{Aggregation, Catalogue};

pub use closed_periods::{bill_by, count_late, expect, mark_late, rows_of, split};
pub use pending::{due_accounts, forgotten, settle_forgotten};
pub use periods::{FREE, Place, Renewed, Row, keep_prices, reach, rows, shift};
pub use rehearsal::rehearse;
pub use write::{Writes, write};

/// Where accounts are told apart and locked: an organization and a metric.
type Key = (Uuid, String);

/// A reservation's share.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub period_start: i64,
    pub quantity: Decimal,
    pub reserved_at: Timestamp,
}

fn columns(keys: &[Key]) -> (Vec<Uuid>, Vec<&str>) {
    keys.iter()
        .map(|(organization, metric)| (*organization, metric.as_str()))
        .unzip()
}

/// Locks the accounts that nobody else holds, in one order everywhere, and says
/// which are held: they are not waited for.
pub async fn lock_free(conn: &mut PgConnection, keys: &[Key]) -> Result<Vec<Key>, sqlx::Error> {
    let (organizations, metrics) = columns(keys);
    let locked = sqlx::query!(
        "SELECT organization_id, metric FROM usage_quotas
          WHERE (organization_id, metric) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
          ORDER BY organization_id, metric FOR NO KEY UPDATE SKIP LOCKED",
        &organizations,
        &metrics as &[&str]
    )
    .fetch_all(&mut *conn)
    .await?;
    if locked.len() == keys.len() {
        return Ok(Vec::new());
    }
    let locked: BTreeSet<Key> = locked
        .into_iter()
        .map(|row| (row.organization_id, row.metric))
        .collect();
    // An account without a quota is held by nobody.
    let left: Vec<Key> = keys
        .iter()
        .filter(|key| !locked.contains(*key))
        .cloned()
        .collect();
    let (organizations, metrics) = columns(&left);
    let held = sqlx::query!(
        "SELECT organization_id, metric FROM usage_quotas
          WHERE (organization_id, metric) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))",
        &organizations,
        &metrics as &[&str]
    )
    .fetch_all(conn)
    .await?;
    Ok(held
        .into_iter()
        .map(|row| (row.organization_id, row.metric))
        .collect())
}

/// Locks the accounts, in one order everywhere: whoever holds an account's
/// quota is the only one who counts in it.
pub async fn lock(conn: &mut PgConnection, keys: &[Key]) -> Result<(), sqlx::Error> {
    let (organizations, metrics) = columns(keys);
    sqlx::query!(
        r#"SELECT 1 AS "locked!" FROM usage_quotas
            WHERE (organization_id, metric) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
            ORDER BY organization_id, metric FOR NO KEY UPDATE"#,
        &organizations,
        &metrics as &[&str]
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}

/// The accounts of which another session holds a total or a grace
/// period. Locks what is free, until its transaction ends.
pub async fn blocked(conn: &mut PgConnection, keys: &[Key]) -> Result<Vec<Key>, sqlx::Error> {
    let mut tx = conn.begin().await?;
    let (organizations, metrics) = columns(keys);
    let rows = sqlx::query!(
        r#"WITH k AS (
             SELECT * FROM unnest($1::uuid[], $2::text[]) AS k(organization_id, metric)
           ), total AS (
             SELECT t.organization_id, t.metric, t.period_start FROM usage_totals t
              WHERE (t.organization_id, t.metric) IN (SELECT * FROM k)
                FOR NO KEY UPDATE SKIP LOCKED
           ), grace AS (
             SELECT g.organization_id, g.metric, g.period_start FROM grace_periods g
              WHERE (g.organization_id, g.metric) IN (SELECT * FROM k)
                FOR NO KEY UPDATE SKIP LOCKED
           )
           SELECT organization_id AS "organization_id!", metric AS "metric!" FROM (
             (SELECT organization_id, metric, period_start FROM usage_totals
               WHERE (organization_id, metric) IN (SELECT * FROM k)
              EXCEPT SELECT * FROM total)
             UNION ALL
             (SELECT organization_id, metric, period_start FROM grace_periods
               WHERE (organization_id, metric) IN (SELECT * FROM k)
              EXCEPT SELECT * FROM grace)) held
            GROUP BY organization_id, metric"#,
        &organizations,
        &metrics as &[&str]
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.rollback().await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.organization_id, row.metric))
        .collect())
}

/// What the accounts are, those of `keys` in their order. Periods that ended
/// too long ago for late usage are left out.
///
/// `OFFSET 0` keeps a subquery apart, and so what it finds is found by its key,
/// also under a plan that was made while the table was empty.
pub async fn read(
    conn: &mut PgConnection,
    keys: &[Key],
    catalogue: &Catalogue,
    grace_hours: u32,
) -> Result<Vec<Account>, sqlx::Error> {
    let (organizations, metrics) = columns(keys);
    let rows = sqlx::query!(
        r#"SELECT k.n AS "n!", statement_timestamp() AS "now!",
                  coalesce(v.unlimited, q.unlimited) AS unlimited,
                  CASE WHEN v.metric IS NULL THEN q.quota ELSE v.quota END AS quota,
                  coalesce(v.over_limit, q.over_limit) AS over_limit, q.overage_rate,
                  q.plan_tier AS "quota_tier?",
                  s.plan_tier, s.current_period_start AS "current_start?",
                  s.current_period_end AS "current_end?", s.billing_cycle_anchor AS "anchor?",
                  s.stripe_created_at AS "created?", s.ends AS "ends?",
                  p.current_period_start AS "past_start?", p.ended_at AS "past_end?",
                  t.period_start AS "period_start?", t.period_end AS "period_end?",
                  t.total AS "total?", t.reserved AS "reserved?", t.events AS "events?",
                  t.last_at AS "last_at?", t.last_event_id AS "last_event_id?",
                  t.alerted AS "alerted?",
                  g.started_at AS "grace_start?", g.expires_at AS "grace_expires?",
                  g.ended_at IS NOT NULL AS "grace_ended!",
                  d.occurred_at AS "due_at?", d.event_id AS "due_id?",
                  d.quantity AS "due_quantity?", d.highest AS "due_highest?"
             FROM unnest($1::uuid[], $2::text[])
                  WITH ORDINALITY AS k(organization_id, metric, n)
             LEFT JOIN usage_quotas q
               ON q.organization_id = k.organization_id AND q.metric = k.metric
             LEFT JOIN usage_quota_overrides v
               ON v.organization_id = q.organization_id AND v.metric = q.metric
             LEFT JOIN LATERAL (
               SELECT s.plan_tier, s.current_period_start, s.current_period_end,
                      s.billing_cycle_anchor, s.stripe_created_at,
                      CASE WHEN s.cancel_at_period_end THEN s.current_period_end
                           ELSE s.cancel_at END AS ends
                 FROM billing_subscriptions s
                WHERE s.organization_id = k.organization_id
                  AND s.status IN ('active', 'trialing', 'past_due')
                ORDER BY s.plan_tier IS NOT DISTINCT FROM q.plan_tier DESC,
                         s.stripe_created_at DESC NULLS LAST, s.stripe_subscription_id DESC
                LIMIT 1) s ON true
             LEFT JOIN LATERAL (
               -- The one that ended last; not what was never active, nor under
               -- another that has not ended. One that ended when a period began
               -- had the period before last.
               SELECT CASE WHEN p.ended_at > p.current_period_start THEN p.current_period_start
                           ELSE coalesce(
                             (SELECT max(c.period_start) FROM usage_totals c
                               WHERE c.organization_id = k.organization_id
                                 AND c.metric = k.metric AND c.period_end = p.ended_at),
                             greatest(p.stripe_created_at, p.ended_at - interval '1 month'))
                      END AS current_period_start,
                      p.ended_at
                 FROM billing_subscriptions p
                WHERE p.organization_id = k.organization_id AND p.status = 'canceled'
                  AND p.ended_at > coalesce(p.stripe_created_at, p.current_period_start)
                  AND NOT EXISTS (SELECT FROM billing_subscriptions o
                                   WHERE o.organization_id = k.organization_id
                                     AND (o.status IN ('unpaid', 'paused')
                                          OR (o.status IN ('active', 'trialing', 'past_due')
                                              AND o.stripe_created_at < p.ended_at)))
                ORDER BY p.ended_at DESC LIMIT 1) p ON true
             LEFT JOIN LATERAL (
               SELECT t.* FROM usage_totals t
                WHERE t.organization_id = k.organization_id AND t.metric = k.metric
                  AND (t.period_end > statement_timestamp() - interval '2 hours'
                       OR t.period_start = s.current_period_start)
               OFFSET 0) t ON true
             LEFT JOIN LATERAL (
               SELECT g.started_at, g.expires_at, g.ended_at FROM grace_periods g
                WHERE g.organization_id = t.organization_id AND g.metric = t.metric
                  AND g.period_start = t.period_start
               OFFSET 0) g ON true
             LEFT JOIN LATERAL (
               SELECT p.occurred_at, p.event_id, p.quantity, max(p.quantity) OVER () AS highest
                 FROM usage_pending_levels p
                WHERE p.organization_id = t.organization_id AND p.metric = t.metric
                  AND p.period_start = t.period_start AND p.occurred_at <= statement_timestamp()
                ORDER BY p.occurred_at DESC, p.event_id DESC LIMIT 1) d ON true"#,
        &organizations,
        &metrics as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let blank = |metric: &str, now: Timestamp| Account {
        // Of a metric that left the catalogue, reservations are released, and
        // nothing else is done.
        aggregation: catalogue
            .metric(metric)
            .map_or(Aggregation::Sum, |metric| metric.aggregation),
        grace_hours,
        limit: None,
        overage_rate: None,
        subscribed: None,
        past: None,
        unreadable: false,
        now,
        tallies: BTreeMap::new(),
    };
    let mut accounts: Vec<Option<Account>> = keys.iter().map(|_| None).collect();
    for row in rows {
        let n = position(row.n)?;
        let (Some(place), Some((_, metric))) = (accounts.get_mut(n), keys.get(n)) else {
            return Err(unreadable("an account was read that nobody asked for"));
        };
        let account = match place {
            Some(account) => account,
            None => place.insert(blank(metric, row.now.to_jiff())),
        };
        account.limit = row
            .over_limit
            .as_deref()
            .and_then(OverLimit::named)
            .map(|over_limit| Limit {
                quota: row.quota,
                over_limit,
                grace_max: (over_limit == OverLimit::Grace)
                    .then(|| grace_max(catalogue, row.quota_tier.as_deref(), metric, row.quota))
                    .flatten(),
            });
        let billed = account
            .limit
            .is_some_and(|limit| limit.over_limit == OverLimit::Overage && limit.quota.is_some());
        account.overage_rate = row.overage_rate.filter(|_| billed);
        let period = row.current_start.zip(row.current_end);
        let secs = |at: Option<jiff_sqlx::Timestamp>| at.map(|at| at.to_jiff().as_second());
        let period = period.map(|(start, end)| Period::new(start.to_jiff(), end.to_jiff()));
        // Whoever else is in the group is counted all the same.
        account.unreadable = matches!(period, Some(Err(_)));
        account.subscribed = period.and_then(Result::ok).map(|period| Subscribed {
            period,
            anchor_secs: secs(row.anchor).unwrap_or(period.start_secs()),
            cadence: cadence(catalogue, row.plan_tier.as_deref()),
            created_secs: secs(row.created).unwrap_or(period.start_secs()),
            ends_secs: secs(row.ends),
        });
        let past = row.past_start.zip(row.past_end);
        account.past = past.map(|(start, end)| Past {
            start_secs: start.to_jiff().as_second(),
            end_secs: end.to_jiff().as_second(),
        });
        let (Some(start), Some(end)) = (row.period_start, row.period_end) else {
            continue;
        };
        // Left out, it would be counted from nothing, and overwritten.
        let period = Period::new(start.to_jiff(), end.to_jiff())
            .map_err(|_| unreadable("a total's period cannot be read"))?;
        let grace = row.grace_start.zip(row.grace_expires);
        let last = row.last_at.zip(row.last_event_id);
        let tally = Tally {
            total: row.total.ok_or_else(|| unreadable("a total is missing"))?,
            reserved: row
                .reserved
                .ok_or_else(|| unreadable("a total is missing"))?,
            events: row.events.ok_or_else(|| unreadable("a total is missing"))?,
            last: last.map(|(at, id)| (at.to_jiff(), id)),
            alerted: row
                .alerted
                .and_then(|percent| percent.try_into().ok())
                .ok_or_else(|| unreadable("what a total was alerted of cannot be read"))?,
            grace: grace.map(|(started_at, expires_at)| Grace {
                period: GracePeriod {
                    started_at: started_at.to_jiff(),
                    expires_at: expires_at.to_jiff(),
                },
                ended: row.grace_ended,
                change: None,
            }),
            stored: true,
            ..Tally::new(period)
        };
        account.tallies.insert(period.start_secs(), tally);
        let due = (row.due_at.zip(row.due_id)).zip(row.due_quantity.zip(row.due_highest));
        if let Some(((at, event_id), (quantity, highest))) = due {
            let newest = Level {
                at: at.to_jiff(),
                event_id,
                quantity,
            };
            account.take(period.start_secs(), Due { newest, highest });
        }
    }
    let accounts = accounts.into_iter();
    accounts
        .map(|account| account.ok_or_else(|| unreadable("an account was not read")))
        .collect()
}

/// What grace lets be used at most, over the quota in force.
fn grace_max(
    catalogue: &Catalogue,
    tier: Option<&str>,
    metric: &str,
    quota: Option<Decimal>,
) -> Option<Decimal> {
    let ceiling = catalogue.grace_max(tier.unwrap_or_default(), metric)?;
    quota.map(|quota| ceiling.over(quota))
}

/// Where in what was asked for a row belongs.
fn position(n: i64) -> Result<usize, sqlx::Error> {
    usize::try_from(n - 1).map_err(|_| unreadable("a row has no position"))
}

/// What cannot be read is no zero: it fails.
fn unreadable(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

/// How often a plan is charged.
pub fn cadence(catalogue: &Catalogue, tier: Option<&str>) -> Cadence {
    tier.and_then(|tier| catalogue.plan(tier))
        .map_or(Cadence::MONTHLY, |plan| plan.price.interval.cadence())
}

/// The ids of `events` that were there, each with those of them that have the
/// same content.
pub async fn known(
    conn: &mut PgConnection,
    events: &[(Uuid, NewEvent)],
) -> Result<HashMap<(Uuid, String), Vec<NewEvent>>, sqlx::Error> {
    let organizations: Vec<Uuid> = events
        .iter()
        .map(|(organization, _)| *organization)
        .collect();
    let ids: Vec<&str> = events.iter().map(|(_, event)| event.id.as_str()).collect();
    let metrics: Vec<&str> = events
        .iter()
        .map(|(_, event)| event.metric.as_str())
        .collect();
    let quantities: Vec<Decimal> = events.iter().map(|(_, event)| event.quantity).collect();
    let times: Vec<Option<jiff_sqlx::Timestamp>> = events
        .iter()
        .map(|(_, event)| event.occurred_at.map(|at| at.to_sqlx()))
        .collect();
    let metadata: Vec<Option<&str>> = events
        .iter()
        .map(|(_, event)| event.metadata.as_deref())
        .collect();
    let rows = sqlx::query!(
        r#"SELECT k.n AS "n!",
                  (e.metric = k.metric AND e.quantity = k.quantity
                   AND e.occurred_at IS NOT DISTINCT FROM k.occurred_at
                   AND e.metadata IS NOT DISTINCT FROM k.metadata::jsonb) AS "same!"
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::numeric[], $5::timestamptz[],
                         $6::text[]) WITH ORDINALITY
               AS k(organization_id, id, metric, quantity, occurred_at, metadata, n)
            CROSS JOIN LATERAL (
              SELECT e.metric, e.quantity, e.occurred_at, e.metadata FROM usage_events e
               WHERE e.organization_id = k.organization_id AND e.event_id = k.id
              OFFSET 0) e"#,
        &organizations,
        &ids as &[&str],
        &metrics as &[&str],
        &quantities,
        &times as _,
        &metadata as &[Option<&str>]
    )
    .fetch_all(conn)
    .await?;
    let mut known = HashMap::<(Uuid, String), Vec<NewEvent>>::new();
    for row in rows {
        let (organization_id, event) = events
            .get(position(row.n)?)
            .ok_or_else(|| unreadable("an event was read that nobody asked for"))?;
        let same = known
            .entry((*organization_id, event.id.clone()))
            .or_default();
        if row.same {
            same.push(event.clone());
        }
    }
    Ok(known)
}

/// Takes reservations away; those that are not there any more are left out.
pub async fn take_reservations(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Held>, sqlx::Error> {
    let rows = sqlx::query!(
        "DELETE FROM usage_reservations r USING unnest($1::uuid[], $2::uuid[]) AS k(organization_id, id)
          WHERE r.organization_id = k.organization_id AND r.id = k.id
         RETURNING r.id, r.period_start, r.quantity, r.reserved_at",
        organizations,
        ids
    )
    .fetch_all(conn)
    .await?;
    let held = rows.into_iter().map(|row| {
        let held = Held {
            period_start: row.period_start.to_jiff().as_second(),
            quantity: row.quantity,
            reserved_at: row.reserved_at.to_jiff(),
        };
        (row.id, held)
    });
    Ok(held.collect())
}

/// Lets reservations last longer, of which less than half of `ttl_secs` is
/// left. Those that another transaction holds are being settled.
pub async fn renew_reservations(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    ids: &[Uuid],
    ttl_secs: u32,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH due AS (
           SELECT r.organization_id, r.id
             FROM unnest($1::uuid[], $2::uuid[]) AS k(organization_id, id)
             JOIN usage_reservations r USING (organization_id, id)
            WHERE r.expires_at < now() + make_interval(secs => $3::int / 2)
              FOR UPDATE OF r SKIP LOCKED
         )
         UPDATE usage_reservations r SET expires_at = now() + make_interval(secs => $3::int)
           FROM due
          WHERE r.organization_id = due.organization_id AND r.id = due.id",
        organizations,
        ids,
        i32::try_from(ttl_secs).unwrap_or(i32::MAX)
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Reservations whose time is over.
pub async fn expired(conn: &mut PgConnection, limit: i64) -> Result<Vec<Reservation>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, id, metric, quantity FROM usage_reservations
          WHERE expires_at <= now() ORDER BY expires_at LIMIT $1",
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Reservation {
            organization_id: row.organization_id,
            id: row.id,
            metric: row.metric,
            quantity: row.quantity,
        })
        .collect())
}
