//! The workers: they claim due events under a lease, have the projection apply
//! them, and commit effects, audit entries and the processed mark together.

mod failures;
mod interrupted;
mod locked;

use std::collections::{BTreeMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use jiff::Timestamp;
use sqlx::postgres::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::backpressure::Backpressure;
use super::quarantine::Quarantine;
use super::store::leases::{self, Claimed, Processed};
use crate::catalogue::Catalogue;
use crate::config::StripeConfig;
use crate::db::{self, WorkerTx};
use crate::event_log::StoredEvent;
use crate::limits;
use crate::migrations::{self, Gate};
use crate::projection::{self, Applied, Context, Handled, HandlerError, UnknownCustomers};
use crate::stripe::account::{Account, OwnAccount};
use crate::stripe::client::Client;
use crate::telemetry;
use crate::telemetry::metrics;
use crate::telemetry::metrics::background::Runs;
use crate::telemetry::trace_context::TraceParent;
pub use failures::{failure_of, refused};
use interrupted::Interrupted;

/// The most events and bytes per transaction.
const BATCH: leases::BatchLimit = leases::BatchLimit {
    events: limits::PROCESSED_EVENTS,
    bytes: limits::PROCESSED_BYTES,
};
/// Polling interval of an idle worker that receives no notification.
pub const POLL: Duration = Duration::from_secs(1);
/// How long a batch may take before its connection is dropped: a server that
/// vanished never responds.
///
/// Shorter than the lease, so that no worker continues with events that another
/// may have taken over.
const SILENCE: Duration = Duration::from_secs(45);
const _: () = assert!(SILENCE.as_secs() < leases::LEASE_SECS.unsigned_abs());
/// How long a batch waits for a row that another transaction has locked.
const BATCH_WAIT: &str = "250ms";
/// How long the events of one organization wait for it the first time: as long as
/// another worker's batch may take.
const PATIENT_WAIT: &str = "1s";
/// How long a worker pauses while the database is unavailable.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);
/// How often to look for events with an impossible due time.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// Processes events: configuration and dependencies.
pub struct Processor {
    pub pool: PgPool,
    pub catalogue: Catalogue,
    /// The mode of the configured key, if there is one.
    pub key_is_live: Option<bool>,
    pub max_retries: u32,
    pub unknown_customers: UnknownCustomers,
    /// The account of the configured key.
    pub account: OwnAccount,
    pub quarantine: Quarantine,
    pub schema: Gate,
    pub interrupted: Interrupted,
}

/// The number of events by result.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    pub processed: u64,
    pub succeeded: u64,
    pub failed: u64,
    /// Not attempted, because another transaction holds their organizations.
    #[serde(skip_serializing_if = "is_zero")]
    pub set_aside: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Tally {
    /// Whether no event was due.
    pub fn is_empty(&self) -> bool {
        self.processed + self.set_aside == 0
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.processed += other.processed;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.set_aside += other.set_aside;
    }
}

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("another worker took over the events")]
    LeaseLost,
    #[error("the handler panicked; see the log for the location")]
    Panicked,
}

/// A batch in progress.
struct Work {
    lease_id: Uuid,
    /// Organizations to leave out.
    blocked: HashSet<Uuid>,
    /// Events of held organizations, by organization.
    held: BTreeMap<Uuid, Vec<Claimed>>,
    /// The held organizations whose lock had to be waited for.
    waited: HashSet<Uuid>,
}

/// Whether a batch waits for held organizations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Leaves out held organizations.
    None,
    /// Waits for its only organization.
    Some,
}

impl Processor {
    pub fn new(
        pool: PgPool,
        catalogue: Catalogue,
        stripe: &StripeConfig,
        client: Option<Client>,
    ) -> Self {
        Self {
            pool,
            catalogue,
            key_is_live: stripe.key_is_live,
            max_retries: stripe.max_retries,
            unknown_customers: stripe.unknown_customers,
            account: OwnAccount::of(client),
            quarantine: Quarantine::default(),
            schema: Gate::default(),
            interrupted: Interrupted::default(),
        }
    }

    /// The context for applying events. If one of them names an account, Stripe
    /// is asked for the account of the key.
    pub async fn context(&self, names_account: bool) -> Context<'_> {
        let account = match names_account {
            true => self.account.ask().await,
            false => Account::NotAsked,
        };
        Context {
            catalogue: &self.catalogue,
            key_is_live: self.key_is_live,
            unknown_customers: self.unknown_customers,
            account,
        }
    }

    /// Processes events as they become due, until `stop` is cancelled. While
    /// intake is busy, a pause of twice the batch's duration follows each batch.
    pub async fn run(
        &self,
        wake: &Notify,
        runs: &Runs,
        stop: &CancellationToken,
        pressure: &Backpressure,
    ) {
        while !stop.is_cancelled() {
            // Created before claiming, so that events stored meanwhile wake it.
            let woken = wake.notified();
            let started = Instant::now();
            let processed = self.process_due(None).await;
            runs.ended(&processed);
            let pause = match processed {
                Ok(tally) if !tally.is_empty() => {
                    if pressure.is_high() {
                        pause_after(started.elapsed(), stop).await;
                    }
                    continue;
                }
                Ok(_) => POLL,
                Err(error) => {
                    db::disk::note(&error);
                    tracing::warn!(%error, "Processing waits for the database");
                    OUTAGE_PAUSE
                }
            };
            tokio::select! {
                () = woken => {}
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Repeats `bring_back` until `stop` is cancelled.
    pub async fn keep_due(&self, stop: &CancellationToken) {
        let runs = Runs::of("event_waker", CLOCK_CHECK);
        while !stop.is_cancelled() {
            runs.ended(&self.bring_back().await);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(CLOCK_CHECK) => {}
            }
        }
    }

    /// Makes events due that a clock stepping back left waiting, and events whose
    /// owner became known. Neither keeps the other from being looked for.
    pub async fn bring_back(&self) -> Result<(), sqlx::Error> {
        let due = self.bring_back_due().await;
        if let Err(error) = &due {
            tracing::warn!(%error, "Events with an impossible due time could not be looked for");
        }
        let claimed = self.wake_claimed().await;
        if let Err(error) = &claimed {
            tracing::warn!(%error, "Events without an owner could not be looked for");
        }
        due.and(claimed)
    }

    async fn bring_back_due(&self) -> Result<(), sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let events = leases::bring_back(tx.conn()).await?;
        tx.commit().await?;
        if events > 0 {
            tracing::warn!(
                events,
                "The database's clock stepped back; the events that waited for it are due now"
            );
        }
        Ok(())
    }

    async fn wake_claimed(&self) -> Result<(), sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        projection::wake_claimed(tx.conn()).await?;
        tx.commit().await
    }

    /// Claims and processes one batch of due events, if there are any. `due_by`
    /// leaves out events that became due later.
    ///
    /// # Errors
    /// Database outages only, and a schema that lacks migrations. The problem of an event is
    /// recorded with it.
    pub async fn process_due(&self, due_by: Option<Timestamp>) -> Result<Tally, sqlx::Error> {
        self.schema.check(&self.pool).await?;
        let processing = tokio::time::timeout(SILENCE, self.process_batch(due_by));
        processing.await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn process_batch(&self, due_by: Option<Timestamp>) -> Result<Tally, sqlx::Error> {
        let mut work = Work {
            lease_id: Uuid::now_v7(),
            blocked: self.quarantine.all(),
            held: BTreeMap::new(),
            waited: HashSet::new(),
        };
        self.give_back_interrupted().await?;
        let mut tx = WorkerTx::begin_claim(&self.pool).await?;
        let claimed = leases::claim(tx.conn(), work.lease_id, due_by, BATCH).await?;
        // The answer to the commit may be what is lost.
        let unfinished = self.interrupted.unless_finished(work.lease_id, &claimed);
        tx.commit().await?;
        let tally = self.process_claimed(&mut work, claimed).await?;
        unfinished.finish();
        Ok(tally)
    }

    async fn process_claimed(
        &self,
        work: &mut Work,
        claimed: Vec<Claimed>,
    ) -> Result<Tally, sqlx::Error> {
        if claimed.is_empty() {
            return Ok(Tally::default());
        }
        let mut tally = self.process(work, claimed, Patience::None).await?;
        // Held organizations come last, one by one.
        for (organization, events) in std::mem::take(&mut work.held) {
            tally += match work.waited.contains(&organization) {
                true => self.keep_held(work, organization, events).await?,
                false => self.try_held(work.lease_id, organization, events).await?,
            };
        }
        Ok(tally)
    }

    async fn process(
        &self,
        work: &mut Work,
        claimed: Vec<Claimed>,
        patience: Patience,
    ) -> Result<Tally, sqlx::Error> {
        let started = Instant::now();
        let mut batch = projection::Batch {
            wait: patience == Patience::Some,
            blocked: work.blocked.clone(),
            owners: Vec::new(),
        };
        // A handler that panics must not take the worker with it.
        let attempt = AssertUnwindSafe(self.attempt(work.lease_id, &claimed, &mut batch));
        let attempt = attempt.catch_unwind().await;
        match attempt.unwrap_or(Err(BatchError::Panicked)) {
            Ok(applied) => {
                metrics::processing_batch(claimed.len(), started.elapsed());
                self.settle(work, claimed, applied, started).await
            }
            Err(BatchError::Database(error)) if db::is_outage(&error) => Err(error),
            // A rollback of migrations under the worker is no fault of the events.
            Err(BatchError::Database(error))
                if migrations::is_undefined(&error)
                    && let Err(outdated) = self.schema.look(&self.pool).await =>
            {
                Err(outdated)
            }
            Err(BatchError::LeaseLost) => self.process_what_is_held(work, claimed, patience).await,
            Err(BatchError::Database(error)) if db::is_lock_timeout(&error) => {
                self.isolate(work, claimed, &batch).await
            }
            Err(error) if claimed.len() > 1 => {
                tracing::info!(%error, events = claimed.len(), "A batch failed; its halves are tried separately");
                let mut first = claimed;
                let second = first.split_off(first.len() / 2);
                let mut tally = Box::pin(self.process(work, first, patience)).await?;
                tally += Box::pin(self.process(work, second, patience)).await?;
                Ok(tally)
            }
            Err(error) => {
                let result = Err(match error {
                    BatchError::Database(error) => refused(&error),
                    error => HandlerError::Refused(error.to_string()),
                });
                let applied = Applied {
                    results: vec![result],
                    ..Applied::default()
                };
                self.settle(work, claimed, applied, started).await
            }
        }
    }

    /// Applies the events and marks those that succeeded, in one transaction.
    async fn attempt(
        &self,
        lease_id: Uuid,
        claimed: &[Claimed],
        batch: &mut projection::Batch,
    ) -> Result<Applied, BatchError> {
        let events: Vec<&StoredEvent> = claimed.iter().map(|one| &one.event).collect();
        let names_account = events.iter().any(|event| event.account.is_some());
        let context = self.context(names_account).await;
        let wait = if batch.wait { PATIENT_WAIT } else { BATCH_WAIT };
        let mut tx = WorkerTx::begin_impatient(&self.pool, wait).await?;
        let applied = projection::apply(tx.conn(), &context, &events, batch).await?;
        let done: Vec<Processed<'_>> = events
            .iter()
            .zip(&applied.results)
            .filter_map(|(event, result)| Some(processed(event, result.as_ref().ok()?)))
            .collect();
        if done.is_empty() {
            tx.rollback().await?;
            return Ok(applied);
        }
        if leases::mark_processed(tx.conn(), lease_id, &done).await? < done.len() {
            return Err(BatchError::LeaseLost);
        }
        let events: Vec<&StoredEvent> = done.iter().map(|one| one.event).collect();
        leases::forget_dead_letters(tx.conn(), &events).await?;
        tx.commit().await?;
        Ok(applied)
    }

    /// Records the failures of a batch whose successes are committed.
    async fn settle(
        &self,
        work: &mut Work,
        claimed: Vec<Claimed>,
        applied: Applied,
        started: Instant,
    ) -> Result<Tally, sqlx::Error> {
        applied.count();
        let mut tally = Tally::default();
        let mut failed = Vec::new();
        for (one, result) in claimed.into_iter().zip(applied.results) {
            if let Err(HandlerError::Locked(organization)) = result {
                work.held.entry(organization).or_default().push(one);
                continue;
            }
            tally.processed += 1;
            if let Some(trace) = &one.trace {
                let processed = telemetry::Processed {
                    event_id: &one.event.id,
                    event_type: &one.event.event_type,
                    took: started.elapsed(),
                    succeeded: result.is_ok(),
                };
                telemetry::processed(trace, processed);
            }
            match result {
                Ok(handled) => {
                    tally.succeeded += 1;
                    report_success(&one, &handled);
                }
                Err(error) => {
                    tally.failed += 1;
                    failed.push((one, error));
                }
            }
        }
        self.fail(work.lease_id, &failed).await?;
        Ok(tally)
    }
}

/// Yields to intake after a batch that took `took`.
pub async fn pause_after(took: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep((2 * took).min(Duration::from_secs(1))) => {}
    }
}

/// The result of `event`, as it is recorded.
pub fn processed<'a>(event: &'a StoredEvent, handled: &Handled) -> Processed<'a> {
    Processed {
        event,
        outcome: handled.outcome(),
        organization_id: handled.organization_id(),
    }
}

fn report_success(claimed: &Claimed, handled: &Handled) {
    let event = &claimed.event;
    let waited = Timestamp::now().duration_since(claimed.received_at);
    metrics::attempt_succeeded(
        handled.outcome(),
        claimed.retry_count > 0,
        waited.try_into().unwrap_or_default(),
    );
    tracing::info!(
        event_id = event.id,
        event_type = event.event_type,
        organization_id = handled.organization_id().map(tracing::field::display),
        outcome = handled.outcome(),
        trace_id = claimed.trace.as_ref().map(TraceParent::trace_id),
        "Webhook event processed"
    );
}
