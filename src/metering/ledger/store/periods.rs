//! The SQL of periods whose boundaries moved: what was counted goes to the
//! period that it was used in, and with it what Stripe was told.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use billing_domain::period::Period;

use crate::catalogue::{Aggregation, MeteredPrices};

/// The period of a total, in Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub start: i64,
    pub end: i64,
    /// It was invoiced when it ended, before its time.
    pub closed: bool,
    /// What is in it was used while the subscription was suspended, and is free.
    pub free: bool,
    /// A subscription is suspended whose period it is not.
    pub suspended: bool,
}

/// What stands for a price with totals that are free since the subscription is
/// suspended: no lookup key is like it.
pub const FREE: &str = "-";

/// The account and the total that are to be brought in order.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub organization_id: Uuid,
    pub metric: &'a str,
    pub start: i64,
}

pub(super) fn instant(secs: i64) -> Result<jiff_sqlx::Timestamp, sqlx::Error> {
    let at = Timestamp::from_second(secs);
    at.map(|at| at.to_sqlx())
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// The periods that have totals and may overlap the current one.
pub async fn rows(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<Vec<(Uuid, String, Row)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT organization_id, metric, period_start, period_end,
                  closed_at IS NOT NULL AS "closed!", coalesce(billed_by = $2, false) AS "free!",
                  EXISTS (SELECT FROM billing_subscriptions s
                           WHERE s.organization_id = t.organization_id
                             AND s.status IN ('unpaid', 'paused')
                             AND s.current_period_start <> t.period_start) AS "suspended!"
             FROM usage_totals t
            WHERE organization_id = ANY($1) AND period_end > now() - interval '35 days'
            ORDER BY organization_id, metric, period_start"#,
        organizations,
        FREE
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|found| {
            let row = Row {
                start: found.period_start.to_jiff().as_second(),
                end: found.period_end.to_jiff().as_second(),
                closed: found.closed,
                free: found.free,
                suspended: found.suspended,
            };
            (found.organization_id, found.metric, row)
        })
        .collect())
}

/// A subscription whose next period begins.
#[derive(Debug, Clone)]
pub struct Renewed {
    pub organization_id: Uuid,
    pub subscription_id: String,
    pub start: Timestamp,
}

/// Keeps with what was counted before the next period the price that bills it, as
/// the subscription's row still has it: none is an empty one.
pub async fn keep_prices(
    conn: &mut PgConnection,
    prices: &MeteredPrices,
    renewed: &[Renewed],
) -> Result<(), sqlx::Error> {
    let organizations: Vec<Uuid> = renewed.iter().map(|one| one.organization_id).collect();
    let subscriptions: Vec<&str> = renewed.iter().map(|one| &*one.subscription_id).collect();
    let starts: Vec<_> = renewed.iter().map(|one| one.start.to_sqlx()).collect();
    // What is used late may be the first of its metric.
    sqlx::query!(
        "INSERT INTO usage_totals (organization_id, metric, period_start, period_end, total)
         SELECT q.organization_id, q.metric, s.current_period_start, s.current_period_end, 0
           FROM unnest($1::uuid[], $2::text[], $3::timestamptz[])
             AS renewed(organization, subscription, start)
           JOIN billing_subscriptions s
             ON s.organization_id = renewed.organization
            AND s.stripe_subscription_id = renewed.subscription
            AND s.current_period_start < renewed.start
            AND s.current_period_end > now() - interval '35 days'
           JOIN usage_quotas q
             ON q.organization_id = renewed.organization AND q.metric = ANY($4::text[])
         ON CONFLICT DO NOTHING",
        &organizations,
        &subscriptions as &[&str],
        &starts as _,
        &prices.metrics
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "UPDATE usage_totals t
            SET billed_by = coalesce((
                  SELECT billed.lookup_key
                    FROM billing_subscription_items i
                    JOIN unnest($4::text[], $5::text[]) AS billed(lookup_key, metric)
                      ON billed.lookup_key = i.lookup_key AND billed.metric = t.metric
                   WHERE i.organization_id = t.organization_id
                     AND i.stripe_subscription_id = renewed.subscription
                   ORDER BY billed.lookup_key LIMIT 1), '')
           FROM unnest($1::uuid[], $2::text[], $3::timestamptz[])
             AS renewed(organization, subscription, start)
           JOIN billing_subscriptions s
             ON s.organization_id = renewed.organization
            AND s.stripe_subscription_id = renewed.subscription
          WHERE t.organization_id = renewed.organization AND t.billed_by IS NULL
            AND t.period_start < renewed.start
            AND t.period_start >= coalesce(s.stripe_created_at, s.current_period_start)
            AND t.period_end > now() - interval '35 days'",
        &organizations,
        &subscriptions as &[&str],
        &starts as _,
        &prices.lookup_keys,
        &prices.metrics
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets a period end at another time than was planned. `closed`: Stripe
/// invoiced it then. `is_over`: as planned or not, and what bills it stays.
pub async fn reach(
    conn: &mut PgConnection,
    place: Place<'_>,
    end: i64,
    closed: bool,
    is_over: bool,
) -> Result<(), sqlx::Error> {
    let (start, end) = (instant(place.start)?, instant(end)?);
    sqlx::query!(
        "WITH total AS (
           UPDATE usage_totals SET period_end = $4::timestamptz,
                  closed_at = CASE WHEN $5 THEN $4::timestamptz END,
                  -- What no invoice was made of can be late for none.
                  reported_late = CASE WHEN $5 THEN reported_late ELSE 0 END,
                  billed_by = CASE WHEN $5 OR $6 THEN billed_by END
            WHERE organization_id = $1 AND metric = $2 AND period_start = $3
         ), grace AS (
           UPDATE grace_periods SET period_end = $4
            WHERE organization_id = $1 AND metric = $2 AND period_start = $3
         )
         UPDATE usage_alerts SET period_end = $4
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        place.organization_id,
        place.metric,
        start as _,
        end as _,
        closed,
        is_over
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Moves what was used from `since` on to the total of `to`: events, what is
/// held, and what Stripe was told of that time. Without a `since`, everything,
/// and the total it leaves goes.
pub async fn shift(
    conn: &mut PgConnection,
    from: Place<'_>,
    to: Period,
    since: Option<i64>,
    aggregation: Aggregation,
) -> Result<(), sqlx::Error> {
    let merged = since.is_none();
    let since = instant(since.unwrap_or(from.start))?;
    let (start, to_start, to_end) = (
        instant(from.start)?,
        instant(to.start_secs())?,
        instant(to.end_secs())?,
    );
    sqlx::query!(
        "INSERT INTO usage_totals (organization_id, metric, period_start, period_end, total)
         VALUES ($1, $2, $3, $4, 0) ON CONFLICT DO NOTHING",
        from.organization_id,
        from.metric,
        to_start as _,
        to_end as _
    )
    .execute(&mut *conn)
    .await?;
    let moved = sqlx::query!(
        r#"WITH events AS (
             UPDATE usage_events SET period_start = $4
              WHERE organization_id = $1 AND metric = $2 AND period_start = $3
                AND recorded_at >= $5::timestamptz - interval '5 minutes'
                AND coalesce(occurred_at, recorded_at) >= $5
             RETURNING quantity
           ), held AS (
             UPDATE usage_reservations SET period_start = $4
              WHERE organization_id = $1 AND metric = $2 AND period_start = $3
                AND reserved_at >= $5
             RETURNING quantity
           ), told AS (
             UPDATE usage_reports SET period_start = $4
              WHERE organization_id = $1 AND metric = $2 AND period_start = $3 AND at >= $5
             RETURNING units
           ), ahead AS (
             UPDATE usage_pending_levels SET period_start = $4
              WHERE organization_id = $1 AND metric = $2 AND period_start = $3
                AND occurred_at >= $5
           )
           SELECT (SELECT count(*) FROM events) AS "events!",
                  (SELECT coalesce(sum(quantity), 0) FROM events) AS "used!",
                  (SELECT coalesce(sum(quantity), 0) FROM held) AS "held!",
                  (SELECT coalesce(sum(units), 0) FROM told) AS "told!""#,
        from.organization_id,
        from.metric,
        start as _,
        to_start as _,
        since as _
    )
    .fetch_one(&mut *conn)
    .await?;
    let level = aggregation != Aggregation::Sum;
    let sides = [
        (from.start, Decimal::NEGATIVE_ONE),
        (to.start_secs(), Decimal::ONE),
    ];
    for (period_start, sign) in sides {
        let place = Place {
            start: period_start,
            ..from
        };
        add(
            conn,
            place,
            moved.used * sign,
            moved.held * sign,
            moved.told * sign,
        )
        .await?;
        let events = if sign.is_sign_negative() {
            -moved.events
        } else {
            moved.events
        };
        count(conn, place, events).await?;
        if level {
            recompute(conn, place, aggregation == Aggregation::Last).await?;
        }
    }
    if merged {
        merge(conn, from, to).await?;
    }
    Ok(())
}

async fn add(
    conn: &mut PgConnection,
    place: Place<'_>,
    used: Decimal,
    held: Decimal,
    told: Decimal,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_totals SET total = greatest(total + $4, 0),
                reserved = greatest(reserved + $5, 0), reported = reported + $6,
                updated_at = now()
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        place.organization_id,
        place.metric,
        instant(place.start)? as _,
        used,
        held,
        told
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// How many events there are, and which is the newest.
async fn count(conn: &mut PgConnection, place: Place<'_>, events: i64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_totals SET events = events + $4
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        place.organization_id,
        place.metric,
        instant(place.start)? as _,
        events
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A level is what its events say so far, and so is what was told of it.
pub(super) async fn recompute(
    conn: &mut PgConnection,
    place: Place<'_>,
    last: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"WITH newest AS (
             SELECT quantity, coalesce(occurred_at, recorded_at) AS at, event_id
               FROM usage_events
              WHERE organization_id = $1 AND metric = $2 AND period_start = $3
                AND coalesce(occurred_at, recorded_at) <= now()
              ORDER BY at DESC, event_id COLLATE "C" DESC LIMIT 1
           ), highest AS (
             SELECT max(quantity) AS quantity FROM usage_events
              WHERE organization_id = $1 AND metric = $2 AND period_start = $3
                AND coalesce(occurred_at, recorded_at) <= now()
           ), told AS (
             SELECT units FROM usage_reports
              WHERE organization_id = $1 AND metric = $2 AND period_start = $3
              -- In Stripe the newest second's last one counts.
              ORDER BY date_trunc('second', at) DESC, created_at DESC LIMIT 1
           )
           UPDATE usage_totals SET
             total = coalesce(CASE WHEN $4 THEN (SELECT quantity FROM newest)
                                   ELSE (SELECT quantity FROM highest) END, 0),
             last_at = (SELECT at FROM newest), last_event_id = (SELECT event_id FROM newest),
             reported = CASE WHEN $4 THEN coalesce((SELECT units FROM told), 0)
                             ELSE reported END
            WHERE organization_id = $1 AND metric = $2 AND period_start = $3"#,
        place.organization_id,
        place.metric,
        instant(place.start)? as _,
        last
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What else belongs to a total that became part of another.
async fn merge(conn: &mut PgConnection, from: Place<'_>, to: Period) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH gone AS (
           DELETE FROM usage_totals
            WHERE organization_id = $1 AND metric = $2 AND period_start = $3
              AND events <= 0 AND reserved = 0
           RETURNING alerted
         ), alerted AS (
           UPDATE usage_totals t SET alerted = greatest(t.alerted, gone.alerted) FROM gone
            WHERE t.organization_id = $1 AND t.metric = $2 AND t.period_start = $4
         )
         UPDATE grace_periods g SET period_start = $4, period_end = $5
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3
            AND NOT EXISTS (SELECT FROM grace_periods o
                             WHERE o.organization_id = $1 AND o.metric = $2
                               AND o.period_start = $4)",
        from.organization_id,
        from.metric,
        instant(from.start)? as _,
        instant(to.start_secs())? as _,
        instant(to.end_secs())? as _
    )
    .execute(conn)
    .await?;
    Ok(())
}
