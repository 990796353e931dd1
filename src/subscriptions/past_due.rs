//! Access while past due ends by time, without an event: a sweep ends it.

use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::store;
use crate::audit;
use crate::catalogue::Catalogue;
use crate::db::WorkerTx;
use crate::metering::grace;
use crate::projection;

/// How many organizations are looked at in a transaction.
const SWEEP: i64 = 100;

/// Has what organizations may do while they are past due follow time and policy. Returns
/// for how many subscriptions it has changed.
pub async fn sweep(pool: &PgPool, catalogue: &Catalogue) -> Result<usize, sqlx::Error> {
    let policy = catalogue.past_due_access();
    let mut total = 0;
    let mut after: Option<Uuid> = None;
    loop {
        let mut tx = WorkerTx::begin(pool).await?;
        let due = store::past_due::due(tx.conn(), policy, after, SWEEP).await?;
        // Organizations locked by another transaction are left to the next sweep.
        let (chains, free) = audit::lock_free_chains(tx.conn(), &due).await?;
        let free: Vec<Uuid> = free.into_iter().collect();
        let reviewed = projection::review_past_due(tx.conn(), &chains, catalogue, &free).await?;
        audit::record(&mut tx, &chains, &reviewed.entries).await?;
        tx.commit().await?;
        grace::count(&reviewed.graces);
        total += reviewed.flipped;
        after = due.last().copied();
        if due.len() < usize::try_from(SWEEP).unwrap_or(usize::MAX) {
            return Ok(total);
        }
    }
}
