//! Records failed attempts: a retry, or a dead letter.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use billing_domain::retry::{self, NextStep};
use uuid::Uuid;

use super::super::store::leases::{self, Claimed, Failure, Retry};
use super::Processor;
use crate::db::{self, WorkerTx};
use crate::event_log::StoredEvent;
use crate::projection::HandlerError;
use crate::telemetry::metrics;

/// How long to wait for the row of a failed event that another transaction has
/// locked.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// The pause between attempts meanwhile.
const LOCK_PAUSE: Duration = Duration::from_millis(250);

impl Processor {
    /// Records failed attempts: retries in one statement, dead letters in another, since
    /// other products of the account may send thousands of events.
    ///
    /// # Errors
    /// Database outages only. A failure that the database rejects is logged, and
    /// its event is retried when the lease ends; the others do not wait for it.
    pub(super) async fn fail(
        &self,
        lease_id: Uuid,
        failed: &[(Claimed, HandlerError)],
    ) -> Result<(), sqlx::Error> {
        let (mut retries, mut dead) = (Vec::new(), Vec::new());
        for (claimed, error) in failed {
            let failed_before = u32::try_from(claimed.retry_count).unwrap_or(0);
            let next = match error {
                HandlerError::Permanent(_) => NextStep::DeadLetter,
                _ => retry::after_failure(failed_before, self.max_retries, rand::random()),
            };
            metrics::attempt_failed(failed_before > 0);
            let failure = failure_of(error);
            match next {
                NextStep::RetryAfter(delay) => retries.push((claimed, failure, delay)),
                NextStep::DeadLetter => dead.push((claimed, failure)),
            }
        }
        match self.dead_letter(lease_id, &dead).await {
            Err(refusal) if !db::is_outage(&refusal) => {
                for (claimed, failure) in &dead {
                    let moved = self.dead_letter_alone(lease_id, claimed, failure).await;
                    unless_outage(moved, &claimed.event, failure)?;
                }
            }
            moved => moved?,
        }
        match self.schedule_retries(lease_id, &retries).await {
            Err(refusal) if !db::is_outage(&refusal) => {
                for retry in &retries {
                    let one = std::slice::from_ref(retry);
                    let recorded = self.schedule_retries(lease_id, one).await;
                    unless_outage(recorded, &retry.0.event, &retry.1)?;
                }
                Ok(())
            }
            recorded => recorded,
        }
    }

    async fn schedule_retries(
        &self,
        lease_id: Uuid,
        failed: &[(&Claimed, Failure, Duration)],
    ) -> Result<(), sqlx::Error> {
        if failed.is_empty() {
            return Ok(());
        }
        let mut left: Vec<(Retry<'_>, i32)> = failed
            .iter()
            .map(|(claimed, failure, delay)| {
                let retry = Retry {
                    event: &claimed.event,
                    failure: failure.clone(),
                    delay_ms: i64::try_from(delay.as_millis()).unwrap_or(i64::MAX),
                };
                (retry, claimed.retry_count + 1)
            })
            .collect();
        let until = Instant::now() + LOCK_WAIT;
        loop {
            let retries: Vec<&Retry<'_>> = left.iter().map(|(retry, _)| retry).collect();
            let mut tx = WorkerTx::begin(&self.pool).await?;
            let recorded = leases::schedule_retries(tx.conn(), lease_id, &retries).await?;
            tx.commit().await?;
            let is_in = |events: &HashSet<(i16, String)>, event: &StoredEvent| {
                events.contains(&(event.bucket, event.id.clone()))
            };
            for (retry, retry_count) in &left {
                let event = retry.event;
                if is_in(&recorded, event) {
                    tracing::warn!(
                        event_id = event.id,
                        event_type = event.event_type,
                        error = retry.failure.error,
                        retry_count,
                        retry_in_ms = retry.delay_ms,
                        "Webhook event failed, will be retried"
                    );
                }
            }
            left.retain(|(retry, _)| !is_in(&recorded, retry.event));
            if left.is_empty() {
                return Ok(());
            }
            // The rest is locked by another transaction or leased to another worker.
            let events: Vec<&StoredEvent> = left.iter().map(|(retry, _)| retry.event).collect();
            let mut tx = WorkerTx::begin(&self.pool).await?;
            let ours = leases::still_held(tx.conn(), lease_id, &events).await?;
            tx.commit().await?;
            left.retain(|(retry, _)| is_in(&ours, retry.event));
            if left.is_empty() || Instant::now() > until {
                return Ok(());
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    /// Moves events to the dead letters.
    async fn dead_letter(
        &self,
        lease_id: Uuid,
        failed: &[(&Claimed, Failure)],
    ) -> Result<(), sqlx::Error> {
        if failed.is_empty() {
            return Ok(());
        }
        let events: Vec<(&StoredEvent, &Failure)> = failed
            .iter()
            .map(|(claimed, failure)| (&claimed.event, failure))
            .collect();
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let moved = leases::dead_letter(tx.conn(), lease_id, &events).await?;
        tx.commit().await?;
        for (event, failure) in events {
            if moved.contains(&(event.bucket, event.id.clone())) {
                tracing::error!(
                    event_id = event.id,
                    event_type = event.event_type,
                    error = failure.error,
                    "Webhook event moved to the dead letter queue"
                );
            }
        }
        Ok(())
    }

    /// Moves an event to the dead letters. If that fails, the event is retried.
    async fn dead_letter_alone(
        &self,
        lease_id: Uuid,
        claimed: &Claimed,
        failure: &Failure,
    ) -> Result<(), sqlx::Error> {
        let alone = [(claimed, failure.clone())];
        match self.dead_letter(lease_id, &alone).await {
            Err(refusal) if !db::is_outage(&refusal) => {
                let failure = Failure {
                    error: format!(
                        "{}; the dead letter queue refused it: {refusal}",
                        failure.error
                    ),
                    ..failure.clone()
                };
                let failed_before = u32::try_from(claimed.retry_count).unwrap_or(0);
                let delay = retry::delay(failed_before, rand::random());
                self.schedule_retries(lease_id, &[(claimed, failure, delay)])
                    .await
            }
            moved => moved,
        }
    }
}

/// Logs that a failure could not be recorded; passes on an outage.
fn unless_outage(
    recorded: Result<(), sqlx::Error>,
    event: &StoredEvent,
    failure: &Failure,
) -> Result<(), sqlx::Error> {
    match recorded {
        Err(refusal) if !db::is_outage(&refusal) => {
            tracing::error!(
                event_id = event.id, event_type = event.event_type,
                error = failure.error, %refusal, "A failed attempt could not be recorded"
            );
            Ok(())
        }
        recorded => recorded,
    }
}

/// The failure to record for an error.
pub fn failure_of(error: &HandlerError) -> Failure {
    let waiting_for = match error {
        HandlerError::UnknownOrganization { customer_id, .. } => customer_id.clone(),
        HandlerError::Permanent(_) | HandlerError::Refused(_) | HandlerError::Locked(_) => None,
    };
    Failure {
        error: error.to_string(),
        waiting_for,
    }
}

/// Classifies a database error: rejected values are rejected again, anything else
/// (a missing table, a lock) is transient.
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
