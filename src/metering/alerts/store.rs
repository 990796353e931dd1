//! SQL for usage alerts.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::db::RequestTx;
use crate::server::number::Number;

/// A usage alert as the organization sees it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UsageAlert)]
pub struct Alert {
    pub id: Uuid,
    #[schema(example = "llm_tokens")]
    pub metric: String,
    /// The percentage of the quota: 80, 100 or 120.
    pub threshold: i16,
    /// Usage and quota at the time the threshold was reached.
    pub usage: Number,
    pub quota: Number,
    #[schema(value_type = String, format = DateTime)]
    pub period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub period_end: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub raised_at: Timestamp,
    /// Whether the alert reached the application.
    pub delivery: Delivery,
}

/// Whether an alert reached the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    Pending,
    Delivered,
    /// All attempts failed.
    Failed,
}

/// An alert's position in the list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Position {
    pub raised_at: Timestamp,
    pub id: Uuid,
}

/// Lists an organization's alerts, newest first.
pub async fn list(
    tx: &mut RequestTx,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<Alert>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let rows = sqlx::query!(
        "SELECT id, metric, threshold, usage, quota, period_start, period_end, raised_at,
                delivered_at, failed_at
           FROM usage_alerts
          WHERE organization_id = $1
            AND ($2::timestamptz IS NULL OR (raised_at, id) < ($2, $3))
          ORDER BY raised_at DESC, id DESC LIMIT $4",
        organization_id,
        after.map(|position| position.raised_at.to_sqlx()) as _,
        after.map(|position| position.id),
        limit
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Alert {
            id: row.id,
            metric: row.metric,
            threshold: row.threshold,
            usage: Number(row.usage),
            quota: Number(row.quota),
            period_start: row.period_start.to_jiff(),
            period_end: row.period_end.to_jiff(),
            raised_at: row.raised_at.to_jiff(),
            delivery: match (row.delivered_at, row.failed_at) {
                (Some(_), _) => Delivery::Delivered,
                (None, Some(_)) => Delivery::Failed,
                (None, None) => Delivery::Pending,
            },
        })
        .collect())
}

/// An alert that all attempts failed to send.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedAlert {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub metric: String,
    pub threshold: i16,
    pub raised_at: Timestamp,
    pub attempts: i32,
    pub error: Option<String>,
}

/// Lists the failed alerts, oldest first.
pub async fn list_failed(conn: &mut PgConnection) -> Result<Vec<FailedAlert>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, id, metric, threshold, raised_at, attempts, error_message
           FROM usage_alerts WHERE failed_at IS NOT NULL ORDER BY raised_at, id"
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| FailedAlert {
            organization_id: row.organization_id,
            id: row.id,
            metric: row.metric,
            threshold: row.threshold,
            raised_at: row.raised_at.to_jiff(),
            attempts: row.attempts,
            error: row.error_message,
        })
        .collect())
}
