//! Processing: claim due events under a lease, apply them, and commit their
//! effects, audit entries and the processed mark together.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use billing_domain::retry::{self, NextStep};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use sqlx::postgres::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::pressure::Pressure;
use super::store::leases::{self, Claimed, Failure};
use crate::db::{self, WorkerTx};
use crate::event_handlers::{
    self, Applied, Context, Handled, HandlerError, StoredEvent, UnknownCustomers,
};
use crate::metrics;
use crate::plans::Catalogue;
use crate::telemetry;
use crate::trace_context::TraceParent;

/// How many events share a transaction at most.
const BATCH: i64 = 256;
/// How often an idle worker looks, should no notification reach it.
const POLL: Duration = Duration::from_secs(1);
/// How long a batch may take before its connection is given up: a server that
/// vanished never answers.
const SILENCE: Duration = Duration::from_secs(120);
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
}

/// What was done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    pub processed: u64,
    pub succeeded: u64,
    pub failed: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.processed += other.processed;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
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

impl Processor {
    pub fn context(&self) -> Context<'_> {
        Context {
            catalogue: &self.catalogue,
            key_is_live: self.key_is_live,
            unknown_customers: self.unknown_customers,
        }
    }

    /// Processes events as they become due, until `stop`. While intake is busy,
    /// each batch is followed by a pause twice as long as it took.
    pub async fn run(&self, wake: &Notify, stop: &CancellationToken, pressure: &Pressure) {
        while !stop.is_cancelled() {
            // Made before looking, so that what is stored meanwhile wakes it.
            let woken = wake.notified();
            let started = Instant::now();
            let processing = tokio::time::timeout(SILENCE, self.process_due(None));
            let processed = processing.await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
            let pause = match processed {
                Ok(tally) if tally.processed > 0 => {
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
        event_handlers::wake_claimed(tx.conn()).await?;
        tx.commit().await?;
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
        let lease_id = Uuid::now_v7();
        let mut tx = WorkerTx::begin_claim(&self.pool).await?;
        let claimed = leases::claim(tx.conn(), lease_id, None, due_by, BATCH).await?;
        tx.commit().await?;
        if claimed.is_empty() {
            return Ok(Tally::default());
        }
        self.process(lease_id, claimed).await
    }

    async fn process(&self, lease_id: Uuid, claimed: Vec<Claimed>) -> Result<Tally, sqlx::Error> {
        let started = Instant::now();
        // A handler that panics must not take the worker with it.
        let attempt = AssertUnwindSafe(self.attempt(lease_id, &claimed)).catch_unwind();
        match attempt.await.unwrap_or(Err(BatchError::Panicked)) {
            Ok(applied) => {
                metrics::processing_batch(claimed.len(), started.elapsed());
                self.settle(lease_id, &claimed, applied, started).await
            }
            Err(BatchError::Database(error)) if db::is_outage(&error) => Err(error),
            Err(error) if claimed.len() > 1 => {
                tracing::info!(%error, events = claimed.len(), "a batch failed; each half is tried by itself");
                let mut first = claimed;
                let second = first.split_off(first.len() / 2);
                let mut tally = Box::pin(self.process(lease_id, first)).await?;
                tally += Box::pin(self.process(lease_id, second)).await?;
                Ok(tally)
            }
            Err(BatchError::LeaseLost) => Ok(Tally::default()),
            Err(error) => {
                let result = Err(match error {
                    BatchError::Database(error) => refused(&error),
                    error => HandlerError::Refused(error.to_string()),
                });
                let applied = Applied {
                    results: vec![Some(result)],
                    ..Applied::default()
                };
                self.settle(lease_id, &claimed, applied, started).await
            }
        }
    }

    /// Applies the events and marks those that succeeded, in one transaction.
    async fn attempt(&self, lease_id: Uuid, claimed: &[Claimed]) -> Result<Applied, BatchError> {
        let events: Vec<&StoredEvent> = claimed.iter().map(|one| &one.event).collect();
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let applied = event_handlers::apply(tx.conn(), self.context(), &events).await?;
        let handled: Vec<(&StoredEvent, &Handled)> = events
            .iter()
            .zip(&applied.results)
            .filter_map(|(event, result)| Some((*event, result.as_ref()?.as_ref().ok()?)))
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
        lease_id: Uuid,
        claimed: &[Claimed],
        applied: Applied,
        started: Instant,
    ) -> Result<Tally, sqlx::Error> {
        applied.count();
        let mut tally = Tally::default();
        for (one, result) in claimed.iter().zip(&applied.results) {
            let Some(result) = result else { continue };
            tally.processed += 1;
            if let Some(trace) = &one.trace {
                telemetry::processed(trace, &one.event, started.elapsed(), result.is_ok());
            }
            match result {
                Ok(handled) => {
                    tally.succeeded += 1;
                    report_success(one, handled);
                }
                Err(error) => {
                    tally.failed += 1;
                    self.fail(lease_id, one, error).await?;
                }
            }
        }
        Ok(tally)
    }

    /// Records a failed attempt.
    ///
    /// # Errors
    /// When the database is gone. A failure that it refuses to record is
    /// logged, and the event tried again when its lease ends: the others of
    /// its batch must not wait for it.
    async fn fail(
        &self,
        lease_id: Uuid,
        claimed: &Claimed,
        error: &HandlerError,
    ) -> Result<(), sqlx::Error> {
        let failed_before = u32::try_from(claimed.retry_count).unwrap_or(0);
        let next = match error {
            HandlerError::Permanent(_) => NextStep::DeadLetter,
            _ => retry::after_failure(failed_before, self.max_retries, rand::random()),
        };
        metrics::attempt_failed(failed_before > 0);
        let failure = failure_of(error);
        let recorded = match next {
            NextStep::RetryAfter(delay) => {
                self.schedule_retry(lease_id, claimed, &failure, delay)
                    .await
            }
            NextStep::DeadLetter => self.dead_letter(lease_id, claimed, &failure).await,
        };
        match recorded {
            Err(refusal) if !db::is_outage(&refusal) => {
                tracing::error!(
                    event_id = claimed.event.id, event_type = claimed.event.event_type,
                    %error, %refusal, "a failed attempt could not be recorded"
                );
                Ok(())
            }
            recorded => recorded,
        }
    }

    async fn schedule_retry(
        &self,
        lease_id: Uuid,
        claimed: &Claimed,
        failure: &Failure,
        delay: Duration,
    ) -> Result<(), sqlx::Error> {
        let event = &claimed.event;
        let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let held = leases::schedule_retry(tx.conn(), lease_id, event, failure, delay_ms).await?;
        tx.commit().await?;
        if held {
            tracing::warn!(
                event_id = event.id,
                event_type = event.event_type,
                error = failure.error,
                retry_count = claimed.retry_count + 1,
                retry_in_ms = delay_ms,
                "Webhook event failed, will be retried"
            );
        }
        Ok(())
    }

    /// Moves an event to the dead letters; if they do not take it, it is
    /// retried like any other.
    async fn dead_letter(
        &self,
        lease_id: Uuid,
        claimed: &Claimed,
        failure: &Failure,
    ) -> Result<(), sqlx::Error> {
        let event = &claimed.event;
        let mut tx = WorkerTx::begin(&self.pool).await?;
        match leases::dead_letter(tx.conn(), lease_id, event, failure).await {
            Ok(held) => {
                tx.commit().await?;
                if held {
                    tracing::error!(
                        event_id = event.id,
                        event_type = event.event_type,
                        error = failure.error,
                        "Webhook event moved to the dead letter queue"
                    );
                }
                Ok(())
            }
            Err(refusal) if !db::is_outage(&refusal) => {
                tx.rollback().await?;
                let failure = Failure {
                    error: format!(
                        "{}; the dead letter queue refused it: {refusal}",
                        failure.error
                    ),
                    ..failure.clone()
                };
                let failed_before = u32::try_from(claimed.retry_count).unwrap_or(0);
                let delay = retry::delay(failed_before, rand::random());
                self.schedule_retry(lease_id, claimed, &failure, delay)
                    .await
            }
            Err(outage) => Err(outage),
        }
    }
}

async fn stand_back(stop: &CancellationToken, took: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep((2 * took).min(Duration::from_secs(1))) => {}
    }
}

/// What is recorded of an error.
pub fn failure_of(error: &HandlerError) -> Failure {
    let waiting_for = match error {
        HandlerError::UnknownOrganization { customer_id, .. } => customer_id.clone(),
        HandlerError::Permanent(_) | HandlerError::Refused(_) => None,
    };
    Failure {
        error: error.to_string(),
        waiting_for,
    }
}

/// A database that refuses an event's values refuses them again; anything else
/// (a missing table, a lock) may heal.
pub fn refused(error: &sqlx::Error) -> HandlerError {
    let said = match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        error => error.to_string(),
    };
    if db::is_bad_value(error) || db::is_broken_row(error) || db::is_duplicate(error) {
        HandlerError::Permanent(format!("the database refuses it: {said}"))
    } else {
        HandlerError::Refused(format!("the database refused it: {said}"))
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
