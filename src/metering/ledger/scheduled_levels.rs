//! Applies scheduled levels soon after their time has come, even to accounts
//! without traffic, so that alerts and reports see them.

use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::{Ledger, LedgerError, store};
use crate::catalogue::{Aggregation, Catalogue};
use crate::db::{self, WorkerTx};

const BATCH: i64 = 500;
/// How long an account that another session holds is waited for.
const LOCK_TIMEOUT: &str = "250ms";

/// Applies scheduled levels whose time has come.
pub async fn take_due(
    pool: &PgPool,
    ledger: &Ledger,
    catalogue: &Catalogue,
) -> Result<(), sqlx::Error> {
    take(pool, ledger).await?;
    settle_forgotten(pool, catalogue).await
}

async fn take(pool: &PgPool, ledger: &Ledger) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let accounts = store::due_accounts(tx.conn(), BATCH).await?;
    tx.commit().await?;
    for (organization_id, metric) in accounts {
        // A failed account is found again and must not hold up the others.
        if let Err(LedgerError::Full) = ledger.take_due(organization_id, &metric).await {
            break;
        }
    }
    Ok(())
}

async fn settle_forgotten(pool: &PgPool, catalogue: &Catalogue) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let totals = store::forgotten(tx.conn(), BATCH).await?;
    tx.commit().await?;
    let mut outcome = Ok(());
    for (organization_id, metric, start) in totals {
        let key = (organization_id, metric);
        let settled = settle_one(pool, catalogue, &key, start);
        match db::impatiently(LOCK_TIMEOUT, settled).await {
            Ok(()) => tracing::warn!(
                %organization_id, metric = key.1, period_start = start,
                "A scheduled level was applied hours after its time"
            ),
            Err(error) if db::is_outage(&error) => return Err(error),
            // It is found again, and must not hold up the others.
            Err(error) => {
                tracing::warn!(
                    %organization_id, metric = key.1, period_start = start, %error,
                    "A scheduled level could not be applied"
                );
                outcome = Err(error);
            }
        }
    }
    outcome
}

async fn settle_one(
    pool: &PgPool,
    catalogue: &Catalogue,
    key: &(Uuid, String),
    start: i64,
) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::lock(tx.conn(), std::slice::from_ref(key)).await?;
    let metric = catalogue.metric(&key.1);
    let last = metric.is_none_or(|metric| metric.aggregation != Aggregation::Max);
    let total = store::TotalKey {
        organization_id: key.0,
        metric: &key.1,
        start,
    };
    store::settle_forgotten(tx.conn(), total, last).await?;
    tx.commit().await
}
