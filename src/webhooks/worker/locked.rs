//! Handles held organizations and lost leases, so that neither delays the rest of
//! a batch.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use uuid::Uuid;

use super::super::quarantine::{self, Trial};
use super::super::store::leases::{self, Claimed};
use super::{Patience, Processor, Tally, Work};
use crate::db::WorkerTx;
use crate::event_log::StoredEvent;
use crate::projection::{Batch, HandlerError};
use crate::telemetry::metrics;

impl Processor {
    /// Retries the events of an organization that was just held, or sets them
    /// aside.
    pub(super) async fn try_held(
        &self,
        lease_id: Uuid,
        organization: Uuid,
        events: Vec<Claimed>,
    ) -> Result<Tally, sqlx::Error> {
        let patience = match self.quarantine.trial(organization, Instant::now()) {
            Trial::Patient => Patience::Some,
            Trial::Quick => Patience::None,
            Trial::NotNow => return self.set_aside(lease_id, organization, events).await,
        };
        let mut work = Work {
            lease_id,
            blocked: HashSet::new(),
            held: BTreeMap::new(),
            waited: HashSet::new(),
        };
        let mut tally = self.process(&mut work, events, patience).await?;
        match work.held.remove(&organization) {
            Some(events) => tally += self.keep_held(&work, organization, events).await?,
            None if self.quarantine.clear(organization) => {
                tracing::info!(organization_id = %organization, "The organization is no longer held");
            }
            None => {}
        }
        Ok(tally)
    }

    /// Sets the events of a held organization aside and remembers that it is held.
    pub(super) async fn keep_held(
        &self,
        work: &Work,
        organization: Uuid,
        events: Vec<Claimed>,
    ) -> Result<Tally, sqlx::Error> {
        let waited = work.waited.contains(&organization);
        if self.quarantine.note(organization, waited, Instant::now()) {
            metrics::organization_held();
            tracing::warn!(
                organization_id = %organization, events = events.len(),
                "another transaction holds this organization; its events are set aside until it ends"
            );
        }
        self.set_aside(work.lease_id, organization, events).await
    }

    /// Returns the events of a held organization to the queue.
    async fn set_aside(
        &self,
        lease_id: Uuid,
        organization: Uuid,
        events: Vec<Claimed>,
    ) -> Result<Tally, sqlx::Error> {
        let set_aside = events.len() as u64;
        let delay = quarantine::delay(events.len());
        let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        let why = HandlerError::Locked(organization).to_string();
        let events: Vec<&StoredEvent> = events.iter().map(|one| &one.event).collect();
        let mut tx = WorkerTx::begin(&self.pool).await?;
        leases::set_aside(tx.conn(), lease_id, &events, &why, delay_ms).await?;
        tx.commit().await?;
        metrics::set_aside(set_aside);
        Ok(Tally {
            set_aside,
            ..Tally::default()
        })
    }

    /// Continues with the events that another worker did not take over.
    pub(super) async fn process_what_is_held(
        &self,
        work: &mut Work,
        mut claimed: Vec<Claimed>,
        patience: Patience,
    ) -> Result<Tally, sqlx::Error> {
        let all = claimed.len();
        let events: Vec<&StoredEvent> = claimed.iter().map(|one| &one.event).collect();
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let held = leases::still_held(tx.conn(), work.lease_id, &events).await?;
        tx.commit().await?;
        claimed.retain(|one| held.contains(&(one.event.bucket, one.event.id.clone())));
        tracing::info!(
            events = all,
            left = claimed.len(),
            "Another worker took over events"
        );
        if claimed.is_empty() || claimed.len() == all {
            return Ok(Tally::default());
        }
        Box::pin(self.process(work, claimed, patience)).await
    }

    /// Finds the organization of a row that was locked for too long, by halving
    /// the batch.
    pub(super) async fn isolate(
        &self,
        work: &mut Work,
        claimed: Vec<Claimed>,
        batch: &Batch,
    ) -> Result<Tally, sqlx::Error> {
        let mut of: BTreeMap<Option<Uuid>, Vec<Claimed>> = BTreeMap::new();
        let owners = batch.owners.iter().copied().chain(std::iter::repeat(None));
        for (one, owner) in claimed.into_iter().zip(owners) {
            of.entry(owner).or_default().push(one);
        }
        if let [(organization, _)] = Vec::from_iter(&of)[..] {
            let organization = organization.unwrap_or_default();
            let events = of.into_values().flatten().collect();
            // With `wait`, the wait may have been for the audit chain alone, which
            // the next attempt does not wait for.
            if !batch.wait {
                work.waited.insert(organization);
            }
            work.blocked.insert(organization);
            work.held.insert(organization, events);
            return Ok(Tally::default());
        }
        let middle = of.len() / 2;
        let mut halves = [Vec::new(), Vec::new()];
        for (position, events) in of.into_values().enumerate() {
            halves[usize::from(position >= middle)].extend(events);
        }
        let mut tally = Tally::default();
        for half in halves {
            tally += Box::pin(self.process(work, half, Patience::None)).await?;
        }
        Ok(tally)
    }
}
