//! `/api/operator/webhook-events`, `/dead-letters` and `/bulk-actions`. Every access
//! is in the audit log: of the event's organization, or of the operators if it
//! has none.

mod bulk;
mod dead_letters;
mod events;
mod replays;

pub use bulk::BulkList;
pub use dead_letters::{LettersQuery, is_dead};
pub use events::EventsQuery;
pub use replays::ReplayedEvent;

use std::sync::Arc;

use jiff::Timestamp;
use utoipa_axum::routes;

use crate::audit::{self, NewEntry};
use crate::db::WorkerTx;
use crate::server::Shared;
use crate::server::problem::Problem;
use crate::server::routes::{Routes, operator};
use crate::tenancy::auth::Operator;
use crate::webhooks::SHOWN;
use crate::webhooks::inspect::{self, Details};
use crate::webhooks::worker::Processor;

/// The handlers' dependencies.
#[derive(Clone)]
pub struct OperatorState {
    pub shared: Shared,
    pub processor: Arc<Processor>,
}

pub fn routes() -> Routes<OperatorState> {
    Routes::new()
        .route(routes!(events::list), operator())
        .route(routes!(events::show), operator())
        .route(routes!(dead_letters::list), operator())
        .route(routes!(dead_letters::show), operator())
        .route(routes!(dead_letters::discard), operator())
        .route(routes!(replays::one), operator())
        .route(routes!(replays::many), operator())
        .route(routes!(replays::rehearsal), operator())
        .route(routes!(bulk::list), operator())
        .route(routes!(bulk::start), operator())
        .route(routes!(bulk::matching), operator())
        .route(routes!(bulk::show), operator())
        .route(routes!(bulk::stop), operator())
}

/// The position of an event or a dead letter in its list.
type Position = (Timestamp, String);

impl OperatorState {
    async fn begin(&self) -> Result<WorkerTx, Problem> {
        Ok(WorkerTx::begin(&self.shared.pool).await?)
    }

    /// All details of an event; the access is recorded in the audit log.
    pub async fn show(
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
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    Ok(())
}
