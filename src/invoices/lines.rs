//! Fetches the invoice lines that Stripe's events leave out: an event carries
//! only the first few.

use serde_json::Value;
use sqlx::PgPool;

use super::store;
use crate::audit;
use crate::db::{self, TenantTx, WorkerTx};
use crate::projection;
use crate::stripe::client::{Client, StripeError};
use crate::stripe::objects::{Invoice, ShapeError};

/// Invoices handled in one round.
const ROUND: i64 = 20;
/// How long to wait for a locked invoice while others wait behind it.
const LOCK_TIMEOUT: &str = "50ms";

/// Why an invoice's lines could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Stripe(#[from] StripeError),
    #[error("cannot read Stripe's response: {0}")]
    Shape(#[from] ShapeError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Fetches the missing lines of a round of invoices. An invoice that fails is
/// retried after the others.
pub async fn fetch_missing(pool: &PgPool, client: &Client) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let incomplete = store::incomplete(tx.conn(), ROUND).await?;
    tx.rollback().await?;
    for invoice in incomplete {
        let fetched = db::impatiently(LOCK_TIMEOUT, fetch(pool, client, &invoice));
        if let Err(error) = fetched.await {
            tracing::warn!(
                organization_id = %invoice.organization_id, invoice_id = invoice.id, %error,
                "could not fetch an invoice's remaining lines; retrying later"
            );
            match db::impatiently(LOCK_TIMEOUT, postpone(pool, &invoice)).await {
                // Still due, so the next round retries it.
                Err(error) if db::is_lock_timeout(&error) => {}
                postponed => postponed?,
            }
        }
    }
    Ok(())
}

async fn postpone(pool: &PgPool, invoice: &store::Incomplete) -> Result<(), sqlx::Error> {
    let mut tx = TenantTx::begin(pool, invoice.organization_id).await?;
    store::postpone(&mut tx, &invoice.id).await?;
    tx.commit().await
}

async fn fetch(
    pool: &PgPool,
    client: &Client,
    incomplete: &store::Incomplete,
) -> Result<(), FetchError> {
    let object: Value = client.invoice(&incomplete.id).await?.0;
    let invoice = Invoice::read(&object)?;
    let organization_id = incomplete.organization_id;
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    // The lock makes the invoice's events wait.
    audit::lock_chains(tx.conn(), &[organization_id]).await?;
    if store::is_unchanged(&mut tx, incomplete).await? {
        projection::replace_invoice_lines(tx.conn(), organization_id, &invoice).await?;
        projection::erasure::clear_again(tx.conn(), &[organization_id]).await?;
        store::mark_complete(&mut tx, &incomplete.id).await?;
    }
    tx.commit().await?;
    Ok(())
}
