//! Looking at the inbox and the dead letters.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::inbox::bucket_of;

/// An event in a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    pub event_id: String,
    pub event_type: String,
    pub organization_id: Option<Uuid>,
    pub received_at: jiff::Timestamp,
    pub processed: bool,
    pub outcome: Option<String>,
    pub retry_count: i32,
    pub next_retry_at: Option<jiff::Timestamp>,
    pub error_message: Option<String>,
}

/// The newest events of the inbox.
pub async fn list(
    conn: &mut PgConnection,
    unprocessed_only: bool,
    limit: i64,
) -> Result<Vec<Listed>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT stripe_event_id, event_type, organization_id, received_at, processed, outcome,
                retry_count, next_retry_at, error_message
           FROM webhook_events WHERE NOT (processed AND $1)
          ORDER BY received_at DESC LIMIT $2",
        unprocessed_only,
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
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    pub event_id: String,
    pub event_type: String,
    pub organization_id: Option<Uuid>,
    pub received_at: jiff::Timestamp,
    pub dead_lettered_at: jiff::Timestamp,
    pub retry_count: i32,
    pub error_message: String,
}

/// The dead letters, oldest first; of one type, if it is given.
pub async fn dead_letters(
    conn: &mut PgConnection,
    event_type: Option<&str>,
    limit: Option<i64>,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT stripe_event_id, event_type, organization_id, received_at, dead_lettered_at,
                retry_count, error_message
           FROM webhook_dead_letter_queue WHERE $1::text IS NULL OR event_type = $1
          ORDER BY dead_lettered_at, stripe_event_id LIMIT $2",
        event_type,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| DeadLetter {
            event_id: row.stripe_event_id,
            event_type: row.event_type,
            organization_id: row.organization_id,
            received_at: row.received_at.to_jiff(),
            dead_lettered_at: row.dead_lettered_at.to_jiff(),
            retry_count: row.retry_count,
            error_message: row.error_message,
        })
        .collect())
}

/// Everything that is known of an event, its payload as it was received.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    pub event_id: String,
    pub event_type: String,
    /// `processed`, `unprocessed` or `dead_letter`.
    pub state: &'static str,
    pub outcome: Option<String>,
    pub organization_id: Option<Uuid>,
    pub api_version: Option<String>,
    pub livemode: bool,
    pub account: Option<String>,
    pub created_at: jiff::Timestamp,
    pub received_at: jiff::Timestamp,
    pub processed_at: Option<jiff::Timestamp>,
    pub retry_count: i32,
    pub next_retry_at: Option<jiff::Timestamp>,
    pub error_message: Option<String>,
    /// Each failed attempt, oldest first.
    pub attempts: Value,
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
