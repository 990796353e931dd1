//! Gives events back whose batch was interrupted, by an outage or a connection that was
//! ended: nobody else would try them before the lease ends.

use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::super::store::leases::{self, Claimed};
use super::Processor;
use crate::db::WorkerTx;

/// After as many interrupted batches in a row, events wait for the end of their lease:
/// processing them may be what interrupts.
const IN_A_ROW: u32 = 3;

/// The interrupted batches of this process.
#[derive(Debug, Default)]
pub struct Interrupted(Mutex<Batches>);

#[derive(Debug, Default)]
struct Batches {
    in_a_row: u32,
    waiting: Vec<Batch>,
}

#[derive(Debug)]
struct Batch {
    lease_id: Uuid,
    buckets: Vec<i16>,
    ids: Vec<String>,
}

/// Notes its batch as interrupted when it is dropped before it is finished.
pub(super) struct Unfinished<'a> {
    of: &'a Interrupted,
    batch: Option<Batch>,
}

impl Interrupted {
    pub(super) fn unless_finished(&self, lease_id: Uuid, claimed: &[Claimed]) -> Unfinished<'_> {
        let batch = Batch {
            lease_id,
            buckets: claimed.iter().map(|one| one.event.bucket).collect(),
            ids: claimed.iter().map(|one| one.event.id.clone()).collect(),
        };
        Unfinished {
            of: self,
            batch: Some(batch),
        }
    }

    fn batches(&self) -> MutexGuard<'_, Batches> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unfinished<'_> {
    pub fn finish(mut self) {
        self.batch = None;
        self.of.batches().in_a_row = 0;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let Some(batch) = self.batch.take() else {
            return;
        };
        let mut batches = self.of.batches();
        batches.in_a_row += 1;
        if !batch.ids.is_empty() && batches.in_a_row <= IN_A_ROW {
            batches.waiting.push(batch);
        }
    }
}

impl Processor {
    /// Makes the events of interrupted batches due again.
    pub(super) async fn give_back_interrupted(&self) -> Result<(), sqlx::Error> {
        let waiting = std::mem::take(&mut self.interrupted.batches().waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        let given_back = self.give_back(&waiting).await;
        match &given_back {
            Ok(events) => tracing::info!(events, "Events of an interrupted batch are due again"),
            Err(_) => self.interrupted.batches().waiting.extend(waiting),
        }
        given_back.map(drop)
    }

    async fn give_back(&self, batches: &[Batch]) -> Result<u64, sqlx::Error> {
        let mut tx = WorkerTx::begin_claim(&self.pool).await?;
        let mut events = 0;
        for batch in batches {
            events +=
                leases::give_back(tx.conn(), batch.lease_id, &batch.buckets, &batch.ids).await?;
        }
        tx.commit().await?;
        Ok(events)
    }
}
