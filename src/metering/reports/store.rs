//! The usage reports' SQL.

use billing_domain::quota::OverLimit;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::due::OLDEST;
use crate::catalogue::{Aggregation, Catalogue, MeteredPrices};

/// A total of an organization that is billed for it, or should be.
#[derive(Debug, Clone)]
pub struct Open {
    pub organization_id: Uuid,
    pub metric: String,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    /// When its period was invoiced, if that was before its time.
    pub closed_at: Option<Timestamp>,
    /// What has occurred; use dated ahead is left out until its time has come.
    pub total: Decimal,
    /// A level with use that is dated ahead, which waits.
    pub waits: bool,
    /// How many events it has.
    pub events: i64,
    /// What Stripe is, or will be, told.
    pub reported: Decimal,
    /// Of it, what no invoice takes any more.
    pub reported_late: Decimal,
    /// Of it, what Stripe will never take, and would have taken in time.
    pub refused: Decimal,
    /// Its customer was deleted before Stripe was told.
    pub customer_deleted: bool,
    /// None: unlimited, or no quota at all.
    pub quota: Option<Decimal>,
    pub over_limit: Option<OverLimit>,
    /// When an operator set the quota, if one did.
    pub overridden_at: Option<Timestamp>,
    /// Whether usage over the quota has a price.
    pub rated: bool,
    /// None: no subscription of that time has a price for the metric.
    pub billed: Option<Billed>,
}

/// What usage is billed by.
#[derive(Debug, Clone)]
pub struct Billed {
    pub stripe_customer_id: String,
    /// The units that the price in Stripe includes.
    pub included: Decimal,
    /// Usage of a trial costs nothing.
    pub on_trial: bool,
    /// The subscription ended, and Stripe made no invoice of its last usage.
    pub never_invoiced: bool,
}

/// What is to be said of a total.
#[derive(Debug, Clone)]
pub struct Entered {
    pub event_name: String,
    pub units: Decimal,
    /// What was told, with it.
    pub reported: Decimal,
    /// Of it, what came too late.
    pub late: Decimal,
    pub at: Timestamp,
    /// It is told before a change of ours that ends its period.
    pub ahead: bool,
}

/// The totals at `now` of the periods that Stripe still takes, of organizations whose
/// subscription began before the period and has a price for the metric, and of
/// those that have more than a quota over which usage is to be billed. Of one
/// organization, if it is named.
pub async fn open(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    now: Timestamp,
    organization_id: Option<Uuid>,
) -> Result<Vec<Open>, sqlx::Error> {
    let prices = MeteredPrices::of(catalogue);
    let rows = sqlx::query!(
        r#"SELECT t.organization_id, t.metric, t.period_start, t.period_end, t.total,
                  -- What ends by schedule is invoiced as a period that ends is, and what ends
                  -- at once, at once.
                  CASE WHEN s.ended_at <= t.period_end AND s.ended_at > s.begun_at THEN s.cut_at
                       -- It ended as a period began, so the one before was over.
                       ELSE t.closed_at END
                    AS closed_at,
                  ahead.quantity AS "ahead?", level.newest AS "newest?",
                  level.highest AS "highest?", level.waits AS "waits?",
                  t.events, t.reported, t.reported_late, refused.units AS "refused?",
                  refused.taken AS "taken?", refused.any AS "is_refused?",
                  s.stripe_customer_id AS "stripe_customer_id?", s.included AS "included?",
                  s.on_trial AS "on_trial?",
                  (s.ended_at <= t.period_end AND NOT EXISTS (
                     SELECT FROM billing_invoices v
                      WHERE v.organization_id = t.organization_id
                        AND v.stripe_subscription_id = s.stripe_subscription_id
                        AND v.stripe_created_at > t.period_start
                        AND v.stripe_created_at >= s.ended_at - interval '1 second'))
                    AS never_invoiced,
                  -- The plan that bills it need not be the plan of today.
                  CASE WHEN v.metric IS NULL THEN coalesce(s.included, q.quota) ELSE v.quota END
                    AS quota,
                  coalesce(v.over_limit, CASE WHEN s.included IS NOT NULL THEN 'overage'
                                              ELSE q.over_limit END) AS over_limit,
                  v.updated_at AS "overridden_at?", q.overage_rate IS NOT NULL AS "rated!"
             FROM usage_totals t
             LEFT JOIN LATERAL (
               SELECT s.stripe_customer_id, s.stripe_subscription_id, billed.included, s.ended_at,
                      s.current_period_start AS begun_at,
                      CASE WHEN s.ended_at IN (s.cancel_at, s.current_period_end) THEN NULL
                           ELSE s.ended_at END AS cut_at,
                      coalesce(s.trial_end > t.period_start, false) AS on_trial
                 FROM billing_subscriptions s
                 JOIN unnest($1::text[], $2::text[], $3::numeric[])
                        AS billed(lookup_key, metric, included)
                   ON billed.metric = t.metric
                  -- A period that is over is billed by the price that it had.
                  AND CASE WHEN t.billed_by IS NULL
                      THEN EXISTS (
                        SELECT FROM billing_subscription_items i
                         WHERE i.organization_id = s.organization_id
                           AND i.stripe_subscription_id = s.stripe_subscription_id
                           AND i.lookup_key = billed.lookup_key)
                      ELSE billed.lookup_key = t.billed_by END
                WHERE s.organization_id = t.organization_id
                  AND coalesce(s.stripe_created_at, s.current_period_start) <= t.period_start
                  AND (s.ended_at IS NULL OR s.ended_at > t.period_start)
                ORDER BY s.stripe_created_at DESC LIMIT 1) s ON true
             LEFT JOIN LATERAL (
               -- The newest event tells whether any is ahead, and each was recorded just now.
               SELECT sum(e.quantity) AS quantity FROM usage_events e
                WHERE t.last_at > greatest($6, now())
                  AND e.organization_id = t.organization_id AND e.metric = t.metric
                  AND e.period_start = t.period_start
                  AND e.recorded_at > greatest($6, now()) - interval '10 minutes'
                  AND e.occurred_at > greatest($6, now())) ahead ON true
             LEFT JOIN LATERAL (
               -- Of levels that are dated ahead, those whose time has come by then.
               SELECT (array_agg(p.quantity ORDER BY p.occurred_at DESC, p.event_id DESC)
                         FILTER (WHERE p.occurred_at <= greatest($6, now())
                                   AND (t.last_at IS NULL OR p.occurred_at >= t.last_at)))[1]
                        AS newest,
                      max(p.quantity) FILTER (WHERE p.occurred_at <= greatest($6, now()))
                        AS highest,
                      bool_or(p.occurred_at > greatest($6, now())) AS waits
                 FROM usage_pending_levels p
                WHERE p.organization_id = t.organization_id AND p.metric = t.metric
                  AND p.period_start = t.period_start) level ON true
             LEFT JOIN LATERAL (
               SELECT sum(r.units) FILTER (WHERE r.late IS NOT TRUE) AS units, count(*) > 0 AS any,
                      -- The level that Stripe has.
                      (SELECT k.units FROM usage_reports k
                        WHERE k.organization_id = t.organization_id AND k.metric = t.metric
                          AND k.period_start = t.period_start AND k.refused_at IS NULL
                        ORDER BY date_trunc('second', k.at) DESC, k.created_at DESC LIMIT 1)
                        AS taken
                 FROM usage_reports r
                WHERE r.organization_id = t.organization_id AND r.metric = t.metric
                  AND r.period_start = t.period_start AND r.refused_at IS NOT NULL) refused
               ON true
             LEFT JOIN usage_quotas q
               ON q.organization_id = t.organization_id AND q.metric = t.metric
             LEFT JOIN usage_quota_overrides v
               ON v.organization_id = t.organization_id AND v.metric = t.metric
            WHERE t.period_end > $4 AND ($5::uuid IS NULL OR t.organization_id = $5)
              AND t.billed_by IS DISTINCT FROM '-'
              AND (s.included IS NOT NULL
                   OR (q.overage_rate IS NOT NULL AND t.period_end > now()
                       AND coalesce(v.over_limit, q.over_limit) = 'overage'
                       AND t.total > CASE WHEN v.metric IS NULL THEN q.quota ELSE v.quota END))
            ORDER BY t.organization_id, t.metric, t.period_start"#,
        &prices.lookup_keys,
        &prices.metrics,
        &prices.included,
        (now - OLDEST).to_sqlx() as _,
        organization_id,
        now.to_sqlx() as _
    )
    .fetch_all(conn)
    .await?;
    let open = rows.into_iter().map(|row| {
        let metric = catalogue.metric(&row.metric);
        let aggregation = metric.map_or(Aggregation::Sum, |metric| metric.aggregation);
        let is_sum = aggregation == Aggregation::Sum;
        let ahead = row.ahead.unwrap_or(Decimal::ZERO);
        let billed = match (row.stripe_customer_id, row.included, row.on_trial) {
            (Some(stripe_customer_id), Some(included), Some(on_trial)) => Some(Billed {
                stripe_customer_id,
                included,
                on_trial,
                never_invoiced: row.never_invoiced.unwrap_or(false),
            }),
            _ => None,
        };
        Open {
            organization_id: row.organization_id,
            metric: row.metric,
            period_start: row.period_start.to_jiff(),
            period_end: row.period_end.to_jiff(),
            closed_at: row.closed_at.map(|at| at.to_jiff()),
            total: match aggregation {
                Aggregation::Sum => (row.total - ahead).max(Decimal::ZERO),
                Aggregation::Last => row.newest.unwrap_or(row.total),
                Aggregation::Max => row.highest.map_or(row.total, |due| due.max(row.total)),
            },
            waits: !is_sum && (row.ahead.is_some() || row.waits.unwrap_or(false)),
            events: row.events,
            reported: row.reported,
            reported_late: row.reported_late,
            customer_deleted: row.is_refused.unwrap_or(false),
            refused: match (row.refused, aggregation) {
                (None, _) => Decimal::ZERO,
                (Some(_), Aggregation::Last) => row.reported - row.taken.unwrap_or(Decimal::ZERO),
                (Some(units), _) => units,
            },
            quota: row.quota,
            over_limit: row.over_limit.as_deref().and_then(OverLimit::named),
            overridden_at: row.overridden_at.map(|at| at.to_jiff()),
            rated: row.rated,
            billed,
        }
    });
    Ok(open.collect())
}

/// Locks what an organization counts, so that nothing is counted or entered
/// meanwhile.
pub async fn lock(conn: &mut PgConnection, organization_id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"SELECT 1 AS "locked!" FROM usage_quotas WHERE organization_id = $1
            ORDER BY metric FOR NO KEY UPDATE"#,
        organization_id
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}

/// Enters a report and what it makes of the total; false: the identifier is
/// another report's.
pub async fn enter(
    conn: &mut PgConnection,
    total: &Open,
    billed: &Billed,
    identifier: &str,
    entered: &Entered,
) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query_scalar!(
        "INSERT INTO usage_reports (organization_id, identifier, metric, period_start,
                                    stripe_customer_id, event_name, units, at, created_at, late)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp(), $9)
         ON CONFLICT (organization_id, identifier) DO NOTHING RETURNING identifier",
        total.organization_id,
        identifier,
        total.metric,
        total.period_start.to_sqlx() as _,
        billed.stripe_customer_id,
        entered.event_name,
        entered.units,
        entered.at.to_sqlx() as _,
        if entered.late.is_zero() {
            entered.ahead.then_some(false)
        } else {
            Some(true)
        }
    )
    .fetch_optional(&mut *conn)
    .await?;
    if inserted.is_none() {
        return Ok(false);
    }
    sqlx::query!(
        "UPDATE usage_totals SET reported = $4, reported_late = reported_late + $5
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        total.organization_id,
        total.metric,
        total.period_start.to_sqlx() as _,
        entered.reported,
        entered.late
    )
    .execute(conn)
    .await?;
    Ok(true)
}

/// A report that Stripe is not known to have.
#[derive(Debug, Clone)]
pub struct Unsent {
    pub organization_id: Uuid,
    pub identifier: String,
    pub metric: String,
    pub stripe_customer_id: String,
    pub event_name: String,
    pub units: Decimal,
    pub at: Timestamp,
    /// When Stripe may have heard of it.
    pub attempted_at: Option<Timestamp>,
}

/// The reports that are to be sent, oldest first; of one organization, if it is
/// named.
pub async fn unsent(
    conn: &mut PgConnection,
    organization_id: Option<Uuid>,
) -> Result<Vec<Unsent>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, identifier, metric, stripe_customer_id, event_name, units, at,
                attempted_at
           FROM usage_reports
          WHERE sent_at IS NULL AND refused_at IS NULL
            AND ($1::uuid IS NULL OR organization_id = $1)
            -- Older usage Stripe refuses; what it may have heard of, an operator looks at.
            AND (at > now() - interval '35 days' OR attempted_at IS NOT NULL)
          ORDER BY created_at, identifier",
        organization_id
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Unsent {
            organization_id: row.organization_id,
            identifier: row.identifier,
            metric: row.metric,
            stripe_customer_id: row.stripe_customer_id,
            event_name: row.event_name,
            units: row.units,
            at: row.at.to_jiff(),
            attempted_at: row.attempted_at.map(|at| at.to_jiff()),
        })
        .collect())
}

/// From here on Stripe may have heard of it; the first time counts. False:
/// another has sent it meanwhile.
pub async fn attempting(conn: &mut PgConnection, row: &Unsent) -> Result<bool, sqlx::Error> {
    let attempted = sqlx::query!(
        "UPDATE usage_reports SET attempted_at = coalesce(attempted_at, now())
          WHERE organization_id = $1 AND identifier = $2 AND sent_at IS NULL",
        row.organization_id,
        row.identifier
    )
    .execute(conn)
    .await?;
    Ok(attempted.rows_affected() > 0)
}

pub async fn sent(conn: &mut PgConnection, row: &Unsent) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports SET sent_at = now(), error_message = NULL
          WHERE organization_id = $1 AND identifier = $2",
        row.organization_id,
        row.identifier
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records an attempt that failed; `certain`: Stripe did not take it.
pub async fn failed(
    conn: &mut PgConnection,
    row: &Unsent,
    error: &str,
    certain: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports SET error_message = $3,
                attempted_at = CASE WHEN $4 THEN NULL ELSE attempted_at END
          WHERE organization_id = $1 AND identifier = $2",
        row.organization_id,
        row.identifier,
        error,
        certain
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records that Stripe will never take it.
pub async fn refused(
    conn: &mut PgConnection,
    row: &Unsent,
    error: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports SET refused_at = now(), error_message = $3, attempted_at = NULL
          WHERE organization_id = $1 AND identifier = $2 AND sent_at IS NULL",
        row.organization_id,
        row.identifier,
        error
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The reports that could not be sent: how many, for how long, and why.
#[derive(Debug, Clone, Default)]
pub struct Stuck {
    pub count: i64,
    pub since: Option<Timestamp>,
    pub error: Option<String>,
}

pub async fn stuck(conn: &mut PgConnection) -> Result<Stuck, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT count(*) AS "count!", min(created_at) AS since, max(error_message) AS error
             FROM usage_reports
            WHERE sent_at IS NULL AND refused_at IS NULL
              AND (error_message IS NOT NULL OR attempted_at IS NOT NULL)"#
    )
    .fetch_one(conn)
    .await?;
    Ok(Stuck {
        count: row.count,
        since: row.since.map(|at| at.to_jiff()),
        error: row.error,
    })
}
