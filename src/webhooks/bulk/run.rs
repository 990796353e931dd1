//! Doing it, a batch at a time, and giving way to intake.

use std::convert::Infallible;
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
/// How often the lease is renewed while an event is done.
pub const RENEW_EVERY: Duration = Duration::from_secs(5);
/// After how many tries in vain an event is counted as failed, so that the others are done.
const MOST_TRIES: i32 = 5;
/// Events that are looked up at a time. Another bulk action may come after them.
const BATCH: i64 = 50;

/// What the part of `serve` needs.
#[derive(Clone)]
pub struct Running {
    pub processor: Arc<Processor>,
    pub pressure: Arc<Backpressure>,
    pub stop: CancellationToken,
    pub renew_every: Duration,
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
        let user = self.claimed.requested_by.map(Actor::User);
        let by = user.or(self.claimed.requested_by_key.map(Actor::ApiKey));
        NewEntry {
            organization_id: organization.unwrap_or(audit::OPERATORS),
            metadata: match by {
                Some(_) => json!({"operator": true, "bulkAction": self.claimed.id}),
                None => json!({"by": "command line", "bulkAction": self.claimed.id}),
            },
            ..entry(action, by.unwrap_or(Actor::System), "webhook_event", id)
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
        Ok(false) => {
            let mut tx = WorkerTx::begin(pool).await?;
            store::release(tx.conn(), claimed.id, lease).await?;
            tx.commit().await?;
        }
        Err(ref error) => {
            let mut tx = WorkerTx::begin(pool).await?;
            store::set_back(tx.conn(), (claimed.id, lease), &error.to_string()).await?;
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
    for (n, event) in events.iter().enumerate() {
        if running.stop.is_cancelled() {
            return Ok(false);
        }
        let begun = Instant::now();
        let step = Step {
            claimed,
            lease,
            position: event.position(),
        };
        let goes_on = match n == 0 && claimed.tries > MOST_TRIES {
            true => give_up(running, &step).await?,
            false => step_of(running, &step, event).await?,
        };
        if !goes_on {
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
    let doing = AssertUnwindSafe(doing).catch_unwind();
    let done = tokio::select! {
        done = doing => done,
        never = hold(running, step) => match never {},
    };
    match done {
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

/// Renews the lease, for as long as an event takes: two replicas would take it from one another
/// else, again and again.
async fn hold(running: &Running, step: &Step<'_>) -> Infallible {
    loop {
        tokio::time::sleep(running.renew_every).await;
        let renewed = async {
            let mut tx = WorkerTx::begin(&running.processor.pool).await?;
            store::renew(tx.conn(), step.claimed.id, step.lease).await?;
            tx.commit().await
        };
        if let Err(error) = renewed.await {
            tracing::warn!(%error, bulk_action = %step.claimed.id, "the lease of a bulk action was not renewed");
        }
    }
}

/// Counts an event as failed that could not be done, nor entered as failed, again and again: it
/// would keep the others from being done.
async fn give_up(running: &Running, step: &Step<'_>) -> Result<bool, sqlx::Error> {
    let last = step.claimed.last_error.as_deref();
    let why = last.unwrap_or("the process ended meanwhile");
    let why = format!("not done after {MOST_TRIES} tries: {why}");
    let event_id = &step.position.1;
    tracing::error!(event_id, bulk_action = %step.claimed.id, error = why, "Event of a bulk action given up");
    let mut tx = WorkerTx::begin(&running.processor.pool).await?;
    let advanced = step.advance(&mut tx, Came::Failed(why)).await?;
    tx.commit().await?;
    Ok(advanced)
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
