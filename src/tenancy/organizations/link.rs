//! Links organizations to Stripe customers, and takes links back.

use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::{is_customer_id, store, wake_waiting};
use crate::audit::{self, Actor, NewEntry};
use crate::db::{TenantTx, WorkerTx};
use crate::stripe::requests::{self, Subject};

/// The audit action for a newly linked customer.
pub const LINKED: &str = "customer_linked";
/// The audit action for a link that was taken back.
pub const UNLINKED: &str = "customer_unlinked";
/// The audit action for a customer deleted in Stripe.
pub const DELETED: &str = "customer_deleted";

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{0:?} is not a Stripe customer id (cus_…)")]
    CustomerId(String),
    #[error("the Stripe customer {0} belongs to another organization, {1}")]
    Taken(String, Uuid),
    #[error("organization {0} was erased, and takes no more changes")]
    Erased(Uuid),
    #[error("the Stripe customer {0} was deleted; name an existing one")]
    Deleted(String),
    #[error("the Stripe customer {0} is not linked to organization {1}")]
    NotLinked(String, Uuid),
    #[error(
        "new subscriptions use the Stripe customer {0}; link another one first (organizations link-customer)"
    )]
    Current(String),
    #[error(
        "{subscription} runs on the Stripe customer {customer}, who pays for it; end it first, or keep the link"
    )]
    Running {
        subscription: String,
        customer: String,
    },
    #[error(
        "invoice {invoice} of the Stripe customer {customer} is {status}; let it be paid or void it first"
    )]
    Unpaid {
        invoice: String,
        customer: String,
        status: String,
    },
    #[error("a change of organization {0}'s subscription is being made; try again once it is done")]
    Busy(Uuid),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Makes this the customer of the organization's new subscriptions, and the
/// organization the owner of its events. Safe to repeat.
pub async fn link_customer(
    pool: &PgPool,
    organization_id: Uuid,
    customer_id: &str,
) -> Result<(), LinkError> {
    if !is_customer_id(customer_id) {
        return Err(LinkError::CustomerId(customer_id.to_owned()));
    }
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
    if audit::is_erased(tx.conn(), organization_id).await? {
        return Err(LinkError::Erased(organization_id));
    }
    let before = store::current_customer(tx.conn(), organization_id).await?;
    let inserted = store::insert_customer(&mut tx, customer_id).await?;
    if !inserted {
        // The tenant's transaction sees only its own customers.
        let mut across = WorkerTx::begin(pool).await?;
        let owner = store::customer_owner(across.conn(), customer_id).await?;
        across.rollback().await?;
        if let Some(other) = owner.filter(|owner| *owner != organization_id) {
            return Err(LinkError::Taken(customer_id.to_owned(), other));
        }
        if store::is_deleted(tx.conn(), organization_id, customer_id).await? {
            return Err(LinkError::Deleted(customer_id.to_owned()));
        }
    }
    if before.as_deref() == Some(customer_id) {
        tx.commit().await?;
        return Ok(());
    }
    store::prefer_customer(&mut tx, customer_id).await?;
    let links = (before.as_deref(), Some(customer_id));
    let entry = entry(organization_id, LINKED, customer_id, links);
    audit::record(&mut tx, &locked, &[entry]).await?;
    tx.commit().await?;
    wake_waiting(pool, customer_id).await?;
    Ok(())
}

/// Takes the link to a superseded customer back: its events are not the organization's any
/// more, and another may link it. What is mirrored of it stays.
pub async fn unlink_customer(
    pool: &PgPool,
    organization_id: Uuid,
    customer_id: &str,
) -> Result<(), LinkError> {
    if !is_customer_id(customer_id) {
        return Err(LinkError::CustomerId(customer_id.to_owned()));
    }
    let customer = customer_id.to_owned();
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
    if audit::is_erased(tx.conn(), organization_id).await? {
        return Err(LinkError::Erased(organization_id));
    }
    let current = store::current_customer(tx.conn(), organization_id).await?;
    if current.as_deref() == Some(customer_id) {
        return Err(LinkError::Current(customer));
    }
    if requests::open_about(pool, organization_id, Subject::Subscription)
        .await?
        .is_some()
    {
        return Err(LinkError::Busy(organization_id));
    }
    if let Some(subscription) = store::running_on(tx.conn(), organization_id, customer_id).await? {
        return Err(LinkError::Running {
            subscription,
            customer,
        });
    }
    if let Some((invoice, status)) =
        store::unpaid_of(tx.conn(), organization_id, customer_id).await?
    {
        return Err(LinkError::Unpaid {
            invoice,
            customer,
            status,
        });
    }
    if !store::delete_customer(&mut tx, customer_id).await? {
        return Err(LinkError::NotLinked(customer, organization_id));
    }
    let entry = entry(
        organization_id,
        UNLINKED,
        &customer,
        (Some(customer_id), None),
    );
    audit::record(&mut tx, &locked, &[entry]).await?;
    tx.commit().await?;
    Ok(())
}

/// The entry of a link that is made or taken back, with the customers before and after.
fn entry(
    organization_id: Uuid,
    action: &'static str,
    customer: &str,
    (before, after): (Option<&str>, Option<&str>),
) -> NewEntry {
    NewEntry {
        organization_id,
        action,
        actor: Actor::System,
        resource_type: "customer",
        resource_id: customer.to_owned(),
        before: Some(json!({"stripeCustomerId": before})),
        after: Some(json!({"stripeCustomerId": after})),
        metadata: json!({}),
        client: None,
        reason: None,
    }
}

/// Records that a customer was deleted in Stripe, so that it is not used again.
pub async fn customer_was_deleted(
    pool: &PgPool,
    organization_id: Uuid,
    customer_id: &str,
) -> Result<(), sqlx::Error> {
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
    if !store::mark_customer_deleted(&mut tx, customer_id).await? {
        return Ok(());
    }
    let entry = NewEntry {
        organization_id,
        action: DELETED,
        actor: Actor::System,
        resource_type: "customer",
        resource_id: customer_id.to_owned(),
        before: Some(json!({"stripeCustomerId": customer_id})),
        after: Some(json!({"stripeCustomerId": customer_id, "deleted": true})),
        metadata: json!({}),
        client: None,
        reason: None,
    };
    audit::record(&mut tx, &locked, &[entry]).await?;
    tx.commit().await?;
    Ok(())
}
