//! Erasure: personal data of an organization goes for good, money and the audit
//! chain stay.

use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::store::erasure;
use crate::audit::{self, Actor, NewEntry};
use crate::db::{TenantTx, WorkerTx};
use crate::telemetry::metrics;

/// The action of the entry about it.
pub const ERASED: &str = "organization_erased";

#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error(
        "the subscription {0} still runs ({1}): cancel it first (DELETE /api/billing/subscription?immediately=true, \
         or in Stripe), so that nobody is charged who is not known any more"
    )]
    Running(String, String),
    #[error(
        "{0} requests to Stripe are open, and whether Stripe did them is not known: run \
         `subscriptions reconcile --apply` first"
    )]
    Open(i64),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What was erased: rows deleted or emptied.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Erased {
    pub organization_id: Uuid,
    /// It had been erased before; what came since is gone as well.
    pub again: bool,
    pub users: u64,
    pub memberships: u64,
    pub api_keys: u64,
    pub payment_methods: u64,
    pub webhook_payloads: u64,
    pub other_rows: u64,
    /// Customers that Stripe still has: delete them there.
    pub stripe_customers: Vec<String>,
}

/// Erases an organization. It may be repeated, after a stop or later.
pub async fn erase(pool: &PgPool, organization_id: Uuid) -> Result<Erased, EraseError> {
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    refuse_running(&mut tx).await?;
    let customers = erasure::customers(&mut tx, true).await?;
    drop(tx);
    // Users and webhook events are of no organization's transaction. What a stop
    // in between leaves, the next run erases.
    let mut tx = WorkerTx::begin(pool).await?;
    let users = erasure::users(tx.conn(), organization_id).await?;
    tx.commit().await?;
    let mut webhook_payloads = 0;
    for bucket in erasure::BUCKETS {
        let mut tx = WorkerTx::begin(pool).await?;
        webhook_payloads +=
            erasure::payloads(tx.conn(), bucket, organization_id, &customers).await?;
        tx.commit().await?;
    }

    let mut tx = TenantTx::begin(pool, organization_id).await?;
    let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
    refuse_running(&mut tx).await?;
    let mut erased = Erased {
        organization_id,
        again: erasure::is_erased(&mut tx).await?,
        users,
        memberships: erasure::memberships(&mut tx).await?,
        api_keys: erasure::api_keys(&mut tx).await?,
        payment_methods: erasure::payment_methods(&mut tx).await?,
        webhook_payloads,
        other_rows: 0,
        stripe_customers: erasure::customers(&mut tx, false).await?,
    };
    erased.other_rows = erasure::texts(&mut tx).await?;
    erasure::names(&mut tx).await?;
    let entry = NewEntry {
        organization_id,
        action: ERASED,
        actor: Actor::System,
        resource_type: "organization",
        resource_id: organization_id.to_string(),
        before: None,
        after: Some(json!({
            "users": erased.users,
            "memberships": erased.memberships,
            "apiKeys": erased.api_keys,
            "paymentMethods": erased.payment_methods,
            "webhookPayloads": erased.webhook_payloads,
        })),
        metadata: json!({"again": erased.again}),
        client: None,
    };
    audit::append(tx.conn(), &locked, std::slice::from_ref(&entry)).await?;
    tx.commit().await?;
    metrics::audit_entries(&[entry.action]);
    Ok(erased)
}

async fn refuse_running(tx: &mut TenantTx) -> Result<(), EraseError> {
    if let Some((id, status)) = erasure::running(tx).await? {
        return Err(EraseError::Running(id, status));
    }
    match erasure::open_requests(tx).await? {
        0 => Ok(()),
        open => Err(EraseError::Open(open)),
    }
}
