//! Grace periods: this module ends, lists and cleans them up. It never starts
//! one; the ledger does.

pub mod routes;
mod store;

pub use store::{Filter, GraceRow, Position, active_by_metric, cleanup, ending, list};

use billing_domain::grace_period::EndReason;
use serde_json::json;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::audit::{self, Actor, NewEntry};
use crate::db::WorkerTx;
use crate::telemetry::metrics;

/// Organizations handled in one transaction.
const SWEEP: i64 = 500;

/// A grace period that ended.
#[derive(Debug, Clone)]
pub struct Ended {
    pub organization_id: Uuid,
    pub metric: String,
    pub reason: EndReason,
}

impl Ended {
    /// The audit entry for its end.
    pub fn entry(&self, actor: Actor) -> NewEntry {
        NewEntry {
            organization_id: self.organization_id,
            action: "grace_period_ended",
            actor,
            resource_type: "grace_period",
            resource_id: self.metric.clone(),
            before: None,
            after: Some(json!({"endReason": self.reason.as_str()})),
            metadata: json!({}),
            client: None,
            reason: None,
        }
    }
}

/// The audit actions about grace periods.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    ["grace_period_started", "grace_period_ended"].into_iter()
}

/// Ends the running grace periods of `organizations` whose usage the quota now
/// covers or bills. The caller holds the locks of quotas and audit chains.
pub async fn end_covered(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    reason: EndReason,
) -> Result<Vec<Ended>, sqlx::Error> {
    store::end_covered(conn, organizations, reason).await
}

/// Counts ended grace periods in the metrics; call it after the commit.
pub fn count(ended: &[Ended]) {
    for one in ended {
        metrics::grace_ended(one.reason);
    }
}

/// Ends the grace periods that have expired or whose billing period is over.
/// Each ends exactly once, however many replicas sweep.
pub async fn sweep(pool: &PgPool) -> Result<usize, sqlx::Error> {
    let mut total = 0;
    let mut after = None;
    loop {
        let mut tx = WorkerTx::begin(pool).await?;
        let due = store::due(tx.conn(), after, SWEEP).await?;
        // Organizations locked by another transaction are left to the next sweep.
        let (chains, free) = audit::lock_free_chains(tx.conn(), &due).await?;
        let free: Vec<Uuid> = free.into_iter().collect();
        let ended = store::end_due(tx.conn(), &free).await?;
        let entries: Vec<NewEntry> = ended.iter().map(|e| e.entry(Actor::System)).collect();
        audit::record(&mut tx, &chains, &entries).await?;
        tx.commit().await?;
        if free.len() < due.len() {
            let skipped = due.len() - free.len();
            tracing::info!(
                skipped,
                "grace periods of locked organizations are left to the next sweep"
            );
        }
        after = due.last().copied();
        count(&ended);
        total += ended.len();
        if due.len() < usize::try_from(SWEEP).unwrap_or(usize::MAX) {
            return Ok(total);
        }
    }
}
