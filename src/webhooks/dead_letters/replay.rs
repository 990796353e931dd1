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
use crate::webhooks::bulk::{Came, Step};
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
pub(super) const WAIT: &str = "5s";

/// Replays one event in its own transaction. Two replays of one event wait for
/// each other; the dead letter is deleted only on success.
pub async fn replay(processor: &Processor, event_id: &str) -> Result<Replayed, sqlx::Error> {
    let replayed = replay_for(processor, event_id, &Behalf::CommandLine).await?;
    Ok(replayed.expect("nobody takes it over"))
}

/// Replays one event of a bulk action; false if that is not to go on.
pub async fn replay_in_bulk(
    processor: &Processor,
    event_id: &str,
    step: &Step<'_>,
) -> Result<bool, sqlx::Error> {
    let replayed = replay_for(processor, event_id, &Behalf::Bulk(step)).await?;
    Ok(replayed.is_some())
}

/// On whose behalf an event is replayed.
enum Behalf<'a> {
    CommandLine,
    Operator(&'a Operator),
    Bulk(&'a Step<'a>),
}

impl Behalf<'_> {
    /// Enters what came of it where a bulk action says how far it is. False if that was
    /// stopped, or is somebody else's by now.
    async fn advance(&self, tx: &mut WorkerTx, came: Came) -> Result<bool, sqlx::Error> {
        match self {
            Self::Bulk(step) => step.advance(tx, came).await,
            _ => Ok(true),
        }
    }
}

/// Replays one event; the audit log records on whose behalf, and the result. None, and
/// nothing is done, if a bulk action is not to go on.
async fn replay_for(
    processor: &Processor,
    event_id: &str,
    behalf: &Behalf<'_>,
) -> Result<Option<Replayed>, sqlx::Error> {
    let context = context(processor, event_id).await?;
    let mut tx = WorkerTx::begin_impatient(&processor.pool, WAIT).await?;
    let (event, location, organization) = match find(&mut tx, event_id).await? {
        Ok(found) => found,
        Err(replayed) => {
            let advanced = behalf.advance(&mut tx, Came::Skipped).await?;
            tx.commit().await?;
            return Ok(advanced.then_some(replayed));
        }
    };
    let (result, applied) = handle(&mut tx, &context, &event).await?;
    match result {
        Ok(handled) => {
            replays::finish(tx.conn(), location, processed(&event, &handled)).await?;
            if !behalf.advance(&mut tx, Came::Succeeded).await? {
                tx.rollback().await?;
                return Ok(None);
            }
            let done = Done {
                event: &event,
                organization: handled.organization_id(),
                result: json!({"outcome": handled.outcome()}),
            };
            done.enter(&mut tx, behalf).await?;
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
            Ok(Some(Replayed::Succeeded {
                outcome: handled.outcome(),
            }))
        }
        Err(error) => {
            tx.rollback().await?;
            let done = Done {
                event: &event,
                organization,
                result: json!({"error": error.to_string()}),
            };
            let recorded = record_failure(processor, done, location, &error, behalf).await?;
            Ok(recorded.then(|| Replayed::Failed {
                error: error.to_string(),
            }))
        }
    }
}

/// The context for applying the event. No transaction is open while Stripe is
/// asked for the account of the key.
pub(super) async fn context<'a>(
    processor: &'a Processor,
    event_id: &str,
) -> Result<Context<'a>, sqlx::Error> {
    let mut tx = WorkerTx::begin(&processor.pool).await?;
    let names_account = replays::names_account(tx.conn(), event_id).await?;
    tx.commit().await?;
    Ok(processor.context(names_account).await)
}

/// An event, its location, and its organization, if known.
pub(super) type Kept = (StoredEvent, Location, Option<Uuid>);

/// The event, or why there is nothing to replay.
pub(super) async fn find(
    tx: &mut WorkerTx,
    event_id: &str,
) -> Result<Result<Kept, Replayed>, sqlx::Error> {
    Ok(match replays::find(tx.conn(), event_id).await? {
        Found::At(event, location, organization) => Ok((event, location, organization)),
        Found::InFlight => Err(Replayed::InFlight),
        Found::PayloadRemoved(removed_at) => Err(Replayed::PayloadRemoved { removed_at }),
        Found::Nowhere => Err(Replayed::Unknown),
    })
}

/// Applies one event.
pub(super) async fn handle(
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

/// Replays one event for an operator, on a blocking thread: the compiler cannot
/// prove that the projection's future is `Send`.
pub async fn replay_apart(
    processor: Arc<Processor>,
    event_id: String,
    operator: Operator,
) -> Result<Replayed, sqlx::Error> {
    apart(async move || {
        let behalf = Behalf::Operator(&operator);
        let replayed = replay_for(&processor, &event_id, &behalf).await?;
        Ok(replayed.expect("nobody takes it over"))
    })
    .await
}

/// Works on a blocking thread.
pub async fn apart<T: Send + 'static>(
    work: impl AsyncFnOnce() -> Result<T, sqlx::Error> + Send + 'static,
) -> Result<T, sqlx::Error> {
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
    async fn enter(self, tx: &mut WorkerTx, behalf: &Behalf<'_>) -> Result<(), sqlx::Error> {
        let id = self.event.id.clone();
        let mut entry = match behalf {
            Behalf::CommandLine => return Ok(()),
            Behalf::Operator(operator) => {
                operator.did(ACTION, self.organization, "webhook_event", id)
            }
            Behalf::Bulk(step) => step.did(ACTION, self.organization, id),
        };
        entry.before = Some(json!({"eventType": self.event.event_type}));
        entry.after = Some(self.result);
        audit::record_one(tx, entry).await
    }
}

/// Records a failed replay: a dead letter gets one more attempt, a processed event
/// stays unchanged. False, and nothing is recorded, if a bulk action is not to go on.
async fn record_failure(
    processor: &Processor,
    done: Done<'_>,
    location: Location,
    error: &HandlerError,
    behalf: &Behalf<'_>,
) -> Result<bool, sqlx::Error> {
    let event = done.event;
    tracing::warn!(event_id = event.id, event_type = event.event_type, %error, "Webhook event replay failed");
    let mut tx = WorkerTx::begin(&processor.pool).await?;
    if location == Location::DeadLetters {
        let failure: Failure = failure_of(error);
        replays::add_attempt(tx.conn(), event, &failure).await?;
    }
    if !behalf
        .advance(&mut tx, Came::Failed(error.to_string()))
        .await?
    {
        tx.rollback().await?;
        return Ok(false);
    }
    done.enter(&mut tx, behalf).await?;
    tx.commit().await?;
    metrics::attempt_replayed(false);
    Ok(true)
}
