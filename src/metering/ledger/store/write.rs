//! Collects what a group writes, column by column, and writes it in a few
//! statements.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::ReservationRow;
use super::holds::{TakenBack, write_taken_back};
use super::pending::PendingLevels;
use crate::db;
use crate::metering::ledger::NewEvent;
use crate::metering::ledger::account::{Account, GraceChange, PeriodUsage};
use crate::metering::ledger::holds::{Hold, Settled};
use billing_domain::grace_period::EndReason;

/// What a group writes, column by column.
#[derive(Default)]
pub struct Writes<'a> {
    events: Events<'a>,
    totals: Totals,
    graces: Graces,
    alerts: Alerts,
    reservations: Reservations,
    settled: SettledHolds,
    taken_back: TakenBack<'a>,
    pending: PendingLevels,
}

#[derive(Default)]
struct Events<'a> {
    organizations: Vec<Uuid>,
    ids: Vec<&'a str>,
    metrics: Vec<&'a str>,
    quantities: Vec<Decimal>,
    occurred: Vec<Option<jiff_sqlx::Timestamp>>,
    recorded: Vec<jiff_sqlx::Timestamp>,
    periods: Vec<jiff_sqlx::Timestamp>,
    metadata: Vec<Option<&'a str>>,
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
    /// Whether the row existed when it was read.
    stored: Vec<bool>,
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
    /// When it was found expired; `None` while it is running.
    ended: Vec<Option<jiff_sqlx::Timestamp>>,
    reasons: Vec<Option<&'static str>>,
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
    /// Of holds.
    names: Vec<Option<String>>,
    metrics: Vec<String>,
    periods: Vec<jiff_sqlx::Timestamp>,
    quantities: Vec<Decimal>,
    reserved: Vec<jiff_sqlx::Timestamp>,
    expires: Vec<jiff_sqlx::Timestamp>,
}

#[derive(Default)]
struct SettledHolds {
    organizations: Vec<Uuid>,
    ids: Vec<Uuid>,
    periods: Vec<jiff_sqlx::Timestamp>,
    outcomes: Vec<&'static str>,
    used: Vec<Decimal>,
    counted: Vec<Decimal>,
    refusals: Vec<Option<String>>,
    times: Vec<jiff_sqlx::Timestamp>,
}

/// Converts a period's boundary.
fn instant(secs: i64) -> jiff_sqlx::Timestamp {
    Timestamp::from_second(secs)
        .expect("a period's boundaries are valid timestamps")
        .to_sqlx()
}

impl<'a> Writes<'a> {
    pub fn event(
        &mut self,
        organization_id: Uuid,
        event: &'a NewEvent,
        now: Timestamp,
        period_start: i64,
    ) {
        let rows = &mut self.events;
        rows.organizations.push(organization_id);
        rows.ids.push(&event.id);
        rows.metrics.push(&event.metric);
        rows.quantities.push(event.quantity);
        rows.occurred.push(event.occurred_at.map(|at| at.to_sqlx()));
        rows.recorded.push(now.to_sqlx());
        rows.periods.push(instant(period_start));
        rows.metadata.push(event.metadata.as_deref());
    }

    pub fn reservation(
        &mut self,
        organization_id: Uuid,
        id: Uuid,
        metric: &str,
        row: ReservationRow,
        ttl_secs: u32,
    ) {
        let rows = &mut self.reservations;
        let ttl = jiff::SignedDuration::from_secs(i64::from(ttl_secs));
        let expires = row
            .reserved_at
            .saturating_add(ttl)
            .unwrap_or(Timestamp::MAX);
        rows.organizations.push(organization_id);
        rows.ids.push(id);
        rows.names.push(None);
        rows.metrics.push(metric.to_owned());
        rows.periods.push(instant(row.period_start));
        rows.quantities.push(row.quantity);
        rows.reserved.push(row.reserved_at.to_sqlx());
        rows.expires.push(expires.to_sqlx());
    }

    pub fn hold(&mut self, organization_id: Uuid, hold: &Hold) {
        let rows = &mut self.reservations;
        rows.organizations.push(organization_id);
        rows.ids.push(hold.id);
        rows.names.push(Some(hold.name.clone()));
        rows.metrics.push(hold.metric.clone());
        rows.periods.push(instant(hold.period_start));
        rows.quantities.push(hold.quantity);
        rows.reserved.push(hold.reserved_at.to_sqlx());
        rows.expires.push(hold.expires_at.to_sqlx());
    }

    pub fn settled_hold(
        &mut self,
        organization_id: Uuid,
        hold: &Hold,
        settled: &Settled,
        now: Timestamp,
    ) {
        let rows = &mut self.settled;
        rows.organizations.push(organization_id);
        rows.ids.push(hold.id);
        rows.periods.push(instant(hold.period_start));
        rows.outcomes.push(settled.outcome.as_str());
        rows.used.push(settled.used);
        rows.counted.push(settled.counted);
        rows.refusals.push(settled.refusal.clone());
        rows.times.push(now.to_sqlx());
    }

    pub fn taken_back(&mut self, organization_id: Uuid, event_id: &'a str, now: Timestamp) {
        let rows = &mut self.taken_back;
        rows.organizations.push(organization_id);
        rows.ids.push(event_id);
        rows.times.push(now.to_sqlx());
    }

    /// Adds what changed in a period.
    pub fn period(
        &mut self,
        organization_id: Uuid,
        metric: &str,
        usage: &PeriodUsage,
        account: &Account,
    ) {
        let (start, end) = (
            instant(usage.period.start_secs()),
            instant(usage.period.end_secs()),
        );
        let now = account.now.to_sqlx();
        let quota = account
            .policy
            .and_then(|policy| usage.policy(policy).quota)
            .unwrap_or_default();
        if usage.changed {
            let rows = &mut self.totals;
            rows.organizations.push(organization_id);
            rows.metrics.push(metric.to_owned());
            rows.starts.push(start);
            rows.ends.push(end);
            rows.totals.push(usage.total);
            rows.reserved.push(usage.reserved);
            rows.events.push(usage.events);
            rows.last_at
                .push(usage.last.as_ref().map(|(at, _)| at.to_sqlx()));
            rows.last_ids
                .push(usage.last.as_ref().map(|(_, id)| id.clone()));
            rows.alerted.push(i16::from(usage.alerted));
            rows.updated.push(now);
            rows.stored.push(usage.stored);
            self.pending.add(organization_id, metric, usage, start, now);
        }
        for threshold in &usage.raised {
            let rows = &mut self.alerts;
            rows.organizations.push(organization_id);
            rows.ids.push(Uuid::now_v7());
            rows.metrics.push(metric.to_owned());
            rows.starts.push(start);
            rows.ends.push(end);
            rows.thresholds.push(i16::from(*threshold));
            rows.usages.push(usage.total);
            rows.quotas.push(quota);
            rows.raised.push(now);
        }
        if let Some(grace) = usage.grace.filter(|grace| grace.change.is_some()) {
            let rows = &mut self.graces;
            rows.organizations.push(organization_id);
            rows.metrics.push(metric.to_owned());
            rows.starts.push(start);
            rows.ends.push(end);
            rows.quotas.push(quota);
            rows.usages.push(usage.used());
            rows.started.push(grace.period.started_at.to_sqlx());
            rows.expires.push(grace.period.expires_at.to_sqlx());
            // One that is void ended when it began.
            let ended = if grace.void {
                rows.started.last().copied()
            } else {
                Some(now)
            };
            rows.ended.push(ended.filter(|_| grace.ended));
            let reason = match grace.change {
                Some(GraceChange::TakenBack) => EndReason::QuotaRaised,
                _ => EndReason::Expired,
            };
            rows.reasons.push(grace.ended.then_some(reason.as_str()));
        }
    }
}

/// Writes a group. Returns false, with nothing to be kept, if the id of an event or a hold
/// exists already, or a hold is not as it was read before it was locked.
#[expect(clippy::too_many_lines, reason = "most of it is one statement")]
pub async fn write(conn: &mut PgConnection, writes: &Writes<'_>) -> Result<bool, sqlx::Error> {
    let (events, totals) = (&writes.events, &writes.totals);
    let (held, settled) = (&writes.reservations, &writes.settled);
    let is_empty = events.ids.is_empty() && totals.metrics.is_empty();
    // A hold of a period that is over for long is settled, and changes no total.
    if !is_empty || !held.ids.is_empty() || !settled.ids.is_empty() {
        let written = sqlx::query!(
            r#"WITH totals AS (
                 SELECT * FROM unnest($9::uuid[], $10::text[], $11::timestamptz[],
                                      $12::timestamptz[], $13::numeric[], $14::numeric[],
                                      $15::bigint[], $16::timestamptz[], $17::text[],
                                      $18::smallint[], $19::timestamptz[], $20::boolean[])
                   AS t(organization_id, metric, period_start, period_end, total, reserved,
                        events, last_at, last_event_id, alerted, updated_at, stored)
               ), counted AS (
                 -- An upsert finds rows by their key under any plan. An update with a join would
                 -- scan all totals under a plan made while there were few.
                 INSERT INTO usage_totals (organization_id, metric, period_start, period_end,
                                           total, reserved, events, last_at, last_event_id,
                                           alerted, updated_at)
                 SELECT organization_id, metric, period_start, period_end, total, reserved,
                        events, last_at, last_event_id, alerted, updated_at
                   FROM totals WHERE stored
                 ON CONFLICT (organization_id, metric, period_start) DO UPDATE SET
                   period_end = excluded.period_end, total = excluded.total,
                   reserved = excluded.reserved, events = excluded.events,
                   last_at = excluded.last_at, last_event_id = excluded.last_event_id,
                   alerted = excluded.alerted, updated_at = excluded.updated_at
                 RETURNING 1
               ), begun AS (
                 -- A row that was not read is never overwritten.
                 INSERT INTO usage_totals (organization_id, metric, period_start, period_end,
                                           total, reserved, events, last_at, last_event_id,
                                           alerted, updated_at)
                 SELECT organization_id, metric, period_start, period_end, total, reserved,
                        events, last_at, last_event_id, alerted, updated_at
                   FROM totals WHERE NOT stored
                 ON CONFLICT DO NOTHING RETURNING 1
               ), noted AS (
                 INSERT INTO usage_events (organization_id, event_id, metric, quantity,
                                           occurred_at, recorded_at, period_start, metadata)
                 SELECT o, id, metric, quantity, occurred, recorded, period, metadata::jsonb
                   FROM unnest($1::uuid[], $2::text[], $3::text[], $4::numeric[],
                               $5::timestamptz[], $6::timestamptz[], $7::timestamptz[],
                               $8::text[])
                     AS t(o, id, metric, quantity, occurred, recorded, period, metadata)
               ), held AS (
                 INSERT INTO usage_reservations (organization_id, id, name, metric, period_start,
                                                 quantity, held, reserved_at, expires_at)
                 SELECT o, id, name, metric, period, quantity,
                        CASE WHEN name IS NOT NULL THEN quantity END, reserved, expires
                   FROM unnest($21::uuid[], $22::uuid[], $23::text[], $24::text[],
                               $25::timestamptz[], $26::numeric[], $27::timestamptz[],
                               $28::timestamptz[])
                     AS t(o, id, name, metric, period, quantity, reserved, expires)
               ), settled AS (
                 UPDATE usage_reservations r
                    SET quantity = 0, expires_at = 'infinity', settled_at = t.at,
                        outcome = t.outcome, used = t.used, counted = t.counted,
                        refusal = t.refusal
                   FROM unnest($29::uuid[], $30::uuid[], $31::timestamptz[], $32::text[],
                               $33::numeric[], $34::numeric[], $35::text[], $36::timestamptz[])
                     AS t(o, id, period, outcome, used, counted, refusal, at)
                  WHERE r.organization_id = t.o AND r.id = t.id AND r.settled_at IS NULL
                    AND r.period_start = t.period
                 RETURNING 1
               )
               SELECT (SELECT count(*) FROM counted) + (SELECT count(*) FROM begun) AS "written!",
                      (SELECT count(*) FROM settled) AS "settled!""#,
            &events.organizations,
            &events.ids as &[&str],
            &events.metrics as &[&str],
            &events.quantities,
            &events.occurred as _,
            &events.recorded as _,
            &events.periods as _,
            &events.metadata as &[Option<&str>],
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
            &totals.updated as _,
            &totals.stored,
            &held.organizations,
            &held.ids,
            &held.names as &[Option<String>],
            &held.metrics,
            &held.periods as _,
            &held.quantities,
            &held.reserved as _,
            &held.expires as _,
            &settled.organizations,
            &settled.ids,
            &settled.periods as _,
            &settled.outcomes as &[&str],
            &settled.used,
            &settled.counted,
            &settled.refusals as &[Option<String>],
            &settled.times as _
        );
        let written = match written.fetch_one(&mut *conn).await {
            Err(error) if db::is_duplicate(&error) => return Ok(false),
            written => written?,
        };
        if usize::try_from(written.settled).ok() != Some(settled.ids.len()) {
            return Ok(false);
        }
        let written = written.written;
        if usize::try_from(written).ok() != Some(totals.metrics.len()) {
            return Err(sqlx::Error::Decode(
                "a total exists that was not read; it is not overwritten".into(),
            ));
        }
    }
    writes.pending.write(conn).await?;
    write_taken_back(conn, &writes.taken_back).await?;
    write_alerts(conn, &writes.alerts).await?;
    write_graces(conn, &writes.graces).await?;
    Ok(true)
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
        "INSERT INTO grace_periods AS g (organization_id, metric, period_start, period_end, quota,
                                    usage_at_start, started_at, expires_at, ended_at, end_reason)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::numeric[],
                       $6::numeric[], $7::timestamptz[], $8::timestamptz[], $9::timestamptz[],
                       $10::text[])
         ON CONFLICT (organization_id, metric, period_start) DO UPDATE SET
           -- Another one begins where the one before is void.
           quota = CASE WHEN g.started_at = excluded.started_at THEN g.quota
                        ELSE excluded.quota END,
           usage_at_start = CASE WHEN g.started_at = excluded.started_at THEN g.usage_at_start
                                 ELSE excluded.usage_at_start END,
           started_at = excluded.started_at, expires_at = excluded.expires_at,
           ended_at = excluded.ended_at, end_reason = excluded.end_reason",
        &rows.organizations,
        &rows.metrics,
        &rows.starts as _,
        &rows.ends as _,
        &rows.quotas,
        &rows.usages,
        &rows.started as _,
        &rows.expires as _,
        &rows.ended as _,
        &rows.reasons as &[Option<&str>]
    )
    .execute(conn)
    .await?;
    Ok(())
}
