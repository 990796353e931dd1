//! Facts become mails that wait. A row is unique by organization, kind and fact: whoever
//! finds a fact twice queues it once.

use jiff::Timestamp;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::kind::Kind;
use super::store::facts as store;
use crate::db::WorkerTx;
use crate::telemetry::metrics;

/// What happened to an organization, to be told by a mail.
#[derive(Debug, Clone)]
pub struct Fact {
    pub organization_id: Uuid,
    pub kind: Kind,
    /// Unique within the kind.
    pub key: String,
    pub resource_id: String,
    pub happened_at: Timestamp,
}

impl Fact {
    /// A try to collect an invoice failed, or waits for its payer; `attempt` counts them.
    pub fn of_invoice(
        kind: Kind,
        organization_id: Uuid,
        invoice: &str,
        attempt: i32,
        happened_at: Timestamp,
    ) -> Self {
        Self {
            organization_id,
            kind,
            key: format!("{invoice}/{attempt}"),
            resource_id: invoice.to_owned(),
            happened_at,
        }
    }
}

/// Queues `facts` in the transaction of their change, if mails are switched on and were
/// when they happened.
pub async fn queue(conn: &mut PgConnection, facts: &[Fact]) -> Result<(), sqlx::Error> {
    if facts.is_empty() {
        return Ok(());
    }
    store::queue(conn, facts).await
}

/// Queues the facts that no change tells of: quotas that were reached, trials about to end,
/// cards about to expire. One replica searches at a time. Returns how many it found.
///
/// Dates are looked for among all that are near, and alerts since well before the last
/// search, so that one which was committed late is found; what is queued already is left.
pub async fn search(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::make_switch(tx.conn()).await?;
    let mut found = 0;
    if let Some(since) = store::hold_switch(tx.conn()).await? {
        found += store::alerts(tx.conn(), &since).await?;
        found += store::trials(tx.conn(), since.switched_on_at).await?;
        found += store::cards(tx.conn(), since.switched_on_at).await?;
        store::note_search(tx.conn()).await?;
    }
    let waiting = store::waiting(tx.conn()).await?;
    tx.commit().await?;
    metrics::mail::waiting(waiting.mails, waiting.oldest_secs);
    Ok(found)
}
