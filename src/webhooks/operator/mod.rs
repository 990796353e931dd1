//! `/api/operator/webhook-events` and `/api/operator/dead-letters`. Whoever
//! looks or acts here is in the audit log: of the organization whose event it
//! was, else of the operators.

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

/// What the handlers need.
#[derive(Clone)]
struct Inbox {
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
        .with_state(Inbox {
            shared,
            processor: Arc::new(processor),
        })
}

/// The place of an event or a dead letter in its list.
type Place = (Timestamp, String);

impl Inbox {
    async fn begin(&self) -> Result<WorkerTx, Problem> {
        Ok(WorkerTx::begin(&self.shared.pool).await?)
    }

    /// All that is known of an event, which the operator is entered to have
    /// looked at.
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

/// Ends what only looked, with its entry.
async fn enter(mut tx: WorkerTx, entry: NewEntry) -> Result<(), Problem> {
    let action = entry.action;
    audit::enter(tx.conn(), entry).await?;
    tx.commit().await?;
    metrics::audit_entries(&[action]);
    Ok(())
}
