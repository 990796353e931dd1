//! Doing it, a batch at a time, and giving way to intake.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{ENDED, Failed, Matching, Position, entry, page};
use crate::audit::{self, Actor, NewEntry};
use crate::db::{WorkerTx, WriteTx as _};
use crate::telemetry::metrics;
use crate::webhooks::backpressure::Backpressure;
use crate::webhooks::dead_letters::{discard, replay};
use crate::webhooks::store::bulk::{self as store, Claimed};
use crate::webhooks::worker::{Processor, pause_after};

/// How often to look for something to do.
pub const POLL: Duration = Duration::from_secs(1);
/// Events that are looked up at a time. Another bulk action may come after them.
const BATCH: i64 = 50;

/// What the part of `serve` needs.
#[derive(Clone)]
pub struct Running {
    pub processor: Arc<Processor>,
    pub pressure: Arc<Backpressure>,
    pub stop: CancellationToken,
}

/// One event of a bulk action that is under way.
pub struct Step<'a> {
    claimed: &'a Claimed,
    lease: Uuid,
    position: Position,
}

/// What came of an event.
#[derive(Debug, Clone)]
pub enum Came {
    Succeeded,
    Failed(String),
    Skipped,
}

impl Came {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(_) => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl Step<'_> {
    /// The audit entry for what is done with the event.
    pub fn did(&self, action: &'static str, organization: Option<Uuid>, id: String) -> NewEntry {
        let by = self.claimed.requested_by;
        NewEntry {
            organization_id: organization.unwrap_or(audit::OPERATORS),
            metadata: match by {
                Some(_) => json!({"operator": true, "bulkAction": self.claimed.id}),
                // A key's, or the command line's: the entry of its beginning says whose.
                None => json!({"bulkAction": self.claimed.id}),
            },
            ..entry(
                action,
                by.map_or(Actor::System, Actor::User),
                "webhook_event",
                id,
            )
        }
    }

    /// Enters that this event is done, in the transaction of what was done. False if it may
    /// not be: somebody stopped it, or another replica has taken over.
    pub async fn advance(&self, tx: &mut WorkerTx, came: Came) -> Result<bool, sqlx::Error> {
        let failed = match &came {
            Came::Failed(error) => Some(Failed {
                event_id: self.position.1.clone(),
                error: error.clone(),
            }),
            _ => None,
        };
        let (id, lease) = (self.claimed.id, self.lease);
        let advanced = store::advance(
            tx.conn(),
            (id, lease),
            &self.position,
            came.as_str(),
            failed,
        )
        .await?;
        let action = self.claimed.act.as_str();
        if advanced {
            tx.after_commit(move || metrics::bulk::event(action, came.as_str()));
        }
        Ok(advanced)
    }
}

/// Does the next batch, if there is anything to do. Returns whether there may be more.
///
/// It works on a thread for blocking work: the compiler cannot prove that the projection's
/// future is `Send`.
pub async fn run_some(running: Running) -> Result<bool, sqlx::Error> {
    replay::apart(async move || batch(&running).await).await
}

async fn batch(running: &Running) -> Result<bool, sqlx::Error> {
    let pool = &running.processor.pool;
    let lease = Uuid::now_v7();
    let mut tx = WorkerTx::begin(pool).await?;
    metrics::bulk::open(store::open(tx.conn()).await?);
    let claimed = store::claim(tx.conn(), lease).await?;
    tx.commit().await?;
    let Some(claimed) = claimed else {
        return Ok(false);
    };
    let worked = work(running, &claimed, lease).await;
    match worked {
        Ok(true) => end(running, &claimed, lease).await?,
        // Another may go on at once.
        Ok(false) | Err(_) => {
            let mut tx = WorkerTx::begin(pool).await?;
            store::release(tx.conn(), claimed.id, lease).await?;
            tx.commit().await?;
        }
    }
    worked.map(|_| true)
}

/// Does up to a batch of events; whether nothing is left.
async fn work(running: &Running, claimed: &Claimed, lease: Uuid) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(&running.processor.pool).await?;
    let bounds = (claimed.position.clone(), Some(claimed.through));
    let events = page(tx.conn(), claimed.act, &claimed.filter, bounds, BATCH).await?;
    tx.commit().await?;
    for event in &events {
        if running.stop.is_cancelled() {
            return Ok(false);
        }
        let begun = Instant::now();
        let step = Step {
            claimed,
            lease,
            position: event.position(),
        };
        if !step_of(running, &step, event).await? {
            return Ok(false);
        }
        if running.pressure.is_high() {
            pause_after(begun.elapsed(), &running.stop).await;
        }
    }
    Ok(i64::try_from(events.len()).unwrap_or(i64::MAX) < BATCH)
}

/// Does one event; false if it is not to go on.
async fn step_of(
    running: &Running,
    step: &Step<'_>,
    event: &Matching,
) -> Result<bool, sqlx::Error> {
    let processor = &*running.processor;
    let doing = async {
        match step.claimed.act.discards() {
            true => discard::discard_in_bulk(&processor.pool, &event.event_id, step).await,
            false => replay::replay_in_bulk(processor, &event.event_id, step).await,
        }
    };
    // An event that makes its handler panic fails, and the next is done.
    match AssertUnwindSafe(doing).catch_unwind().await {
        Ok(done) => done,
        Err(_) => {
            let mut tx = WorkerTx::begin(&processor.pool).await?;
            let why = "the handler panicked; see the log for the location".to_owned();
            let advanced = step.advance(&mut tx, Came::Failed(why)).await?;
            tx.commit().await?;
            Ok(advanced)
        }
    }
}

/// Nothing is left: it is done, unless somebody stopped it meanwhile.
async fn end(running: &Running, claimed: &Claimed, lease: Uuid) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(&running.processor.pool).await?;
    if !store::end(tx.conn(), claimed.id, Some(lease)).await? {
        return Ok(());
    }
    let Some(action) = store::get(tx.conn(), claimed.id).await? else {
        return Ok(());
    };
    let id = claimed.id.to_string();
    let mut entry = entry(ENDED, Actor::System, "bulk_action", id);
    entry.after = Some(action.counts());
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    let (succeeded, failed, skipped) = (action.succeeded, action.failed, action.skipped);
    tracing::info!(bulk_action = %claimed.id, succeeded, failed, skipped, "Bulk action completed");
    Ok(())
}
