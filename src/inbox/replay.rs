//! Replay: a dead letter, or an event that was processed before, goes through
//! the real handler again.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tracing::Instrument as _;
use utoipa::ToSchema;
use uuid::Uuid;

use super::store::leases::Failure;
use super::store::replays::{self, Found, Place};
use super::worker::{Processor, failure_of, refused};
use crate::audit;
use crate::auth::Operator;
use crate::db::WorkerTx;
use crate::event_handlers::{self, Applied, HandlerError, StoredEvent};
use crate::metrics;

/// What a replay came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
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

pub const ACTION: &str = "webhook_event_replayed";

/// Replays one event in a transaction of its own. Two replays of one event
/// wait for each other; the dead letter goes only when the handler succeeded.
pub async fn replay(processor: &Processor, event_id: &str) -> Result<Replayed, sqlx::Error> {
    replay_for(processor, event_id, None).await
}

/// Replays one event; the audit log says for whom, and what came of it.
async fn replay_for(
    processor: &Processor,
    event_id: &str,
    operator: Option<&Operator>,
) -> Result<Replayed, sqlx::Error> {
    let mut tx = WorkerTx::begin(&processor.pool).await?;
    let (event, place, organization) = match replays::find(tx.conn(), event_id).await? {
        Found::At(event, place, organization) => (event, place, organization),
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
            let done = Done {
                event: &event,
                organization: handled.organization_id(),
                result: json!({"outcome": handled.outcome()}),
            };
            let entered = done.enter(&mut tx, operator).await?;
            tx.commit().await?;
            applied.count();
            metrics::audit_entries(entered);
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
            let done = Done {
                event: &event,
                organization,
                result: json!({"error": error.to_string()}),
            };
            record_failure(processor, done, place, &error, operator).await?;
            Ok(Replayed::Failed {
                error: error.to_string(),
            })
        }
        None => unreachable!("apply answers for each event it was given"),
    }
}

/// Replays one event on a thread beside intake's, for an operator.
pub async fn replay_apart(
    processor: Arc<Processor>,
    event_id: String,
    operator: Operator,
) -> Result<Replayed, sqlx::Error> {
    let runtime = Handle::current();
    let span = tracing::Span::current();
    let replaying = tokio::task::spawn_blocking(move || {
        let replaying = replay_for(&processor, &event_id, Some(&operator));
        runtime.block_on(replaying.instrument(span))
    });
    match replaying.await {
        Ok(replayed) => replayed,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A replay that came to its end.
struct Done<'a> {
    event: &'a StoredEvent,
    organization: Option<Uuid>,
    result: Value,
}

impl Done<'_> {
    /// Enters it in the audit log, if an operator asked for it; the actions
    /// that were entered.
    async fn enter(
        self,
        tx: &mut WorkerTx,
        operator: Option<&Operator>,
    ) -> Result<&'static [&'static str], sqlx::Error> {
        let Some(operator) = operator else {
            return Ok(&[]);
        };
        let id = self.event.id.clone();
        let mut entry = operator.did(ACTION, self.organization, "webhook_event", id);
        entry.before = Some(json!({"eventType": self.event.event_type}));
        entry.after = Some(self.result);
        audit::enter(tx.conn(), entry).await?;
        Ok(&[ACTION])
    }
}

/// A replay that failed leaves a dead letter where it is, with one more
/// attempt; an event of the inbox stays as it was.
async fn record_failure(
    processor: &Processor,
    done: Done<'_>,
    place: Place,
    error: &HandlerError,
    operator: Option<&Operator>,
) -> Result<(), sqlx::Error> {
    let event = done.event;
    tracing::warn!(event_id = event.id, event_type = event.event_type, %error, "Webhook event replay failed");
    let mut tx = WorkerTx::begin(&processor.pool).await?;
    if place == Place::DeadLetters {
        let failure: Failure = failure_of(error);
        replays::add_attempt(tx.conn(), event, &failure).await?;
    }
    let entered = done.enter(&mut tx, operator).await?;
    tx.commit().await?;
    metrics::audit_entries(entered);
    Ok(())
}
