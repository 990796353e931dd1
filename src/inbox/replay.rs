//! Replay: a dead letter, or an event that was processed before, goes through
//! the real handler again.

use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::bucket_of;
use super::store::Failure;
use super::worker::{Processor, failure_of, refused};
use crate::db::WorkerTx;
use crate::event_handlers::{self, Applied, Handled, HandlerError, StoredEvent};
use crate::metrics;

/// What a replay came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Replayed {
    Succeeded {
        outcome: &'static str,
    },
    Failed {
        error: String,
    },
    /// A worker has it in its hands at this moment.
    InFlight,
    /// Neither the inbox nor the dead letters know it.
    Unknown,
}

/// Replays one event in a transaction of its own. Two replays of one event
/// wait for each other; the dead letter goes only when the handler succeeded.
pub async fn replay(processor: &Processor, event_id: &str) -> Result<Replayed, sqlx::Error> {
    let mut tx = WorkerTx::begin(&processor.pool).await?;
    let (event, place) = match find(tx.conn(), event_id).await? {
        Found::At(event, place) => (event, place),
        Found::InFlight => return Ok(Replayed::InFlight),
        Found::Nowhere => return Ok(Replayed::Unknown),
    };
    let handler =
        event_handlers::apply(tx.conn(), processor.context(), std::slice::from_ref(&event)).await;
    let (result, applied) = match handler {
        Ok(mut applied) => (applied.results.pop().flatten(), applied),
        Err(error) if crate::db::is_outage(&error) => return Err(error),
        Err(error) => (Some(Err(refused(&error))), Applied::default()),
    };
    match result {
        Some(Ok(handled)) => {
            place.finish(tx.conn(), &event, &handled).await?;
            tx.commit().await?;
            applied.count();
            metrics::attempt_replayed(true);
            tracing::info!(
                event_id,
                event_type = event.event_type,
                outcome = handled.outcome(),
                organization_id = handled.organization_id().map(tracing::field::display),
                "Webhook event replayed"
            );
            Ok(Replayed::Succeeded {
                outcome: handled.outcome(),
            })
        }
        Some(Err(error)) => {
            tx.rollback().await?;
            metrics::attempt_replayed(false);
            record_failure(processor, &event, place, &error).await?;
            Ok(Replayed::Failed {
                error: error.to_string(),
            })
        }
        None => unreachable!("apply answers for each event it was given"),
    }
}

/// Where an event was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Inbox,
    DeadLetters,
}

enum Found {
    At(StoredEvent, Place),
    InFlight,
    Nowhere,
}

async fn find(conn: &mut PgConnection, event_id: &str) -> Result<Found, sqlx::Error> {
    let bucket = bucket_of(event_id);
    let dead = sqlx::query!(
        r#"SELECT event_type, api_version, livemode, account, event_created_at,
                  payload::text AS "payload!"
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
        return Ok(Found::At(event, Place::DeadLetters));
    }
    let kept = sqlx::query!(
        r#"SELECT event_type, api_version, livemode, account, event_created_at,
                  payload::text AS "payload!",
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
        Some(row) => Found::At(
            event(
                row.event_type,
                row.api_version,
                row.livemode,
                row.account,
                row.event_created_at,
                row.payload,
            ),
            Place::Inbox,
        ),
    })
}

impl Place {
    /// Marks the event processed; a dead letter goes back to the inbox.
    async fn finish(
        self,
        conn: &mut PgConnection,
        event: &StoredEvent,
        handled: &Handled,
    ) -> Result<(), sqlx::Error> {
        if self == Self::DeadLetters {
            sqlx::query!(
                "WITH gone AS (
                   DELETE FROM webhook_dead_letter_queue WHERE bucket = $1 AND stripe_event_id = $2
                   RETURNING *)
                 INSERT INTO webhook_events (
                   bucket, stripe_event_id, event_type, api_version, livemode, account,
                   event_created_at, payload, received_at, retry_count, attempts)
                 SELECT bucket, stripe_event_id, event_type, api_version, livemode, account,
                        event_created_at, payload, received_at, retry_count, attempts
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
            handled.outcome(),
            handled.organization_id() as Option<Uuid>
        )
        .execute(conn)
        .await?;
        Ok(())
    }
}

/// A replay that failed leaves a dead letter where it is, with one more
/// attempt; an event of the inbox stays as it was.
async fn record_failure(
    processor: &Processor,
    event: &StoredEvent,
    place: Place,
    error: &HandlerError,
) -> Result<(), sqlx::Error> {
    tracing::warn!(event_id = event.id, event_type = event.event_type, %error, "Webhook event replay failed");
    if place == Place::Inbox {
        return Ok(());
    }
    let failure: Failure = failure_of(error);
    let mut tx = WorkerTx::begin(&processor.pool).await?;
    sqlx::query!(
        "UPDATE webhook_dead_letter_queue
            SET error_message = $3, attempts = attempts || $4::jsonb
          WHERE bucket = $1 AND stripe_event_id = $2",
        event.bucket,
        event.id,
        failure.error,
        failure.entry()
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await
}
