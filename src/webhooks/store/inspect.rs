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
    /// Those received from this time on.
    pub since: Option<jiff::Timestamp>,
    /// Those received before this time.
    pub until: Option<jiff::Timestamp>,
    pub before: Option<(jiff::Timestamp, String)>,
}

/// A row of a list, as the queries below read it.
struct Row {
    stripe_event_id: String,
    event_type: String,
    organization_id: Option<Uuid>,
    received_at: jiff_sqlx::Timestamp,
    processed: bool,
    outcome: Option<String>,
    retry_count: i32,
    next_retry_at: Option<jiff_sqlx::Timestamp>,
    error_message: Option<String>,
}

impl From<Row> for Listed {
    fn from(row: Row) -> Self {
        Self {
            event_id: row.stripe_event_id,
            event_type: row.event_type,
            organization_id: row.organization_id,
            received_at: row.received_at.to_jiff(),
            processed: row.processed,
            outcome: row.outcome,
            retry_count: row.retry_count,
            next_retry_at: row.next_retry_at.map(|time| time.to_jiff()),
            error_message: row.error_message,
        }
    }
}

/// One page of what each of `$part` finds, each part by an index of its own.
macro_rules! page_of {
    ($conn:expr, $filter:expr, $limit:expr, $first:literal $(, $part:literal)*) => {{
        let before = $filter.before.as_ref();
        sqlx::query_as!(
            Row,
            "SELECT stripe_event_id AS \"stripe_event_id!\", event_type AS \"event_type!\", organization_id,
                    received_at AS \"received_at!\", processed AS \"processed!\", outcome,
                    retry_count AS \"retry_count!\", next_retry_at, error_message
               FROM ((SELECT * FROM webhook_events
                       WHERE " + $first + "
                         AND ($1::text IS NULL OR event_type = $1)
                         AND ($2::uuid IS NULL OR organization_id = $2)
                         AND ($3::boolean IS NULL OR processed = $3)
                         AND received_at <= coalesce($4::timestamptz, 'infinity')
                         AND received_at >= coalesce($7::timestamptz, '-infinity')
                         AND received_at < coalesce($8::timestamptz, 'infinity')
                         AND ($4 IS NULL OR (received_at, stripe_event_id) < ($4, $5))
                       ORDER BY received_at DESC, stripe_event_id DESC LIMIT $6)"
            $(+ " UNION ALL
                     (SELECT * FROM webhook_events
                       WHERE " + $part + "
                         AND ($1::text IS NULL OR event_type = $1)
                         AND ($2::uuid IS NULL OR organization_id = $2)
                         AND ($3::boolean IS NULL OR processed = $3)
                         AND received_at <= coalesce($4::timestamptz, 'infinity')
                         AND received_at >= coalesce($7::timestamptz, '-infinity')
                         AND received_at < coalesce($8::timestamptz, 'infinity')
                         AND ($4 IS NULL OR (received_at, stripe_event_id) < ($4, $5))
                       ORDER BY received_at DESC, stripe_event_id DESC LIMIT $6)")*
            + ") parts
              ORDER BY received_at DESC, stripe_event_id DESC LIMIT $6",
            $filter.event_type,
            $filter.organization_id,
            $filter.processed,
            before.map(|(time, _)| time.to_sqlx()) as _,
            before.map(|(_, id)| id.as_str()),
            $limit,
            $filter.since.map(|time| time.to_sqlx()) as _,
            $filter.until.map(|time| time.to_sqlx()) as _
        )
        .fetch_all($conn)
        .await
    }};
}

/// Up to `limit` events of the webhook event log, newest first. Intake keeps no index of all
/// events by time, so the list is made of parts that have one; those that wait
/// are few.
pub async fn page(
    conn: &mut PgConnection,
    filter: &EventFilter,
    limit: i64,
) -> Result<Vec<Listed>, sqlx::Error> {
    let rows = if filter.organization_id.is_some() {
        page_of!(conn, filter, limit, "organization_id = $2")
    } else if filter.event_type.is_some() {
        page_of!(
            conn,
            filter,
            limit,
            "processed AND event_type = $1",
            "NOT processed"
        )
    } else {
        page_of!(
            conn,
            filter,
            limit,
            "processed AND payload_removed_at IS NULL",
            "payload_removed_at IS NOT NULL",
            "NOT processed"
        )
    };
    Ok(rows?.into_iter().map(Listed::from).collect())
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

/// Where an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventState {
    Processed,
    Unprocessed,
    DeadLetter,
}

impl EventState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Unprocessed => "unprocessed",
            Self::DeadLetter => "dead_letter",
        }
    }
}

/// All details of an event, with its payload as received.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = WebhookEventDetails)]
pub struct Details {
    pub event_id: String,
    pub event_type: String,
    #[schema(inline)]
    pub state: EventState,
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
    /// As it was received; null once it was removed.
    #[schema(required, value_type = Option<Object>)]
    pub payload: Option<Box<RawValue>>,
    /// When retention removed the payload.
    #[schema(required)]
    pub payload_removed_at: Option<jiff::Timestamp>,
}

pub async fn show(conn: &mut PgConnection, event_id: &str) -> Result<Option<Details>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT event_type AS "event_type!", api_version, livemode AS "livemode!", account,
                  event_created_at AS "created_at!", payload AS "payload!: Json<Box<RawValue>>",
                  received_at AS "received_at!", organization_id, retry_count AS "retry_count!",
                  error_message, attempts AS "attempts!", processed, processed_at, outcome,
                  next_retry_at, payload_removed_at
             FROM (SELECT bucket, stripe_event_id, event_type, api_version, livemode, account,
                          event_created_at, payload, received_at, organization_id, retry_count,
                          error_message, attempts, processed, processed_at, outcome, next_retry_at,
                          payload_removed_at
                     FROM webhook_events
                   UNION ALL
                   SELECT bucket, stripe_event_id, event_type, api_version, livemode, account,
                          event_created_at, payload, received_at, organization_id, retry_count,
                          error_message, attempts, NULL, NULL, NULL, NULL, NULL
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
            Some(true) => EventState::Processed,
            Some(false) => EventState::Unprocessed,
            None => EventState::DeadLetter,
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
        payload: row.payload_removed_at.is_none().then_some(row.payload.0),
        payload_removed_at: row.payload_removed_at.map(|time| time.to_jiff()),
    }))
}
