//! `/api/operator/webhook-events` and `/api/operator/dead-letters`. Every access
//! is in the audit log: of the event's organization, or of the operators if it
//! has none.

mod dead_letters;
mod events;
mod replays;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use jiff::Timestamp;
use utoipa::OpenApi;

use crate::audit::{self, NewEntry};
use crate::db::WorkerTx;
use crate::server::Shared;
use crate::server::problem::Problem;
use crate::telemetry::metrics;
use crate::tenancy::auth::Operator;
use crate::webhooks::SHOWN;
use crate::webhooks::inspect::{self, Details};
use crate::webhooks::worker::Processor;

#[derive(OpenApi)]
#[openapi(paths(
    events::list,
    events::show,
    dead_letters::list,
    dead_letters::show,
    dead_letters::discard,
    replays::one,
    replays::many
))]
pub struct Api;

/// The handlers' dependencies.
#[derive(Clone)]
struct OperatorState {
    shared: Shared,
    processor: Arc<Processor>,
}

pub fn router(shared: Shared, processor: Processor) -> Router {
    let letter = get(dead_letters::show).delete(dead_letters::discard);
    Router::new()
        .route("/api/operator/webhook-events", get(events::list))
        .route("/api/operator/webhook-events/{id}", get(events::show))
        .route("/api/operator/dead-letters", get(dead_letters::list))
        .route("/api/operator/dead-letters/{id}", letter)
        .route("/api/operator/dead-letters/replay", post(replays::many))
        .route("/api/operator/dead-letters/{id}/replay", post(replays::one))
        .with_state(OperatorState {
            shared,
            processor: Arc::new(processor),
        })
}

/// The position of an event or a dead letter in its list.
type Position = (Timestamp, String);

impl OperatorState {
    async fn begin(&self) -> Result<WorkerTx, Problem> {
        Ok(WorkerTx::begin(&self.shared.pool).await?)
    }

    /// All details of an event; the access is recorded in the audit log.
    async fn show(
        &self,
        operator: &Operator,
        event_id: &str,
        wanted: impl FnOnce(&Details) -> bool,
    ) -> Result<Option<Details>, Problem> {
        let mut tx = self.begin().await?;
        let found = inspect::show(tx.conn(), event_id).await?;
        let Some(details) = found.filter(wanted) else {
            return Ok(None);
        };
        let of = details.organization_id;
        let entry = operator.did(SHOWN, of, "webhook_event", details.event_id.clone());
        enter(tx, entry).await?;
        Ok(Some(details))
    }
}

/// Ends a read access with its audit entry.
async fn enter(mut tx: WorkerTx, entry: NewEntry) -> Result<(), Problem> {
    let action = entry.action;
    audit::enter(tx.conn(), entry).await?;
    tx.commit().await?;
    metrics::audit_entries(&[action]);
    Ok(())
}
