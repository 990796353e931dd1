//! SQL that shows events and dead letters.

use jiff_sqlx::ToSqlx as _;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::PgConnection;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::event_log::bucket_of;

/// An event in a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = WebhookEvent)]
pub struct Listed {
    pub event_id: String,
    pub event_type: String,
    #[schema(required)]
    pub organization_id: Option<Uuid>,
    pub received_at: jiff::Timestamp,
    pub processed: bool,
    #[schema(required)]
    pub outcome: Option<String>,
    pub retry_count: i32,
    #[schema(required)]
    pub next_retry_at: Option<jiff::Timestamp>,
    #[schema(required)]
    pub error_message: Option<String>,
}

/// Which events to show. `before` is the position of the last one shown.
#[derive(Debug, Default, Clone)]
pub struct EventFilter {
    pub event_type: Option<String>,
    pub organization_id: Option<Uuid>,
    pub processed: Option<bool>,
    pub before: Option<(jiff::Timestamp, String)>,
}

/// Up to `limit` events, newest first.
pub async fn page(
    conn: &mut PgConnection,
    filter: &EventFilter,
    limit: i64,
) -> Result<Vec<Listed>, sqlx::Error> {
    let before = filter.before.as_ref();
    let rows = sqlx::query!(
        "SELECT stripe_event_id, event_type, organization_id, received_at, processed, outcome,
                retry_count, next_retry_at, error_message
           FROM webhook_events
          WHERE ($1::text IS NULL OR event_type = $1)
            AND ($2::uuid IS NULL OR organization_id = $2)
            AND ($3::boolean IS NULL OR processed = $3)
            AND ($4::timestamptz IS NULL OR (received_at, stripe_event_id) < ($4, $5))
          ORDER BY received_at DESC, stripe_event_id DESC LIMIT $6",
        filter.event_type,
        filter.organization_id,
        filter.processed,
        before.map(|(time, _)| time.to_sqlx()) as _,
        before.map(|(_, id)| id.as_str()),
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Listed {
            event_id: row.stripe_event_id,
            event_type: row.event_type,
            organization_id: row.organization_id,
            received_at: row.received_at.to_jiff(),
            processed: row.processed,
            outcome: row.outcome,
            retry_count: row.retry_count,
            next_retry_at: row.next_retry_at.map(|time| time.to_jiff()),
            error_message: row.error_message,
        })
        .collect())
}

/// A dead letter in a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLetter)]
pub struct DeadLetter {
    pub event_id: String,
    pub event_type: String,
    #[schema(required)]
    pub organization_id: Option<Uuid>,
    pub received_at: jiff::Timestamp,
    pub dead_lettered_at: jiff::Timestamp,
    pub retry_count: i32,
    pub error_message: String,
}

/// All details of an event, with its payload as received.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = WebhookEventDetails)]
pub struct Details {
    pub event_id: String,
    pub event_type: String,
    /// `processed`, `unprocessed` or `dead_letter`.
    pub state: &'static str,
    #[schema(required)]
    pub outcome: Option<String>,
    #[schema(required)]
    pub organization_id: Option<Uuid>,
    #[schema(required)]
    pub api_version: Option<String>,
    pub livemode: bool,
    #[schema(required)]
    pub account: Option<String>,
    pub created_at: jiff::Timestamp,
    pub received_at: jiff::Timestamp,
    #[schema(required)]
    pub processed_at: Option<jiff::Timestamp>,
    pub retry_count: i32,
    #[schema(required)]
    pub next_retry_at: Option<jiff::Timestamp>,
    #[schema(required)]
    pub error_message: Option<String>,
    /// Each failed attempt, oldest first.
    #[schema(value_type = Vec<Object>)]
    pub attempts: Value,
    #[schema(value_type = Object)]
    pub payload: Box<RawValue>,
}

pub async fn show(conn: &mut PgConnection, event_id: &str) -> Result<Option<Details>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT event_type AS "event_type!", api_version, livemode AS "livemode!", account,
                  event_created_at AS "created_at!", payload AS "payload!: Json<Box<RawValue>>",
                  received_at AS "received_at!", organization_id, retry_count AS "retry_count!",
                  error_message, attempts AS "attempts!", processed, processed_at, outcome,
                  next_retry_at
             FROM (SELECT bucket, stripe_event_id, event_type, api_version, livemode, account,
                          event_created_at, payload, received_at, organization_id, retry_count,
                          error_message, attempts, processed, processed_at, outcome, next_retry_at
                     FROM webhook_events
                   UNION ALL
                   SELECT bucket, stripe_event_id, event_type, api_version, livemode, account,
                          event_created_at, payload, received_at, organization_id, retry_count,
                          error_message, attempts, NULL, NULL, NULL, NULL
                     FROM webhook_dead_letter_queue) known
            WHERE bucket = $1 AND stripe_event_id = $2"#,
        bucket_of(event_id),
        event_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Details {
        event_id: event_id.to_owned(),
        event_type: row.event_type,
        state: match row.processed {
            Some(true) => "processed",
            Some(false) => "unprocessed",
            None => "dead_letter",
        },
        outcome: row.outcome,
        organization_id: row.organization_id,
        api_version: row.api_version,
        livemode: row.livemode,
        account: row.account,
        created_at: row.created_at.to_jiff(),
        received_at: row.received_at.to_jiff(),
        processed_at: row.processed_at.map(|time| time.to_jiff()),
        retry_count: row.retry_count,
        next_retry_at: row.next_retry_at.map(|time| time.to_jiff()),
        error_message: row.error_message,
        attempts: row.attempts,
        payload: row.payload.0,
    }))
}
