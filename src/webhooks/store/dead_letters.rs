//! SQL of the dead letters, for operators.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::inspect::DeadLetter;
use crate::event_log::bucket_of;

/// Which dead letters to show. `after` is the position of the last one shown.
#[derive(Debug, Default, Clone)]
pub struct Filter {
    pub event_type: Option<String>,
    pub organization_id: Option<Uuid>,
    pub after: Option<(Timestamp, String)>,
}

/// Up to `limit` dead letters, oldest first.
pub async fn page(
    conn: &mut PgConnection,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let after = filter.after.as_ref();
    let rows = sqlx::query!(
        "SELECT stripe_event_id, event_type, organization_id, received_at, dead_lettered_at,
                retry_count, error_message
           FROM webhook_dead_letter_queue
          WHERE ($1::text IS NULL OR event_type = $1)
            AND ($2::uuid IS NULL OR organization_id = $2)
            AND ($3::timestamptz IS NULL OR (dead_lettered_at, stripe_event_id) > ($3, $4))
          ORDER BY dead_lettered_at, stripe_event_id LIMIT $5",
        filter.event_type,
        filter.organization_id,
        after.map(|(time, _)| time.to_sqlx()) as _,
        after.map(|(_, id)| id.as_str()),
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

pub async fn is_there(conn: &mut PgConnection, event_id: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM webhook_dead_letter_queue
                           WHERE bucket = $1 AND stripe_event_id = $2) AS "known!""#,
        bucket_of(event_id),
        event_id
    )
    .fetch_one(conn)
    .await
}

/// A discarded dead letter.
pub struct Discarded {
    pub event_type: String,
    pub organization_id: Option<Uuid>,
    pub retry_count: i32,
}

/// Moves a dead letter back to the event log as processed.
pub async fn discard(
    conn: &mut PgConnection,
    event_id: &str,
) -> Result<Option<Discarded>, sqlx::Error> {
    sqlx::query_as!(
        Discarded,
        "WITH gone AS (
           DELETE FROM webhook_dead_letter_queue WHERE bucket = $1 AND stripe_event_id = $2
           RETURNING *),
         came AS (
           DELETE FROM webhook_dead_letter_sources WHERE bucket = $1 AND stripe_event_id = $2
           RETURNING source),
         kept AS (
           INSERT INTO webhook_events (
             bucket, stripe_event_id, event_type, api_version, livemode, account,
             event_created_at, payload, received_at, organization_id, retry_count, attempts,
             processed, processed_at, outcome, source)
           SELECT bucket, stripe_event_id, event_type, api_version, livemode, account,
                  event_created_at, payload, received_at, organization_id, retry_count, attempts,
                  true, now(), 'discarded', coalesce((SELECT source FROM came), 'delivery')
             FROM gone ON CONFLICT DO NOTHING)
         SELECT event_type, organization_id, retry_count FROM gone",
        bucket_of(event_id),
        event_id
    )
    .fetch_optional(conn)
    .await
}
