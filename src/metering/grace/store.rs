//! SQL for grace periods.

use std::collections::BTreeMap;

use billing_domain::grace_period::EndReason;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Ended;
use crate::server::number::Number;

/// A grace period, running or ended.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = GracePeriod)]
pub struct GraceRow {
    pub organization_id: Uuid,
    #[schema(example = "agent_executions")]
    pub metric: String,
    #[schema(value_type = String, format = DateTime)]
    pub period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub period_end: Timestamp,
    /// The quota that was exceeded, and the usage at that time.
    pub quota: Number,
    pub usage_at_start: Number,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Null while it is running.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// `upgraded`, `quota_raised`, `period_ended` or `expired`.
    #[schema(required)]
    pub end_reason: Option<String>,
    /// Whether it currently allows usage over the quota.
    pub active: bool,
}

/// A grace period's position in the list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Position {
    pub started_at: Timestamp,
    pub metric: String,
}

/// Which grace periods to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// `None` lists those of all organizations.
    pub organization_id: Option<Uuid>,
    pub only_active: bool,
    pub after: Option<Position>,
    pub limit: i64,
}

/// Lists grace periods, newest first.
pub async fn list(conn: &mut PgConnection, filter: &Filter) -> Result<Vec<GraceRow>, sqlx::Error> {
    let after = filter.after.as_ref();
    let rows = sqlx::query!(
        r#"SELECT organization_id, metric, period_start, period_end, quota, usage_at_start,
                  started_at, expires_at, ended_at, end_reason,
                  (ended_at IS NULL AND expires_at > now() AND period_end > now()) AS "active!"
             FROM grace_periods
            WHERE ($1::uuid IS NULL OR organization_id = $1)
              AND (NOT $2 OR (ended_at IS NULL AND expires_at > now() AND period_end > now()))
              AND ($3::timestamptz IS NULL OR (started_at, metric) < ($3, $4))
            ORDER BY started_at DESC, metric DESC LIMIT $5"#,
        filter.organization_id,
        filter.only_active,
        after.map(|position| position.started_at.to_sqlx()) as _,
        after.map_or("", |position| &position.metric),
        filter.limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| GraceRow {
            organization_id: row.organization_id,
            metric: row.metric,
            period_start: row.period_start.to_jiff(),
            period_end: row.period_end.to_jiff(),
            quota: Number(row.quota),
            usage_at_start: Number(row.usage_at_start),
            started_at: row.started_at.to_jiff(),
            expires_at: row.expires_at.to_jiff(),
            ended_at: row.ended_at.map(|at| at.to_jiff()),
            end_reason: row.end_reason,
            active: row.active,
        })
        .collect())
}

/// The running grace periods that end next: organization, metric and end.
pub async fn ending(
    conn: &mut PgConnection,
    limit: i64,
) -> Result<Vec<(Uuid, String, Timestamp)>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, metric, least(expires_at, period_end) AS \"ends_at!\"
           FROM grace_periods
          WHERE ended_at IS NULL AND expires_at > now() AND period_end > now()
          ORDER BY expires_at LIMIT $1",
        limit
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|row| (row.organization_id, row.metric, row.ends_at.to_jiff()))
        .collect())
}

/// The number of running grace periods, by metric.
pub async fn active_by_metric(
    conn: &mut PgConnection,
) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT metric, count(*) AS "count!" FROM grace_periods
            WHERE ended_at IS NULL AND expires_at > now() AND period_end > now()
            GROUP BY metric"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.metric, row.count))
        .collect())
}

/// Up to `limit` organizations, in order and after `after`, with a grace period
/// that is over but not yet ended.
pub async fn due(
    conn: &mut PgConnection,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT DISTINCT organization_id FROM grace_periods
          WHERE ended_at IS NULL AND least(expires_at, period_end) <= now()
            AND ($1::uuid IS NULL OR organization_id > $1)
          ORDER BY organization_id LIMIT $2",
        after,
        limit
    )
    .fetch_all(conn)
    .await
}

/// Ends the grace periods of `organizations` that are over.
pub async fn end_due(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<Vec<Ended>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"WITH over AS MATERIALIZED (
             SELECT organization_id, metric, period_start FROM grace_periods
              WHERE organization_id = ANY($1) AND ended_at IS NULL
                AND least(expires_at, period_end) <= now()
                FOR UPDATE SKIP LOCKED)
           UPDATE grace_periods g
              SET ended_at = least(g.expires_at, g.period_end),
                  end_reason = CASE WHEN g.expires_at <= g.period_end THEN 'expired'
                                    ELSE 'period_ended' END
             FROM over
            WHERE g.organization_id = over.organization_id AND g.metric = over.metric
              AND g.period_start = over.period_start
           RETURNING g.organization_id, g.metric, g.end_reason AS "end_reason!""#,
        organizations
    )
    .fetch_all(conn)
    .await?;
    let ended = rows.into_iter().map(|row| Ended {
        organization_id: row.organization_id,
        metric: row.metric,
        reason: if row.end_reason == EndReason::Expired.as_str() {
            EndReason::Expired
        } else {
            EndReason::PeriodEnded
        },
    });
    Ok(ended.collect())
}

/// Ends the running grace periods of `organizations` whose quota covers the
/// usage, is unlimited, or now bills overage.
pub async fn end_covered(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    reason: EndReason,
) -> Result<Vec<Ended>, sqlx::Error> {
    let rows = sqlx::query!(
        "UPDATE grace_periods g SET ended_at = now(), end_reason = $2
           FROM effective_usage_quotas q
          WHERE g.organization_id = ANY($1) AND g.ended_at IS NULL AND g.expires_at > now()
            AND q.organization_id = g.organization_id AND q.metric = g.metric
            AND (q.over_limit = 'overage' OR q.unlimited
                 OR coalesce((SELECT t.total + t.reserved FROM usage_totals t
                               WHERE t.organization_id = g.organization_id AND t.metric = g.metric
                                 AND t.period_start = g.period_start), 0)
                    <= q.quota
                       + coalesce((SELECT t.quota_adjustment FROM usage_totals t
                                    WHERE t.organization_id = g.organization_id
                                      AND t.metric = g.metric
                                      AND t.period_start = g.period_start), 0))
         RETURNING g.organization_id, g.metric",
        organizations,
        reason.as_str()
    )
    .fetch_all(conn)
    .await?;
    let ended = rows.into_iter().map(|row| Ended {
        organization_id: row.organization_id,
        metric: row.metric,
        reason,
    });
    Ok(ended.collect())
}

/// Deletes grace periods that ended, in billing periods that ended, more than
/// `days` days ago. One in a running period stays: it keeps a second from
/// starting.
pub async fn cleanup(conn: &mut PgConnection, days: i32) -> Result<u64, sqlx::Error> {
    let removed = sqlx::query!(
        "WITH old AS MATERIALIZED (
           SELECT organization_id, metric, period_start FROM grace_periods
            WHERE ended_at < now() - make_interval(days => $1)
              AND period_end < now() - make_interval(days => $1)
              FOR UPDATE SKIP LOCKED)
         DELETE FROM grace_periods g USING old
          WHERE g.organization_id = old.organization_id AND g.metric = old.metric
            AND g.period_start = old.period_start",
        days
    )
    .execute(conn)
    .await?;
    Ok(removed.rows_affected())
}
