//! SQL for usage that Stripe accepted and rejected afterwards.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::metering::reports::rejected::{Explained, Rejection};

/// An event by which Stripe says that it rejected usage.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeterError {
    pub event_id: String,
    pub event_type: String,
    pub at: Timestamp,
    /// `None` until Stripe was asked.
    pub count: Option<i64>,
    pub summary: Option<String>,
    /// Why, each with how many and some of their identifiers; empty until Stripe was asked.
    pub errors: Vec<Rejection>,
    /// Why Stripe could not be asked.
    pub problem: Option<String>,
}

/// A report that Stripe rejected.
#[derive(Debug, Clone)]
pub struct RejectedReport {
    pub organization_id: Uuid,
    pub identifier: String,
    pub metric: String,
    pub units: Decimal,
}

/// Enters events about rejected usage, once each.
pub async fn enter_meter_errors(
    conn: &mut PgConnection,
    events: &[(&str, &str, Timestamp)],
) -> Result<(), sqlx::Error> {
    for (id, event_type, at) in events {
        sqlx::query!(
            "INSERT INTO stripe_meter_errors (stripe_event_id, event_type, occurred_at)
             VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            id,
            event_type,
            at.to_sqlx() as _
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// The events that Stripe is to be asked about now.
pub async fn unexplained(conn: &mut PgConnection, limit: i64) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT stripe_event_id FROM stripe_meter_errors
          WHERE explained_at IS NULL AND next_attempt_at <= now()
          ORDER BY next_attempt_at LIMIT $1",
        limit
    )
    .fetch_all(conn)
    .await
}

pub async fn postpone_explanation(
    conn: &mut PgConnection,
    event_id: &str,
    error: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE stripe_meter_errors
            SET attempts = attempts + 1, error_message = $2,
                next_attempt_at = now() + least(interval '1 hour',
                                                interval '10 seconds' * 2 ^ least(attempts, 10))
          WHERE stripe_event_id = $1",
        event_id,
        error
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn explained(
    conn: &mut PgConnection,
    event_id: &str,
    explained: &Explained,
) -> Result<(), sqlx::Error> {
    let errors = serde_json::to_value(&explained.errors)
        .map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query!(
        "UPDATE stripe_meter_errors
            SET explained_at = now(), error_count = $2, summary = $3, errors = $4,
                error_message = NULL
          WHERE stripe_event_id = $1",
        event_id,
        explained.count,
        explained.summary,
        errors
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes that Stripe counts these reports no more.
pub async fn mark_rejected(
    conn: &mut PgConnection,
    identifiers: &[String],
    code: &str,
    why: &str,
) -> Result<Vec<RejectedReport>, sqlx::Error> {
    sqlx::query_as!(
        RejectedReport,
        "UPDATE usage_reports SET refused_at = now(), rejected_code = $2, error_message = $3
          WHERE identifier = ANY($1) AND refused_at IS NULL
         RETURNING organization_id, identifier, metric, units",
        identifiers,
        code,
        why
    )
    .fetch_all(conn)
    .await
}

/// What Stripe rejected and nobody has dealt with, newest first.
pub async fn meter_errors(conn: &mut PgConnection) -> Result<Vec<MeterError>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT stripe_event_id, event_type, occurred_at, error_count, summary, errors,
                error_message
           FROM stripe_meter_errors
          WHERE settled_at IS NULL AND occurred_at > now() - interval '35 days'
          ORDER BY occurred_at DESC, stripe_event_id LIMIT 1000"
    )
    .fetch_all(conn)
    .await?;
    let errors = rows.into_iter().map(|row| {
        let errors = row.errors.map(serde_json::from_value).transpose();
        Ok(MeterError {
            event_id: row.stripe_event_id,
            event_type: row.event_type,
            at: row.occurred_at.to_jiff(),
            count: row.error_count,
            summary: row.summary,
            errors: errors
                .map_err(|error| sqlx::Error::Decode(error.into()))?
                .unwrap_or_default(),
            problem: row.error_message,
        })
    });
    errors.collect()
}

pub async fn settle_meter_errors(
    conn: &mut PgConnection,
    until: Timestamp,
) -> Result<u64, sqlx::Error> {
    let settled = sqlx::query!(
        "UPDATE stripe_meter_errors SET settled_at = now()
          WHERE settled_at IS NULL AND explained_at IS NOT NULL AND explained_at <= $1",
        until.to_sqlx() as _
    )
    .execute(conn)
    .await?;
    Ok(settled.rows_affected())
}

/// The organizations with rejected usage that Stripe would still take.
pub async fn with_rejected(conn: &mut PgConnection) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT DISTINCT organization_id FROM usage_reports
          WHERE refused_at IS NOT NULL AND rejected_code IS NOT NULL AND retold_at IS NULL
            AND at > now() - interval '35 days' ORDER BY organization_id"
    )
    .fetch_all(conn)
    .await
}

/// Takes an organization's rejected reports back, so that they are due again. Returns how
/// many. Of a level, Stripe has the last one that it took.
pub async fn take_back(conn: &mut PgConnection, organization_id: Uuid) -> Result<u64, sqlx::Error> {
    let taken = sqlx::query_scalar!(
        r#"WITH gone AS (
             UPDATE usage_reports SET retold_at = now()
              WHERE organization_id = $1 AND refused_at IS NOT NULL AND rejected_code IS NOT NULL
                AND retold_at IS NULL AND at > now() - interval '35 days'
             RETURNING metric, period_start, units, late, at
           ), changed AS (
             UPDATE usage_totals t
                SET reported = CASE WHEN s.is_level THEN coalesce((
                                 SELECT k.units FROM usage_reports k
                                  WHERE k.organization_id = t.organization_id
                                    AND k.metric = t.metric AND k.period_start = t.period_start
                                    AND k.refused_at IS NULL
                                    AND k.at >= coalesce(t.metered_since, '-infinity')
                                  ORDER BY date_trunc('second', k.at) DESC, k.created_at DESC
                                  LIMIT 1), 0)
                               ELSE t.reported - s.units END,
                    reported_late = CASE WHEN s.is_level THEN t.reported_late
                                         ELSE t.reported_late - s.late END
               FROM (SELECT g.metric, g.period_start,
                            EXISTS (SELECT FROM catalogue_metrics c
                                     WHERE c.metric = g.metric AND c.aggregation = 'last')
                              AS is_level,
                            -- What was reported at a former price counts no more.
                            coalesce(sum(g.units) FILTER (WHERE g.at >= coalesce(o.metered_since,
                                                                                 '-infinity')), 0)
                              AS units,
                            coalesce(sum(g.units) FILTER (WHERE g.late), 0) AS late
                       FROM gone g
                       JOIN usage_totals o
                         ON o.organization_id = $1 AND o.metric = g.metric
                        AND o.period_start = g.period_start
                      GROUP BY g.metric, g.period_start) s
              WHERE t.organization_id = $1 AND t.metric = s.metric
                AND t.period_start = s.period_start)
           SELECT count(*) AS "count!" FROM gone"#,
        organization_id
    )
    .fetch_one(conn)
    .await?;
    Ok(taken.unsigned_abs())
}

impl std::fmt::Display for MeterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { event_id, at, .. } = self;
        match (&self.count, &self.summary, &self.problem) {
            (None, _, Some(problem)) => write!(f, "{event_id} at {at}: {problem}"),
            (None, _, None) => write!(f, "{event_id} at {at}: Stripe was not asked yet"),
            (Some(count), summary, _) => {
                let summary = summary.as_deref().unwrap_or("no reason was given");
                write!(f, "{event_id} at {at}, {count} rejected: {summary}")
            }
        }
    }
}
