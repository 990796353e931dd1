//! Appends entries and counts them in the metrics, but only once their
//! transaction has committed.

use super::NewEntry;
use super::store::{LockedChains, append, lock_chains};
use crate::db::WriteTx;
use crate::telemetry::metrics;

/// Entries that were appended by a transaction.
#[derive(Debug, Default)]
#[must_use = "count them once their transaction has committed"]
pub struct Appended(Vec<&'static str>);

impl Appended {
    pub(super) fn of(entries: &[NewEntry]) -> Self {
        Self(entries.iter().map(|entry| entry.action).collect())
    }

    /// Counts the entries in the metrics. Call it after the commit.
    pub fn count(&self) {
        metrics::audit_entries(&self.0);
    }
}

/// Appends `entries` in `tx`, and counts them once it has committed.
pub async fn record(
    tx: &mut impl WriteTx,
    locked: &LockedChains,
    entries: &[NewEntry],
) -> Result<(), sqlx::Error> {
    let appended = append(tx.conn(), locked, entries).await?;
    tx.after_commit(move || appended.count());
    Ok(())
}

/// Locks the chain of the entry's organization and records the entry.
pub async fn record_one(tx: &mut impl WriteTx, entry: NewEntry) -> Result<(), sqlx::Error> {
    let locked = lock_chains(tx.conn(), &[entry.organization_id]).await?;
    record(tx, &locked, &[entry]).await
}
