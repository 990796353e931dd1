//! SQL of replays.

use jiff::Timestamp;
use sqlx::PgConnection;
use uuid::Uuid;

use super::leases::{Failure, Processed};
use crate::event_log::{StoredEvent, bucket_of};

/// Where an event was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    EventLog,
    DeadLetters,
}

/// The result of looking for an event.
pub enum Found {
    /// With its organization, if known.
    At(StoredEvent, Location, Option<Uuid>),
    InFlight,
    /// Its payload was removed when its time was over.
    PayloadRemoved(Timestamp),
    Nowhere,
}

/// Whether an event names an account.
pub async fn names_account(conn: &mut PgConnection, event_id: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM webhook_events
                           WHERE bucket = $1 AND stripe_event_id = $2 AND account IS NOT NULL)
               OR EXISTS (SELECT FROM webhook_dead_letter_queue
                           WHERE bucket = $1 AND stripe_event_id = $2 AND account IS NOT NULL)
               AS "named!""#,
        bucket_of(event_id),
        event_id
    )
    .fetch_one(conn)
    .await
}

/// Finds and locks an event.
pub async fn find(conn: &mut PgConnection, event_id: &str) -> Result<Found, sqlx::Error> {
    let bucket = bucket_of(event_id);
    let dead = sqlx::query!(
        r#"SELECT event_type, api_version, livemode, account, event_created_at,
                  payload::text AS "payload!", organization_id
             FROM webhook_dead_letter_queue WHERE bucket = $1 AND stripe_event_id = $2 FOR UPDATE"#,
        bucket,
        event_id
    )
    .fetch_optional(&mut *conn)
    .await?;
    let event =
        |event_type, api_version, livemode, account, created: jiff_sqlx::Timestamp, payload| {
            StoredEvent {
                bucket,
                id: event_id.to_owned(),
                event_type,
                api_version,
                livemode,
                account,
                created: created.to_jiff(),
                payload,
            }
        };
    if let Some(row) = dead {
        let event = event(
            row.event_type,
            row.api_version,
            row.livemode,
            row.account,
            row.event_created_at,
            row.payload,
        );
        return Ok(Found::At(event, Location::DeadLetters, row.organization_id));
    }
    let kept = sqlx::query!(
        r#"SELECT event_type, api_version, livemode, account, event_created_at,
                  payload::text AS "payload!", payload_removed_at, organization_id,
                  coalesce(NOT processed AND lease_expires_at > now(), false) AS "leased!"
             FROM webhook_events WHERE bucket = $1 AND stripe_event_id = $2 FOR UPDATE"#,
        bucket,
        event_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(match kept {
        None => Found::Nowhere,
        Some(row) if row.leased => Found::InFlight,
        Some(row) if let Some(at) = row.payload_removed_at => Found::PayloadRemoved(at.to_jiff()),
        Some(row) => Found::At(
            event(
                row.event_type,
                row.api_version,
                row.livemode,
                row.account,
                row.event_created_at,
                row.payload,
            ),
            Location::EventLog,
            row.organization_id,
        ),
    })
}

/// Marks the event as processed; a dead letter moves back to the event log.
pub async fn finish(
    conn: &mut PgConnection,
    location: Location,
    processed: Processed<'_>,
) -> Result<(), sqlx::Error> {
    let event = processed.event;
    if location == Location::DeadLetters {
        sqlx::query!(
            "WITH gone AS (
               DELETE FROM webhook_dead_letter_queue WHERE bucket = $1 AND stripe_event_id = $2
               RETURNING *),
             came AS (
               DELETE FROM webhook_dead_letter_sources WHERE bucket = $1 AND stripe_event_id = $2
               RETURNING source)
             INSERT INTO webhook_events (
               bucket, stripe_event_id, event_type, api_version, livemode, account,
               event_created_at, payload, received_at, retry_count, attempts, source)
             SELECT bucket, stripe_event_id, event_type, api_version, livemode, account,
                    event_created_at, payload, received_at, retry_count, attempts,
                    coalesce((SELECT source FROM came), 'delivery')
               FROM gone ON CONFLICT DO NOTHING",
            event.bucket,
            event.id
        )
        .execute(&mut *conn)
        .await?;
    }
    sqlx::query!(
        "UPDATE webhook_events
            SET processed = true, processed_at = now(), outcome = $3, organization_id = $4,
                next_retry_at = NULL, error_message = NULL, waiting_for_customer_id = NULL,
                lease_id = NULL, lease_expires_at = NULL
          WHERE bucket = $1 AND stripe_event_id = $2",
        event.bucket,
        event.id,
        processed.outcome,
        processed.organization_id as Option<Uuid>
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Adds a failed attempt to a dead letter.
pub async fn add_attempt(
    conn: &mut PgConnection,
    event: &StoredEvent,
    failure: &Failure,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE webhook_dead_letter_queue
            SET error_message = $3, attempts = attempts || $4::jsonb
          WHERE bucket = $1 AND stripe_event_id = $2",
        event.bucket,
        event.id,
        failure.error,
        failure.entry()
    )
    .execute(conn)
    .await?;
    Ok(())
}
