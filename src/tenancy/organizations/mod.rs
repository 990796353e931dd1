//! Organizations, the tenants: created, linked to Stripe customers, erased.
//! Their plans and quotas change elsewhere.

mod erase;
mod link;
mod managed;
pub mod product_routes;
pub mod routes;
pub mod sample;
mod store;

use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::audit::{self, Actor, Client, NewEntry};
use crate::catalogue::{Bought, Catalogue};
use crate::db::{TenantTx, WorkerTx};
use crate::event_log;
use crate::metering::quotas;
use crate::projection;
use crate::tenancy::names::{EXPECTED, is_external_id};
pub use erase::{EraseError, Erased, erase};
pub use link::{LinkError, customer_was_deleted, link_customer, unlink_customer};
pub use managed::search;
pub use store::overview::{Overview, overview};
pub use store::{
    Identity, Metadata, Organization, find, find_logged, list, mark, names, plan_tier,
    running_elsewhere,
};

const CREATED: &str = "organization_created";
/// The audit action for an operator who listed the organizations.
pub const LISTED: &str = "organizations_listed";
/// The audit action for an operator who looked at one.
pub const SHOWN: &str = "organization_shown";

/// The audit actions about organizations.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    let managed = [managed::UPDATED, managed::ARCHIVED, managed::RESTORED];
    let linking = [link::LINKED, link::UNLINKED, link::DELETED];
    [CREATED, LISTED, SHOWN, audit::ERASED]
        .into_iter()
        .chain(linking)
        .chain(managed)
}

#[derive(Debug, Clone)]
pub struct NewOrganization {
    pub name: String,
    /// The plan while there is no subscription.
    pub plan_tier: String,
    pub stripe_customer_id: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("expected a name of 1 to 200 characters, without control characters")]
    Name,
    #[error("unknown plan {0:?}; `PLANS_FILE` lists the tiers")]
    Plan(String),
    #[error("{0:?} is not a Stripe customer id (cus_…)")]
    CustomerId(String),
    #[error("the Stripe customer {0} belongs to another organization")]
    CustomerTaken(String),
    #[error("the external id: {}", EXPECTED)]
    ExternalId,
    #[error("another organization has the external id {0:?}")]
    ExternalIdTaken(String),
    #[error("the external id {0:?} is the id of another organization; choose another one")]
    ExternalIdReserved(String),
    #[error("{0:?} is not an e-mail address")]
    Email(String),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Who asks for a change, for the audit log.
#[derive(Debug, Clone)]
pub struct AskedBy {
    pub actor: Actor,
    pub client: Option<Client>,
}

impl AskedBy {
    /// A command, or the service itself.
    pub const SYSTEM: Self = Self {
        actor: Actor::System,
        client: None,
    };

    /// The audit entry for what was done to the organization itself. No name, address or
    /// external id goes into one: nothing can be taken out of the chain.
    fn entry(&self, organization_id: Uuid, action: &'static str) -> NewEntry {
        NewEntry {
            organization_id,
            action,
            actor: self.actor,
            resource_type: "organization",
            resource_id: organization_id.to_string(),
            before: None,
            after: None,
            metadata: json!({}),
            client: self.client.clone(),
            reason: None,
        }
    }
}

/// Creates an organization with its quotas, billing customer and audit entry.
/// Events that waited for the customer are processed next.
pub async fn create(
    pool: &PgPool,
    catalogue: &Catalogue,
    new: NewOrganization,
) -> Result<Organization, CreateError> {
    create_with_identity(pool, catalogue, new, Identity::default()).await
}

/// Creates an organization with an external id or an e-mail address.
pub async fn create_with_identity(
    pool: &PgPool,
    catalogue: &Catalogue,
    new: NewOrganization,
    identity: Identity,
) -> Result<Organization, CreateError> {
    let id = Uuid::now_v7();
    create_with_id(pool, catalogue, id, new, identity, &AskedBy::SYSTEM).await
}

async fn create_with_id(
    pool: &PgPool,
    catalogue: &Catalogue,
    id: Uuid,
    new: NewOrganization,
    identity: Identity,
    by: &AskedBy,
) -> Result<Organization, CreateError> {
    check_identity(&identity)?;
    let name = valid_name(&new.name).ok_or(CreateError::Name)?;
    if catalogue.plan(&new.plan_tier).is_none() {
        return Err(CreateError::Plan(new.plan_tier));
    }
    let customer = new.stripe_customer_id.as_deref();
    if let Some(id) = customer.filter(|id| !is_customer_id(id)) {
        return Err(CreateError::CustomerId(id.to_owned()));
    }
    if let Some(external_id) = &identity.external_id {
        refuse_anothers_id(pool, external_id, id).await?;
    }

    let mut tx = TenantTx::begin(pool, id).await?;
    let inserted = store::insert(&mut tx, name, &new.plan_tier, &identity).await?;
    let Some(organization) = inserted else {
        let external_id = identity.external_id.unwrap_or_default();
        return Err(CreateError::ExternalIdTaken(external_id));
    };
    let locked = audit::lock_chains(tx.conn(), &[id]).await?;
    let held = quotas::HeldPlan::of(&new.plan_tier, None, &Bought::default());
    quotas::set_plan(tx.conn(), catalogue, &held, &[(id, None)]).await?;
    if let Some(customer) = customer
        && !store::insert_customer(&mut tx, customer).await?
    {
        return Err(CreateError::CustomerTaken(customer.to_owned()));
    }
    let entry = NewEntry {
        after: Some(json!({
            "planTier": new.plan_tier,
            "stripeCustomerId": customer,
        })),
        ..by.entry(id, CREATED)
    };
    audit::record(&mut tx, &locked, &[entry]).await?;
    tx.commit().await?;
    if let Some(customer) = customer {
        wake_waiting(pool, customer).await?;
    }
    Ok(Organization {
        stripe_customer_id: customer.map(str::to_owned),
        ..organization
    })
}

/// Refuses an external id that is, however it is written, the id of an organization
/// other than `own`: who chooses one must not come between another and its id.
async fn refuse_anothers_id(
    pool: &PgPool,
    external_id: &str,
    own: Uuid,
) -> Result<(), CreateError> {
    let Some(id) = external_id.parse().ok().filter(|id| *id != own) else {
        return Ok(());
    };
    let mut tx = WorkerTx::begin(pool).await?;
    match plan_tier(tx.conn(), id).await? {
        Some(_) => Err(CreateError::ExternalIdReserved(external_id.to_owned())),
        None => Ok(()),
    }
}

/// Links a Stripe customer to the organization of `tx`; false if another
/// organization has it.
pub async fn adopt_customer(tx: &mut TenantTx, customer_id: &str) -> Result<bool, sqlx::Error> {
    store::insert_customer(tx, customer_id).await
}

/// Schedules events that wait for this customer to be processed next.
pub async fn wake_waiting(pool: &PgPool, customer: &str) -> Result<(), sqlx::Error> {
    let woken = match try_wake(pool, customer).await {
        // Deadlocked with a worker that locked the same events in another order.
        Err(error) if crate::db::is_conflict(&error) => try_wake(pool, customer).await?,
        woken => woken?,
    };
    if woken > 0 {
        tracing::info!(
            customer,
            events = woken,
            "events that waited for this customer are processed next"
        );
    }
    Ok(())
}

async fn try_wake(pool: &PgPool, customer: &str) -> Result<u64, sqlx::Error> {
    let mut tx = crate::db::WorkerTx::begin(pool).await?;
    let waiting = event_log::wake_waiting(tx.conn(), customer).await?;
    let woken = waiting + projection::wake_customer(tx.conn(), customer).await?;
    tx.commit().await?;
    Ok(woken)
}

fn check_identity(identity: &Identity) -> Result<(), CreateError> {
    if let Some(id) = &identity.external_id
        && !is_external_id(id)
    {
        return Err(CreateError::ExternalId);
    }
    match &identity.email {
        Some(email) if !crate::tenancy::auth::is_address(email) => {
            Err(CreateError::Email(email.clone()))
        }
        _ => Ok(()),
    }
}

/// The name as it is kept, or `None` if it is none.
fn valid_name(name: &str) -> Option<&str> {
    let name = name.trim();
    let fits = !name.is_empty() && name.chars().count() <= 200;
    (fits && !name.chars().any(char::is_control)).then_some(name)
}

/// Whether `id` has the form of a Stripe customer's.
pub fn is_customer_id(id: &str) -> bool {
    id.len() > 4
        && id.len() <= 255
        && id.starts_with("cus_")
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
