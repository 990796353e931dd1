//! Lines that Stripe's events leave out: an event shows the first few of an
//! invoice, the others are fetched.

use serde_json::Value;
use sqlx::PgPool;

use super::store;
use crate::audit;
use crate::db::{self, TenantTx, WorkerTx};
use crate::projection;
use crate::stripe::client::{Client, StripeError};
use crate::stripe::objects::{Invoice, ShapeError};

/// Invoices of one round.
const ROUND: i64 = 20;
/// How long what another transaction holds is waited for, while others wait.
const HELD_WAIT: &str = "50ms";

/// Why the lines of an invoice could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Stripe(#[from] StripeError),
    #[error("Stripe's answer cannot be read: {0}")]
    Shape(#[from] ShapeError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Fetches the lines that events left out, of some invoices. One that cannot be
/// fetched is tried again after the others.
pub async fn fetch_missing(pool: &PgPool, client: &Client) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let incomplete = store::incomplete(tx.conn(), ROUND).await?;
    tx.rollback().await?;
    for invoice in incomplete {
        let fetched = db::impatiently(HELD_WAIT, fetch(pool, client, &invoice));
        if let Err(error) = fetched.await {
            tracing::warn!(
                organization_id = %invoice.organization_id, invoice_id = invoice.id, %error,
                "the lines that Stripe's event left out could not be fetched; they are asked for again"
            );
            match db::impatiently(HELD_WAIT, ask_later(pool, &invoice)).await {
                // It is asked for in the next round, as it is.
                Err(error) if db::is_lock_timeout(&error) => {}
                asked => asked?,
            }
        }
    }
    Ok(())
}

async fn ask_later(pool: &PgPool, invoice: &store::Incomplete) -> Result<(), sqlx::Error> {
    let mut tx = TenantTx::begin(pool, invoice.organization_id).await?;
    store::ask_later(&mut tx, &invoice.id).await?;
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
    // Events of the invoice wait meanwhile.
    audit::lock_chains(tx.conn(), &[organization_id]).await?;
    if store::is_as_it_was(&mut tx, incomplete).await? {
        projection::replace_invoice_lines(tx.conn(), organization_id, &invoice).await?;
        store::completed(&mut tx, &incomplete.id).await?;
    }
    tx.commit().await?;
    Ok(())
}
