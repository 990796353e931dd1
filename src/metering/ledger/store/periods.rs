//! SQL for moved period boundaries: usage moves to the period it belongs to, and
//! its reports with it.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use billing_domain::period::Period;

use crate::catalogue::Aggregation;

/// A total's period, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TotalPeriod {
    pub start: i64,
    pub end: i64,
    /// Whether it ended early and was invoiced then.
    pub closed: bool,
    /// Whether its usage is free because the subscription was suspended.
    pub free: bool,
    /// Whether a subscription with another period is suspended.
    pub suspended: bool,
}

/// Stands for the price of totals that are free because the subscription is
/// suspended. No lookup key equals it.
pub const FREE: &str = "-";

/// Identifies a total.
#[derive(Debug, Clone, Copy)]
pub struct TotalKey<'a> {
    pub organization_id: Uuid,
    pub metric: &'a str,
    pub start: i64,
}

pub(super) fn instant(secs: i64) -> Result<jiff_sqlx::Timestamp, sqlx::Error> {
    let at = Timestamp::from_second(secs);
    at.map(|at| at.to_sqlx())
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// The periods of totals that may overlap the current one.
pub async fn rows(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<Vec<(Uuid, String, TotalPeriod)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT organization_id, metric, period_start, period_end,
                  closed_at IS NOT NULL AS "closed!", coalesce(billed_by = $2, false) AS "free!",
                  EXISTS (SELECT FROM billing_subscriptions s
                           WHERE s.organization_id = t.organization_id
                             AND (s.status IN ('unpaid', 'paused') OR s.access_ended_at IS NOT NULL)
                             AND coalesce(s.usage_period_start, s.current_period_start)
                                 <> t.period_start) AS "suspended!"
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
            let row = TotalPeriod {
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

/// A subscription that begins its next period.
#[derive(Debug, Clone)]
pub struct Renewed {
    pub organization_id: Uuid,
    pub subscription_id: String,
    pub start: Timestamp,
}

/// Before a period is renewed, records the price and the subscription that bill its usage,
/// as the subscription's row still has them; empty if there are none. Usage that another
/// subscription bills, or still counts, is left to it.
#[expect(clippy::too_many_lines, reason = "it is two queries")]
pub async fn keep_prices(conn: &mut PgConnection, renewed: &[Renewed]) -> Result<(), sqlx::Error> {
    let organizations: Vec<Uuid> = renewed.iter().map(|r| r.organization_id).collect();
    let subscriptions: Vec<&str> = renewed.iter().map(|r| &*r.subscription_id).collect();
    let starts: Vec<_> = renewed.iter().map(|r| r.start.to_sqlx()).collect();
    // Late usage may be the first of its metric.
    sqlx::query!(
        "INSERT INTO usage_totals (organization_id, metric, period_start, period_end, total)
         SELECT q.organization_id, q.metric,
                coalesce(s.usage_period_start, s.current_period_start),
                coalesce(s.usage_period_end, s.current_period_end), 0
           FROM unnest($1::uuid[], $2::text[], $3::timestamptz[])
             AS renewed(organization, subscription, start)
           JOIN billing_subscriptions s
             ON s.organization_id = renewed.organization
            AND s.stripe_subscription_id = renewed.subscription
            AND coalesce(s.usage_period_start, s.current_period_start) < renewed.start
            AND coalesce(s.usage_period_end, s.current_period_end) > now() - interval '35 days'
           JOIN usage_quotas q
             ON q.organization_id = renewed.organization
            AND EXISTS (SELECT FROM billing_subscription_items i
                         LEFT JOIN billing_prices b ON b.stripe_price_id = i.stripe_price_id
                         WHERE i.organization_id = q.organization_id
                           AND i.stripe_subscription_id = renewed.subscription
                           AND coalesce(i.metric, b.metric) = q.metric)
         ON CONFLICT DO NOTHING",
        &organizations,
        &subscriptions as &[&str],
        &starts as _
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "WITH kept AS (
           SELECT t.organization_id, t.metric, t.period_start, s.stripe_subscription_id,
                  biller.price
             FROM unnest($1::uuid[], $2::text[], $3::timestamptz[])
               AS renewed(organization, subscription, start)
             JOIN billing_subscriptions s
               ON s.organization_id = renewed.organization
              AND s.stripe_subscription_id = renewed.subscription
             JOIN usage_totals t
               ON t.organization_id = renewed.organization AND t.billed_by IS NULL
              AND t.period_start < renewed.start
              AND t.period_start >= coalesce(s.stripe_created_at, s.current_period_start)
              AND t.period_end > now() - interval '35 days'
              -- One that goes on is of another subscription, unless there is none.
              AND (t.period_end <= renewed.start
                   OR t.period_start = coalesce(s.usage_period_start, s.current_period_start)
                   OR NOT EXISTS (
                     SELECT FROM billing_subscriptions o
                      WHERE o.organization_id = s.organization_id
                        AND o.stripe_subscription_id <> s.stripe_subscription_id
                        AND o.status IN ('active', 'trialing', 'past_due')
                        AND o.access_ended_at IS NULL))
             LEFT JOIN usage_quotas q
               ON q.organization_id = t.organization_id AND q.metric = t.metric
             LEFT JOIN LATERAL (
               SELECT o.stripe_subscription_id AS subscription,
                      (SELECT i.stripe_price_id FROM billing_subscription_items i
                         LEFT JOIN billing_prices b ON b.stripe_price_id = i.stripe_price_id
                        WHERE i.organization_id = o.organization_id
                          AND i.stripe_subscription_id = o.stripe_subscription_id
                          AND coalesce(i.metric, b.metric) = t.metric
                        ORDER BY i.stripe_price_id LIMIT 1) AS price
                 FROM billing_subscriptions o
                WHERE o.organization_id = t.organization_id
                  AND o.stripe_subscription_id = billing_usage_subscription(
                        t.organization_id, t.period_start, q.plan_tier)) biller ON true
            WHERE biller.subscription IS NULL
               OR biller.subscription = s.stripe_subscription_id)
         UPDATE usage_totals t
            SET billed_by = coalesce(kept.price, ''),
                billed_subscription_id = kept.stripe_subscription_id
           FROM kept
          WHERE t.organization_id = kept.organization_id AND t.metric = kept.metric
            AND t.period_start = kept.period_start",
        &organizations,
        &subscriptions as &[&str],
        &starts as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Sets a period's end. With `closed`, Stripe invoiced it at that time; with
/// `is_over`, the end is final and the price that bills it stays.
pub async fn set_end(
    conn: &mut PgConnection,
    total: TotalKey<'_>,
    end: i64,
    closed: bool,
    is_over: bool,
) -> Result<(), sqlx::Error> {
    let (start, end) = (instant(total.start)?, instant(end)?);
    sqlx::query!(
        "WITH total AS (
           UPDATE usage_totals SET period_end = $4::timestamptz,
                  closed_at = CASE WHEN $5 THEN $4::timestamptz END,
                  -- Without an invoice, nothing can be late.
                  reported_late = CASE WHEN $5 THEN reported_late ELSE 0 END,
                  billed_by = CASE WHEN $5 OR $6 THEN billed_by END,
                  billed_subscription_id = CASE WHEN $5 OR $6 THEN billed_subscription_id END
            WHERE organization_id = $1 AND metric = $2 AND period_start = $3
         ), grace AS (
           UPDATE grace_periods SET period_end = $4
            WHERE organization_id = $1 AND metric = $2 AND period_start = $3
         )
         UPDATE usage_alerts SET period_end = $4
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        total.organization_id,
        total.metric,
        start as _,
        end as _,
        closed,
        is_over
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Moves usage from `since` on to the total of `to`: events, reservations, reports
/// and scheduled levels. Without `since` it moves everything, and deletes the
/// total it empties.
#[expect(clippy::too_many_lines, reason = "most of it is one statement")]
pub async fn move_usage(
    conn: &mut PgConnection,
    from: TotalKey<'_>,
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
        r#"WITH told AS (
             -- What Stripe was told ahead of the end, in its second, is on its invoice.
             SELECT coalesce(max(created_at), '-infinity') AS at FROM usage_reports
              WHERE organization_id = $1 AND metric = $2 AND period_start = $3 AND late IS FALSE
                AND created_at >= $5 AND created_at < $5::timestamptz + interval '1 second'
           ), events AS (
             UPDATE usage_events SET period_start = $4
              WHERE organization_id = $1 AND metric = $2 AND period_start = $3
                AND recorded_at >= $5::timestamptz - interval '5 minutes'
                AND coalesce(occurred_at, recorded_at) >= $5
                AND (recorded_at > (SELECT at FROM told)
                     OR coalesce(occurred_at, recorded_at) > (SELECT at FROM told))
             RETURNING quantity
           ), reserved AS (
             UPDATE usage_reservations SET period_start = $4
              WHERE organization_id = $1 AND metric = $2 AND period_start = $3
                AND reserved_at >= $5 AND settled_at IS NULL
             RETURNING quantity
           ), reported AS (
             UPDATE usage_reports SET period_start = $4
              WHERE organization_id = $1 AND metric = $2 AND period_start = $3 AND at >= $5
             RETURNING units, at
           ), ahead AS (
             UPDATE usage_pending_levels SET period_start = $4
              WHERE organization_id = $1 AND metric = $2 AND period_start = $3
                AND occurred_at >= $5
           )
           SELECT (SELECT count(*) FROM events) AS "events!",
                  (SELECT coalesce(sum(quantity), 0) FROM events) AS "used!",
                  (SELECT coalesce(sum(quantity), 0) FROM reserved) AS "reserved!",
                  -- What was reported at a former price counts no more.
                  (SELECT coalesce(sum(units), 0) FROM reported
                    WHERE at >= coalesce((SELECT t.metered_since FROM usage_totals t
                                           WHERE t.organization_id = $1 AND t.metric = $2
                                             AND t.period_start = $3), '-infinity'))
                    AS "reported!""#,
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
        let total = TotalKey {
            start: period_start,
            ..from
        };
        add(
            conn,
            total,
            moved.used * sign,
            moved.reserved * sign,
            moved.reported * sign,
        )
        .await?;
        let events = if sign.is_sign_negative() {
            -moved.events
        } else {
            moved.events
        };
        add_events(conn, total, events).await?;
        if level {
            recompute(conn, total, aggregation == Aggregation::Last).await?;
        }
    }
    move_change(conn, from, to.start_secs(), since).await?;
    if merged {
        merge(conn, from, to).await?;
    }
    Ok(())
}

/// Moves what a change of plan at `since` or later did to a total.
async fn move_change(
    conn: &mut PgConnection,
    from: TotalKey<'_>,
    to_start: i64,
    since: jiff_sqlx::Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH changed AS (
           SELECT quota_adjustment, metered_since FROM usage_totals
            WHERE organization_id = $1 AND metric = $2 AND period_start = $3
              AND metered_since >= $5
         ), left_behind AS (
           UPDATE usage_totals t SET quota_adjustment = 0, metered_since = NULL
             FROM changed
            WHERE organization_id = $1 AND metric = $2 AND period_start = $3
         )
         UPDATE usage_totals t
            SET quota_adjustment = t.quota_adjustment + changed.quota_adjustment,
                metered_since = greatest(t.metered_since, changed.metered_since)
           FROM changed
          WHERE t.organization_id = $1 AND t.metric = $2 AND t.period_start = $4",
        from.organization_id,
        from.metric,
        instant(from.start)? as _,
        instant(to_start)? as _,
        since as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn add(
    conn: &mut PgConnection,
    total: TotalKey<'_>,
    used: Decimal,
    reserved: Decimal,
    reported: Decimal,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_totals SET total = greatest(total + $4, 0),
                reserved = greatest(reserved + $5, 0), reported = reported + $6,
                updated_at = now()
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        total.organization_id,
        total.metric,
        instant(total.start)? as _,
        used,
        reserved,
        reported
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn add_events(
    conn: &mut PgConnection,
    total: TotalKey<'_>,
    events: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_totals SET events = events + $4
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        total.organization_id,
        total.metric,
        instant(total.start)? as _,
        events
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Recomputes a level from its events up to now, and what was reported of it.
pub(super) async fn recompute(
    conn: &mut PgConnection,
    total: TotalKey<'_>,
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
           ), reported AS (
             SELECT units FROM usage_reports
              WHERE organization_id = $1 AND metric = $2 AND period_start = $3
                AND at >= coalesce((SELECT t.metered_since FROM usage_totals t
                                     WHERE t.organization_id = $1 AND t.metric = $2
                                       AND t.period_start = $3), '-infinity')
              -- In Stripe the last report of the newest second counts.
              ORDER BY date_trunc('second', at) DESC, created_at DESC LIMIT 1
           )
           UPDATE usage_totals SET
             total = coalesce(CASE WHEN $4 THEN (SELECT quantity FROM newest)
                                   ELSE (SELECT quantity FROM highest) END, 0),
             last_at = (SELECT at FROM newest), last_event_id = (SELECT event_id FROM newest),
             reported = CASE WHEN $4 THEN coalesce((SELECT units FROM reported), 0)
                             ELSE reported END
            WHERE organization_id = $1 AND metric = $2 AND period_start = $3"#,
        total.organization_id,
        total.metric,
        instant(total.start)? as _,
        last
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes a total that was merged into another, and moves its alert threshold
/// and grace period.
async fn merge(conn: &mut PgConnection, from: TotalKey<'_>, to: Period) -> Result<(), sqlx::Error> {
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
