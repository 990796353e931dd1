//! Processing: claim due events under a lease, apply them, and commit their
//! effects, audit entries and the processed mark together.

mod failures;
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

use super::backpressure::Pressure;
use super::quarantine::Quarantine;
use super::store::leases::{self, Claimed};
use crate::catalogue::Catalogue;
use crate::config::StripeConfig;
use crate::db::{self, WorkerTx};
use crate::limits;
use crate::projection::{
    self, Applied, Context, Handled, HandlerError, StoredEvent, UnknownCustomers,
};
use crate::stripe::account::{Account, OwnAccount};
use crate::stripe::client::Client;
use crate::telemetry;
use crate::telemetry::metrics;
use crate::telemetry::trace_context::TraceParent;
pub use failures::{failure_of, refused};

/// What shares a transaction at most.
const BATCH: leases::Most = leases::Most {
    events: limits::PROCESSED_EVENTS,
    bytes: limits::PROCESSED_BYTES,
};
/// How often an idle worker looks, should no notification reach it.
const POLL: Duration = Duration::from_secs(1);
/// How long a batch may take before its connection is given up: a server that
/// vanished never answers.
///
/// Shorter than the lease, so that no worker goes on with what another may have
/// taken over.
const SILENCE: Duration = Duration::from_secs(45);
const _: () = assert!(SILENCE.as_secs() < leases::LEASE_SECS.unsigned_abs());
/// How long a batch waits for a row that another transaction holds.
const BATCH_WAIT: &str = "250ms";
/// How long the events of one organization wait for it, the first time: as long
/// as another worker's batch may take.
const PATIENT_WAIT: &str = "1s";
/// How long a worker waits while the database is gone.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);
/// How often events are looked for that wait for a time that cannot be.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// What processing needs to know.
pub struct Processor {
    pub pool: PgPool,
    pub catalogue: Catalogue,
    /// The mode of the configured key; None without one.
    pub key_is_live: Option<bool>,
    pub max_retries: u32,
    pub unknown_customers: UnknownCustomers,
    /// Whose the configured key is.
    pub account: OwnAccount,
    pub quarantine: Quarantine,
}

/// What was done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    pub processed: u64,
    pub succeeded: u64,
    pub failed: u64,
    /// Not tried: another transaction holds their organizations.
    #[serde(skip_serializing_if = "is_zero")]
    pub set_aside: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Tally {
    /// Whether there was nothing to do.
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
    #[error("another worker took the events over")]
    LeaseLost,
    #[error("the handler panicked; the log of that moment says where")]
    Panicked,
}

/// A batch at work.
struct Work {
    lease_id: Uuid,
    /// Organizations that are left out.
    blocked: HashSet<Uuid>,
    /// Events whose organizations are held, by organization.
    held: BTreeMap<Uuid, Vec<Claimed>>,
    /// Those of them that it took a wait to find out.
    waited: HashSet<Uuid>,
}

/// One organization's events, or a batch of many's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Leaves out organizations that are held.
    None,
    /// Waits for the one it is about.
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
        }
    }

    /// What the handlers know besides the events. Stripe is asked whose the key
    /// is when one of them names an account.
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

    /// Processes events as they become due, until `stop`. While intake is busy,
    /// each batch is followed by a pause twice as long as it took.
    pub async fn run(&self, wake: &Notify, stop: &CancellationToken, pressure: &Pressure) {
        while !stop.is_cancelled() {
            // Made before looking, so that what is stored meanwhile wakes it.
            let woken = wake.notified();
            let started = Instant::now();
            let pause = match self.process_due(None).await {
                Ok(tally) if !tally.is_empty() => {
                    if pressure.is_high() {
                        stand_back(stop, started.elapsed()).await;
                    }
                    continue;
                }
                Ok(_) => POLL,
                Err(error) => {
                    db::disk::note(&error);
                    tracing::warn!(%error, "processing waits for the database");
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

    /// Sees to events that a clock which stepped back left waiting, until `stop`.
    pub async fn keep_due(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(error) = self.bring_back().await {
                tracing::debug!(%error, "events with times to come were not looked for");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(CLOCK_CHECK) => {}
            }
        }
    }

    /// Makes due what waits for a time that a clock which stepped back took away,
    /// and what was nobody's until lately.
    pub async fn bring_back(&self) -> Result<(), sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let events = leases::bring_back(tx.conn()).await?;
        tx.commit().await?;
        let mut tx = WorkerTx::begin(&self.pool).await?;
        match projection::wake_claimed(tx.conn()).await {
            Ok(_) => tx.commit().await?,
            Err(error) if db::is_outage(&error) => return Err(error),
            // It must not keep what is due from being processed.
            Err(error) => {
                tracing::warn!(%error, "events that were nobody's could not be looked for");
                tx.rollback().await?;
            }
        }
        if events > 0 {
            tracing::warn!(
                events,
                "the database's clock stepped back; what waited for it is due now"
            );
        }
        Ok(())
    }

    /// Claims one batch of due events and processes it. Nothing due: nothing
    /// processed. `due_by` leaves out what became due later.
    ///
    /// # Errors
    /// When the database cannot be asked; what is wrong with an event is
    /// recorded with it.
    pub async fn process_due(&self, due_by: Option<Timestamp>) -> Result<Tally, sqlx::Error> {
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
        let mut tx = WorkerTx::begin_claim(&self.pool).await?;
        let claimed = leases::claim(tx.conn(), work.lease_id, due_by, BATCH).await?;
        tx.commit().await?;
        if claimed.is_empty() {
            return Ok(Tally::default());
        }
        let mut tally = self.process(&mut work, claimed, Patience::None).await?;
        // Whoever is held comes last, and by itself.
        for (organization, events) in std::mem::take(&mut work.held) {
            tally += match work.waited.contains(&organization) {
                true => self.keep_held(&work, organization, events).await?,
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
            Err(BatchError::LeaseLost) => self.process_what_is_held(work, claimed, patience).await,
            Err(BatchError::Database(error)) if db::is_lock_timeout(&error) => {
                self.isolate(work, claimed, &batch).await
            }
            Err(error) if claimed.len() > 1 => {
                tracing::info!(%error, events = claimed.len(), "a batch failed; each half is tried by itself");
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
        let handled: Vec<(&StoredEvent, &Handled)> = events
            .iter()
            .zip(&applied.results)
            .filter_map(|(event, result)| Some((*event, result.as_ref().ok()?)))
            .collect();
        if handled.is_empty() {
            tx.rollback().await?;
            return Ok(applied);
        }
        if leases::mark_processed(tx.conn(), lease_id, &handled).await? < handled.len() {
            return Err(BatchError::LeaseLost);
        }
        let events: Vec<&StoredEvent> = handled.iter().map(|(event, _)| *event).collect();
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

async fn stand_back(stop: &CancellationToken, took: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep((2 * took).min(Duration::from_secs(1))) => {}
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
