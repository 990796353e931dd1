//! Replay: applies a dead letter or a processed event again, through the same
//! projection.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tracing::Instrument as _;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::audit;
use crate::db::{self, WorkerTx};
use crate::event_log::StoredEvent;
use crate::projection::{self, Applied, Batch, Context, Handled, HandlerError};
use crate::telemetry::metrics;
use crate::tenancy::auth::Operator;
use crate::webhooks::store::leases::Failure;
use crate::webhooks::store::replays::{self, Found, Location};
use crate::webhooks::worker::{Processor, failure_of, processed, refused};

/// The result of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Replayed {
    Succeeded {
        outcome: &'static str,
    },
    Failed {
        error: String,
    },
    /// A worker is processing it.
    InFlight,
    /// Retention removed its payload (`RETENTION_WEBHOOK_PAYLOAD_DAYS`): nothing is left
    /// to replay.
    #[serde(rename_all = "camelCase")]
    PayloadRemoved {
        removed_at: Timestamp,
    },
    /// It is neither in the event log nor among the dead letters.
    Unknown,
}

pub const ACTION: &str = "webhook_event_replayed";

/// How long a replay waits for an organization that another transaction holds.
const WAIT: &str = "5s";

/// Replays one event in its own transaction. Two replays of one event wait for
/// each other; the dead letter is deleted only on success.
pub async fn replay(processor: &Processor, event_id: &str) -> Result<Replayed, sqlx::Error> {
    replay_for(processor, event_id, None).await
}

/// Replays one event; the audit log records the operator and the result.
async fn replay_for(
    processor: &Processor,
    event_id: &str,
    operator: Option<&Operator>,
) -> Result<Replayed, sqlx::Error> {
    let context = context(processor, event_id).await?;
    let mut tx = WorkerTx::begin_impatient(&processor.pool, WAIT).await?;
    let (event, location, organization) = match find(&mut tx, event_id).await? {
        Ok(found) => found,
        Err(replayed) => return Ok(replayed),
    };
    let (result, applied) = handle(&mut tx, &context, &event).await?;
    match result {
        Ok(handled) => {
            replays::finish(tx.conn(), location, processed(&event, &handled)).await?;
            let done = Done {
                event: &event,
                organization: handled.organization_id(),
                result: json!({"outcome": handled.outcome()}),
            };
            done.enter(&mut tx, operator).await?;
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
        Err(error) => {
            tx.rollback().await?;
            metrics::attempt_replayed(false);
            let done = Done {
                event: &event,
                organization,
                result: json!({"error": error.to_string()}),
            };
            record_failure(processor, done, location, &error, operator).await?;
            Ok(Replayed::Failed {
                error: error.to_string(),
            })
        }
    }
}

/// The context for applying the event. No transaction is open while Stripe is
/// asked for the account of the key.
async fn context<'a>(processor: &'a Processor, event_id: &str) -> Result<Context<'a>, sqlx::Error> {
    let mut tx = WorkerTx::begin(&processor.pool).await?;
    let names_account = replays::names_account(tx.conn(), event_id).await?;
    tx.commit().await?;
    Ok(processor.context(names_account).await)
}

/// An event, its location, and its organization, if known.
type Kept = (StoredEvent, Location, Option<Uuid>);

/// The event, or why there is nothing to replay.
async fn find(tx: &mut WorkerTx, event_id: &str) -> Result<Result<Kept, Replayed>, sqlx::Error> {
    Ok(match replays::find(tx.conn(), event_id).await? {
        Found::At(event, location, organization) => Ok((event, location, organization)),
        Found::InFlight => Err(Replayed::InFlight),
        Found::PayloadRemoved(removed_at) => Err(Replayed::PayloadRemoved { removed_at }),
        Found::Nowhere => Err(Replayed::Unknown),
    })
}

/// Applies one event.
async fn handle(
    tx: &mut WorkerTx,
    context: &Context<'_>,
    event: &StoredEvent,
) -> Result<(Result<Handled, HandlerError>, Applied), sqlx::Error> {
    let mut batch = Batch {
        wait: true,
        ..Batch::default()
    };
    match projection::apply(tx.conn(), context, &[event], &mut batch).await {
        Ok(mut applied) => {
            let result = applied.results.pop();
            Ok((result.expect("one event has one result"), applied))
        }
        Err(error) if db::is_outage(&error) => Err(error),
        Err(error) => Ok((Err(refused(&error)), Applied::default())),
    }
}

/// Applies an event as a replay would and rolls back, to show the result of a
/// replay.
pub async fn rehearse(processor: &Processor, event_id: &str) -> Result<Replayed, sqlx::Error> {
    let context = context(processor, event_id).await?;
    let mut tx = WorkerTx::begin_impatient(&processor.pool, WAIT).await?;
    let (event, location, _) = match find(&mut tx, event_id).await? {
        Ok(found) => found,
        Err(replayed) => return Ok(replayed),
    };
    let (result, _) = handle(&mut tx, &context, &event).await?;
    let rehearsed = match result {
        Ok(handled) => replays::finish(tx.conn(), location, processed(&event, &handled))
            .await
            .map(|()| Replayed::Succeeded {
                outcome: handled.outcome(),
            }),
        Err(error) => Ok(Replayed::Failed {
            error: error.to_string(),
        }),
    };
    tx.rollback().await?;
    rehearsed
}

/// Replays one event for an operator, on a blocking thread: the compiler cannot
/// prove that the projection's future is `Send`.
pub async fn replay_apart(
    processor: Arc<Processor>,
    event_id: String,
    operator: Operator,
) -> Result<Replayed, sqlx::Error> {
    apart(async move || replay_for(&processor, &event_id, Some(&operator)).await).await
}

/// Rehearses one event in the same way.
pub async fn rehearse_apart(
    processor: Arc<Processor>,
    event_id: String,
) -> Result<Replayed, sqlx::Error> {
    apart(async move || rehearse(&processor, &event_id).await).await
}

async fn apart(
    work: impl AsyncFnOnce() -> Result<Replayed, sqlx::Error> + Send + 'static,
) -> Result<Replayed, sqlx::Error> {
    let runtime = Handle::current();
    let span = tracing::Span::current();
    let working = tokio::task::spawn_blocking(move || runtime.block_on(work().instrument(span)));
    match working.await {
        Ok(replayed) => replayed,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A finished replay.
struct Done<'a> {
    event: &'a StoredEvent,
    organization: Option<Uuid>,
    result: Value,
}

impl Done<'_> {
    /// Writes its audit entry, if an operator requested it.
    async fn enter(
        self,
        tx: &mut WorkerTx,
        operator: Option<&Operator>,
    ) -> Result<(), sqlx::Error> {
        let Some(operator) = operator else {
            return Ok(());
        };
        let id = self.event.id.clone();
        let mut entry = operator.did(ACTION, self.organization, "webhook_event", id);
        entry.before = Some(json!({"eventType": self.event.event_type}));
        entry.after = Some(self.result);
        audit::record_one(tx, entry).await
    }
}

/// Records a failed replay: a dead letter gets one more attempt, a processed event
/// stays unchanged.
async fn record_failure(
    processor: &Processor,
    done: Done<'_>,
    location: Location,
    error: &HandlerError,
    operator: Option<&Operator>,
) -> Result<(), sqlx::Error> {
    let event = done.event;
    tracing::warn!(event_id = event.id, event_type = event.event_type, %error, "Webhook event replay failed");
    let mut tx = WorkerTx::begin(&processor.pool).await?;
    if location == Location::DeadLetters {
        let failure: Failure = failure_of(error);
        replays::add_attempt(tx.conn(), event, &failure).await?;
    }
    done.enter(&mut tx, operator).await?;
    tx.commit().await?;
    Ok(())
}
