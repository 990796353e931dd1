//! Replay: a dead letter, or an event that was processed before, goes through
//! the real handler again.

use serde::Serialize;

use super::store::leases::Failure;
use super::store::replays::{self, Found, Place};
use super::worker::{Processor, failure_of, refused};
use crate::db::WorkerTx;
use crate::event_handlers::{self, Applied, HandlerError, StoredEvent};
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
    let (event, place) = match replays::find(tx.conn(), event_id).await? {
        Found::At(event, place) => (event, place),
        Found::InFlight => return Ok(Replayed::InFlight),
        Found::Nowhere => return Ok(Replayed::Unknown),
    };
    let handler = event_handlers::apply(tx.conn(), processor.context(), &[&event]).await;
    let (result, applied) = match handler {
        Ok(mut applied) => (applied.results.pop().flatten(), applied),
        Err(error) if crate::db::is_outage(&error) => return Err(error),
        Err(error) => (Some(Err(refused(&error))), Applied::default()),
    };
    match result {
        Some(Ok(handled)) => {
            replays::finish(tx.conn(), place, &event, &handled).await?;
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
    replays::add_attempt(tx.conn(), event, &failure).await?;
    tx.commit().await
}
