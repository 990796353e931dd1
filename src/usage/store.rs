//! The ledger's SQL.

use std::collections::{BTreeMap, HashMap};

use billing_domain::grace_period::GracePeriod;
use billing_domain::period::{Cadence, Period};
use billing_domain::quota::{Limit, OverLimit};
use billing_domain::usage_period::Subscribed;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::NewEvent;
use super::account::{Account, Grace, Tally};
use super::ledger::{Reservation, Rules};
use crate::plans::{Aggregation, Catalogue};

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

/// What the accounts are, those of `keys` in their order. Periods that ended
/// too long ago for late usage are left out.
pub async fn read(
    conn: &mut PgConnection,
    keys: &[Key],
    rules: &Rules,
) -> Result<Vec<Account>, sqlx::Error> {
    let (organizations, metrics) = columns(keys);
    let rows = sqlx::query!(
        r#"SELECT k.n AS "n!", statement_timestamp() AS "now!",
                  coalesce(v.unlimited, q.unlimited) AS unlimited,
                  CASE WHEN v.metric IS NULL THEN q.quota ELSE v.quota END AS quota,
                  coalesce(v.over_limit, q.over_limit) AS over_limit, q.overage_rate,
                  s.plan_tier, s.current_period_start AS "current_start?",
                  s.current_period_end AS "current_end?", s.billing_cycle_anchor AS "anchor?",
                  s.stripe_created_at AS "created?", s.ends AS "ends?",
                  t.period_start AS "period_start?", t.period_end AS "period_end?",
                  t.total AS "total?", t.reserved AS "reserved?", t.events AS "events?",
                  t.last_at AS "last_at?", t.last_event_id AS "last_event_id?",
                  t.alerted AS "alerted?",
                  g.started_at AS "grace_start?", g.expires_at AS "grace_expires?",
                  g.ended_at IS NOT NULL AS "grace_ended!"
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
             LEFT JOIN usage_totals t
               ON t.organization_id = k.organization_id AND t.metric = k.metric
              AND t.period_end > statement_timestamp() - interval '2 hours'
             LEFT JOIN grace_periods g
               ON g.organization_id = t.organization_id AND g.metric = t.metric
              AND g.period_start = t.period_start"#,
        &organizations,
        &metrics as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let mut accounts: Vec<Account> = keys
        .iter()
        .map(|(_, metric)| Account {
            aggregation: rules
                .catalogue
                .metric(metric)
                .map_or(Aggregation::Sum, |metric| metric.aggregation),
            grace_hours: rules.grace_hours,
            limit: None,
            overage_rate: None,
            subscribed: None,
            now: Timestamp::UNIX_EPOCH,
            tallies: BTreeMap::new(),
        })
        .collect();
    for row in rows {
        let index = usize::try_from(row.n - 1).unwrap_or_default();
        let Some(account) = accounts.get_mut(index) else {
            continue;
        };
        account.now = row.now.to_jiff();
        account.limit = row
            .over_limit
            .as_deref()
            .and_then(OverLimit::named)
            .map(|over_limit| Limit {
                quota: row.quota,
                over_limit,
            });
        let billed = account
            .limit
            .is_some_and(|limit| limit.over_limit == OverLimit::Overage && limit.quota.is_some());
        account.overage_rate = row.overage_rate.filter(|_| billed);
        let period = row.current_start.zip(row.current_end);
        account.subscribed = period.and_then(|(start, end)| {
            let period = Period::new(start.to_jiff(), end.to_jiff()).ok()?;
            let secs = |at: Option<jiff_sqlx::Timestamp>| at.map(|at| at.to_jiff().as_second());
            Some(Subscribed {
                period,
                anchor_secs: secs(row.anchor).unwrap_or(period.start_secs()),
                cadence: cadence(&rules.catalogue, row.plan_tier.as_deref()),
                created_secs: secs(row.created).unwrap_or(period.start_secs()),
                ends_secs: secs(row.ends),
            })
        });
        let (Some(start), Some(end)) = (row.period_start, row.period_end) else {
            continue;
        };
        let Ok(period) = Period::new(start.to_jiff(), end.to_jiff()) else {
            continue;
        };
        let grace = row.grace_start.zip(row.grace_expires);
        let last = row.last_at.zip(row.last_event_id);
        let tally = Tally {
            total: row.total.unwrap_or_default(),
            reserved: row.reserved.unwrap_or_default(),
            events: row.events.unwrap_or_default(),
            last: last.map(|(at, id)| (at.to_jiff(), id)),
            alerted: row
                .alerted
                .and_then(|percent| percent.try_into().ok())
                .unwrap_or_default(),
            grace: grace.map(|(started_at, expires_at)| Grace {
                period: GracePeriod {
                    started_at: started_at.to_jiff(),
                    expires_at: expires_at.to_jiff(),
                },
                ended: row.grace_ended,
                change: None,
            }),
            ..Tally::new(period)
        };
        account.tallies.insert(period.start_secs(), tally);
    }
    Ok(accounts)
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
             JOIN usage_events e ON e.organization_id = k.organization_id AND e.event_id = k.id"#,
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
        let index = usize::try_from(row.n - 1).unwrap_or_default();
        let Some((organization_id, event)) = events.get(index) else {
            continue;
        };
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

/// What a group writes, by column.
#[derive(Default)]
pub struct Writes {
    events: Events,
    totals: Totals,
    graces: Graces,
    alerts: Alerts,
    reservations: Reservations,
}

#[derive(Default)]
struct Events {
    organizations: Vec<Uuid>,
    ids: Vec<String>,
    metrics: Vec<String>,
    quantities: Vec<Decimal>,
    occurred: Vec<Option<jiff_sqlx::Timestamp>>,
    recorded: Vec<jiff_sqlx::Timestamp>,
    periods: Vec<jiff_sqlx::Timestamp>,
    metadata: Vec<Option<String>>,
}

#[derive(Default)]
struct Totals {
    organizations: Vec<Uuid>,
    metrics: Vec<String>,
    starts: Vec<jiff_sqlx::Timestamp>,
    ends: Vec<jiff_sqlx::Timestamp>,
    totals: Vec<Decimal>,
    reserved: Vec<Decimal>,
    events: Vec<i64>,
    last_at: Vec<Option<jiff_sqlx::Timestamp>>,
    last_ids: Vec<Option<String>>,
    alerted: Vec<i16>,
    updated: Vec<jiff_sqlx::Timestamp>,
}

#[derive(Default)]
struct Graces {
    organizations: Vec<Uuid>,
    metrics: Vec<String>,
    starts: Vec<jiff_sqlx::Timestamp>,
    ends: Vec<jiff_sqlx::Timestamp>,
    quotas: Vec<Decimal>,
    usages: Vec<Decimal>,
    started: Vec<jiff_sqlx::Timestamp>,
    expires: Vec<jiff_sqlx::Timestamp>,
    /// When it was found expired; None: it runs.
    ended: Vec<Option<jiff_sqlx::Timestamp>>,
}

#[derive(Default)]
struct Alerts {
    organizations: Vec<Uuid>,
    ids: Vec<Uuid>,
    metrics: Vec<String>,
    starts: Vec<jiff_sqlx::Timestamp>,
    ends: Vec<jiff_sqlx::Timestamp>,
    thresholds: Vec<i16>,
    usages: Vec<Decimal>,
    quotas: Vec<Decimal>,
    raised: Vec<jiff_sqlx::Timestamp>,
}

#[derive(Default)]
struct Reservations {
    organizations: Vec<Uuid>,
    ids: Vec<Uuid>,
    metrics: Vec<String>,
    periods: Vec<jiff_sqlx::Timestamp>,
    quantities: Vec<Decimal>,
    reserved: Vec<jiff_sqlx::Timestamp>,
    expires: Vec<jiff_sqlx::Timestamp>,
}

fn instant(secs: i64) -> jiff_sqlx::Timestamp {
    Timestamp::from_second(secs).unwrap_or_default().to_sqlx()
}

impl Writes {
    pub fn event(
        &mut self,
        organization_id: Uuid,
        event: &NewEvent,
        now: Timestamp,
        period_start: i64,
    ) {
        let rows = &mut self.events;
        rows.organizations.push(organization_id);
        rows.ids.push(event.id.clone());
        rows.metrics.push(event.metric.clone());
        rows.quantities.push(event.quantity);
        rows.occurred.push(event.occurred_at.map(|at| at.to_sqlx()));
        rows.recorded.push(now.to_sqlx());
        rows.periods.push(instant(period_start));
        rows.metadata.push(event.metadata.clone());
    }

    pub fn reservation(
        &mut self,
        organization_id: Uuid,
        id: Uuid,
        metric: &str,
        held: Held,
        ttl_secs: u32,
    ) {
        let rows = &mut self.reservations;
        let ttl = jiff::SignedDuration::from_secs(i64::from(ttl_secs));
        let expires = held
            .reserved_at
            .saturating_add(ttl)
            .unwrap_or(Timestamp::MAX);
        rows.organizations.push(organization_id);
        rows.ids.push(id);
        rows.metrics.push(metric.to_owned());
        rows.periods.push(instant(held.period_start));
        rows.quantities.push(held.quantity);
        rows.reserved.push(held.reserved_at.to_sqlx());
        rows.expires.push(expires.to_sqlx());
    }

    /// What changed of a tally.
    pub fn tally(&mut self, organization_id: Uuid, metric: &str, tally: &Tally, account: &Account) {
        let (start, end) = (
            instant(tally.period.start_secs()),
            instant(tally.period.end_secs()),
        );
        let now = account.now.to_sqlx();
        let quota = account
            .limit
            .and_then(|limit| limit.quota)
            .unwrap_or_default();
        if tally.changed {
            let rows = &mut self.totals;
            rows.organizations.push(organization_id);
            rows.metrics.push(metric.to_owned());
            rows.starts.push(start);
            rows.ends.push(end);
            rows.totals.push(tally.total);
            rows.reserved.push(tally.reserved);
            rows.events.push(tally.events);
            rows.last_at
                .push(tally.last.as_ref().map(|(at, _)| at.to_sqlx()));
            rows.last_ids
                .push(tally.last.as_ref().map(|(_, id)| id.clone()));
            rows.alerted.push(i16::from(tally.alerted));
            rows.updated.push(now);
        }
        for threshold in &tally.raised {
            let rows = &mut self.alerts;
            rows.organizations.push(organization_id);
            rows.ids.push(Uuid::now_v7());
            rows.metrics.push(metric.to_owned());
            rows.starts.push(start);
            rows.ends.push(end);
            rows.thresholds.push(i16::from(*threshold));
            rows.usages.push(tally.total);
            rows.quotas.push(quota);
            rows.raised.push(now);
        }
        if let Some(grace) = tally.grace.filter(|grace| grace.change.is_some()) {
            let rows = &mut self.graces;
            rows.organizations.push(organization_id);
            rows.metrics.push(metric.to_owned());
            rows.starts.push(start);
            rows.ends.push(end);
            rows.quotas.push(quota);
            rows.usages.push(tally.used());
            rows.started.push(grace.period.started_at.to_sqlx());
            rows.expires.push(grace.period.expires_at.to_sqlx());
            rows.ended.push(grace.ended.then_some(now));
        }
    }
}

/// Writes a group; false: an id was there already, and nothing may be
/// committed.
pub async fn write(conn: &mut PgConnection, writes: &Writes) -> Result<bool, sqlx::Error> {
    let (events, totals) = (&writes.events, &writes.totals);
    if !events.ids.is_empty() || !totals.metrics.is_empty() {
        let written = sqlx::query_scalar!(
            r#"WITH counted AS (
                 INSERT INTO usage_totals (organization_id, metric, period_start, period_end, total,
                                           reserved, events, last_at, last_event_id, alerted,
                                           updated_at)
                 SELECT * FROM unnest($9::uuid[], $10::text[], $11::timestamptz[],
                                      $12::timestamptz[], $13::numeric[], $14::numeric[],
                                      $15::bigint[], $16::timestamptz[], $17::text[],
                                      $18::smallint[], $19::timestamptz[])
                 ON CONFLICT (organization_id, metric, period_start) DO UPDATE SET
                   period_end = excluded.period_end, total = excluded.total,
                   reserved = excluded.reserved, events = excluded.events,
                   last_at = excluded.last_at, last_event_id = excluded.last_event_id,
                   alerted = excluded.alerted, updated_at = excluded.updated_at),
               recorded AS (
                 INSERT INTO usage_events (organization_id, event_id, metric, quantity, occurred_at,
                                           recorded_at, period_start, metadata)
                 SELECT o, id, metric, quantity, occurred, recorded, period, metadata::jsonb
                   FROM unnest($1::uuid[], $2::text[], $3::text[], $4::numeric[],
                               $5::timestamptz[], $6::timestamptz[], $7::timestamptz[], $8::text[])
                     AS t(o, id, metric, quantity, occurred, recorded, period, metadata)
                 ON CONFLICT (organization_id, event_id) DO NOTHING
                 RETURNING 1)
               SELECT count(*) AS "written!" FROM recorded"#,
            &events.organizations,
            &events.ids,
            &events.metrics,
            &events.quantities,
            &events.occurred as _,
            &events.recorded as _,
            &events.periods as _,
            &events.metadata as &[Option<String>],
            &totals.organizations,
            &totals.metrics,
            &totals.starts as _,
            &totals.ends as _,
            &totals.totals,
            &totals.reserved,
            &totals.events,
            &totals.last_at as _,
            &totals.last_ids as &[Option<String>],
            &totals.alerted,
            &totals.updated as _
        )
        .fetch_one(&mut *conn)
        .await?;
        if usize::try_from(written) != Ok(events.ids.len()) {
            return Ok(false);
        }
    }
    write_reservations(conn, &writes.reservations).await?;
    write_alerts(conn, &writes.alerts).await?;
    write_graces(conn, &writes.graces).await?;
    Ok(true)
}

async fn write_reservations(
    conn: &mut PgConnection,
    rows: &Reservations,
) -> Result<(), sqlx::Error> {
    if rows.ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO usage_reservations (organization_id, id, metric, period_start, quantity,
                                         reserved_at, expires_at)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::numeric[],
                              $6::timestamptz[], $7::timestamptz[])",
        &rows.organizations,
        &rows.ids,
        &rows.metrics,
        &rows.periods as _,
        &rows.quantities,
        &rows.reserved as _,
        &rows.expires as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn write_alerts(conn: &mut PgConnection, rows: &Alerts) -> Result<(), sqlx::Error> {
    if rows.ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO usage_alerts (organization_id, id, metric, period_start, period_end, threshold,
                                   usage, quota, raised_at, next_attempt_at)
         SELECT *, raised FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[],
                              $5::timestamptz[], $6::smallint[], $7::numeric[], $8::numeric[],
                              $9::timestamptz[])
             AS t(organization, id, metric, start, finish, threshold, used, quota, raised)
         ON CONFLICT DO NOTHING",
        &rows.organizations,
        &rows.ids,
        &rows.metrics,
        &rows.starts as _,
        &rows.ends as _,
        &rows.thresholds,
        &rows.usages,
        &rows.quotas,
        &rows.raised as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn write_graces(conn: &mut PgConnection, rows: &Graces) -> Result<(), sqlx::Error> {
    if rows.metrics.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO grace_periods (organization_id, metric, period_start, period_end, quota,
                                    usage_at_start, started_at, expires_at, ended_at, end_reason)
         SELECT *, CASE WHEN ended IS NOT NULL THEN 'expired' END
           FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::numeric[],
                       $6::numeric[], $7::timestamptz[], $8::timestamptz[], $9::timestamptz[])
             AS t(organization, metric, start, finish, quota, used, started, expires, ended)
         ON CONFLICT (organization_id, metric, period_start) DO UPDATE SET
           ended_at = excluded.ended_at, end_reason = excluded.end_reason",
        &rows.organizations,
        &rows.metrics,
        &rows.starts as _,
        &rows.ends as _,
        &rows.quotas,
        &rows.usages,
        &rows.started as _,
        &rows.expires as _,
        &rows.ended as _
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
