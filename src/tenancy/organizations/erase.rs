//! Erases an organization's personal data for good. Amounts and the audit chain
//! stay.

use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::store::erasure;
use crate::audit::{self, Actor, NewEntry};
use crate::db::{TenantTx, WorkerTx};
use crate::projection;

#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error(
        "subscription {0} is still running ({1}); cancel it first (DELETE /api/billing/subscription?immediately=true, \
         or in Stripe), so that no unknown customer is charged"
    )]
    Running(String, String),
    #[error(
        "{0} requests to Stripe have an unknown outcome; run `subscriptions reconcile --apply` first"
    )]
    Open(i64),
    #[error(
        "a checkout is open, with which a payer may still subscribe the organization: expire its \
         session in Stripe, or wait until it expires, within a day; a bank debit, until it is \
         answered"
    )]
    CheckoutOpen,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The number of rows deleted or cleared.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Erased {
    pub organization_id: Uuid,
    /// Whether it had been erased before; newer data is now erased as well.
    pub again: bool,
    pub users: u64,
    pub memberships: u64,
    pub api_keys: u64,
    pub payment_methods: u64,
    pub webhook_payloads: u64,
    /// Entries of the audit log without addresses and reasons from now on.
    pub audit_entries: u64,
    pub other_rows: u64,
    /// Customers to be deleted in Stripe.
    pub stripe_customers: Vec<String>,
}

/// Erases an organization. Safe to repeat, after an interruption or later.
pub async fn erase(pool: &PgPool, organization_id: Uuid) -> Result<Erased, EraseError> {
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    check_settled(&mut tx).await?;
    let customers = erasure::customers(&mut tx, true).await?;
    drop(tx);
    let outside = Outside::erase(pool, organization_id, &customers).await?;
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
    let again = audit::is_erased(tx.conn(), organization_id).await?;
    // Whoever begins a request to Stripe holds the organization's row: from here on
    // nobody does, and those who did are seen.
    erasure::clear_names(&mut tx).await?;
    check_settled(&mut tx).await?;
    let mut erased = Erased {
        organization_id,
        again,
        users: outside.users,
        memberships: erasure::delete_memberships(&mut tx).await?,
        api_keys: erasure::delete_api_keys(&mut tx).await?,
        payment_methods: projection::erasure::delete_payment_methods(tx.conn(), organization_id)
            .await?,
        webhook_payloads: outside.webhook_payloads,
        audit_entries: 0,
        other_rows: 0,
        stripe_customers: erasure::customers(&mut tx, false).await?,
    };
    let portal_sessions = erasure::delete_portal_sessions(&mut tx).await?;
    erased.other_rows =
        outside.other_rows + portal_sessions + erasure::clear_texts(&mut tx).await?;
    erased.audit_entries = audit::erase_personal_data(&mut tx, &locked).await?;
    let entry = NewEntry {
        organization_id,
        action: audit::ERASED,
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
            "auditEntries": erased.audit_entries,
        })),
        metadata: json!({"again": erased.again}),
        client: None,
        reason: None,
    };
    audit::record(&mut tx, &locked, &[entry]).await?;
    tx.commit().await?;
    // What came meanwhile; nothing comes any more.
    Outside::erase(pool, organization_id, &customers).await?;
    Ok(erased)
}

/// The rows erased of what lies outside the organization's own transaction: users, alerts,
/// kept answers and webhook events. The next run erases what an interruption leaves.
struct Outside {
    users: u64,
    other_rows: u64,
    webhook_payloads: u64,
}

impl Outside {
    async fn erase(
        pool: &PgPool,
        organization_id: Uuid,
        customers: &[String],
    ) -> Result<Self, sqlx::Error> {
        let mut tx = WorkerTx::begin(pool).await?;
        let users = erasure::delete_users(tx.conn(), organization_id).await?;
        let alerts = projection::erasure::clear_alerts(tx.conn(), organization_id).await?;
        let answers = erasure::delete_answers(tx.conn(), organization_id).await?;
        let cards = erasure::delete_trial_cards(tx.conn(), organization_id).await?;
        tx.commit().await?;
        let mut webhook_payloads = 0;
        for bucket in erasure::BUCKETS {
            let mut tx = WorkerTx::begin(pool).await?;
            webhook_payloads +=
                erasure::clear_payloads(tx.conn(), bucket, organization_id, customers).await?;
            tx.commit().await?;
        }
        Ok(Self {
            users,
            other_rows: alerts + answers + cards,
            webhook_payloads,
        })
    }
}

/// Fails while a subscription or a request to Stripe is open.
async fn check_settled(tx: &mut TenantTx) -> Result<(), EraseError> {
    if let Some((id, status)) = erasure::running_subscription(tx).await? {
        return Err(EraseError::Running(id, status));
    }
    match erasure::open_requests(tx).await? {
        0 => {}
        open => return Err(EraseError::Open(open)),
    }
    match erasure::has_open_checkout(tx).await? {
        true => Err(EraseError::CheckoutOpen),
        false => Ok(()),
    }
}
