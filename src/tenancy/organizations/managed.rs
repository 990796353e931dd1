//! Organizations as the product manages them, by its own ids: made, brought to what it
//! says, archived, brought back.

use std::collections::BTreeMap;

use billing_domain::grace_period::EndReason;
use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

use super::link::LINKED;
use super::store::erasure::{has_open_checkout, open_requests, running_subscription};
use super::store::managed::{self, Managed};
use super::store::{customer_owner, subscription_owner};
use super::{
    AskedBy, CreateError, Identity, Metadata, NewOrganization, Organization, create_with_id,
    is_customer_id, refuse_anothers_id, store, valid_name, wake_waiting,
};
use crate::audit::{self, NewEntry};
use crate::catalogue::{Bought, Catalogue, FREE_TIER};
use crate::db::{TenantTx, WorkerTx};
use crate::metering::grace::{self, Ended};
use crate::metering::quotas::{self, HeldPlan};
use crate::tenancy::names::{Named, find_names, is_external_id, own_id};

pub const UPDATED: &str = "organization_updated";
pub const ARCHIVED: &str = "organization_archived";
pub const RESTORED: &str = "organization_restored";

/// How often an organization is looked for that others make, rename or erase meanwhile.
const TRIES: usize = 5;

/// The limits of metadata.
pub const METADATA_ENTRIES: usize = 50;
pub const METADATA_NAME: usize = 40;
pub const METADATA_TEXT: usize = 500;

#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    #[error(transparent)]
    Invalid(#[from] CreateError),
    #[error(
        "metadata: expected at most {METADATA_ENTRIES} texts of up to {METADATA_TEXT} characters, \
         with names of 1 to {METADATA_NAME}, and no NUL"
    )]
    Metadata,
    #[error("the Stripe customer was deleted in Stripe; name an existing one")]
    CustomerDeleted,
    #[error("organization not found")]
    NotFound,
    #[error("the name stands for two organizations")]
    Ambiguous,
    #[error("the organization is archived")]
    Archived,
    #[error("the subscription {0} is running")]
    Running(String),
    #[error("a change of the subscription is not settled")]
    Unsettled,
    #[error("a checkout is open")]
    CheckoutOpen,
    #[error("others change the organization at the same time")]
    Contended,
}

impl From<sqlx::Error> for ManageError {
    fn from(error: sqlx::Error) -> Self {
        Self::Invalid(error.into())
    }
}

/// What becomes of the metadata.
#[derive(Debug, Clone, Default)]
pub enum MetadataChange {
    #[default]
    Keep,
    Replace(BTreeMap<String, String>),
    /// Sets these, and removes those that are null.
    Merge(BTreeMap<String, Option<String>>),
}

/// A change of what the product says of an organization; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub external_id: Option<String>,
    pub name: Option<String>,
    /// `Some(None)` clears it.
    pub email: Option<Option<String>>,
    pub metadata: MetadataChange,
    pub stripe_customer_id: Option<String>,
    /// The plan while no subscription runs.
    pub plan_tier: Option<String>,
    /// Whether an archived organization is brought back rather than refused.
    pub restore: bool,
}

/// What came of a PUT.
#[derive(Debug)]
pub enum Put {
    Made(Organization),
    Brought(Organization),
}

/// The organization that a path names, by either of its names.
pub async fn named(pool: &PgPool, name: &str) -> Result<Uuid, ManageError> {
    let mut tx = WorkerTx::begin(pool).await?;
    let ids: Vec<Uuid> = own_id(name).into_iter().collect();
    let found = find_names(tx.conn(), &[name], &ids).await?;
    match found.named(name) {
        Some(Named::Organization { id, .. }) => Ok(id),
        Some(Named::Ambiguous) => Err(ManageError::Ambiguous),
        None => Err(ManageError::NotFound),
    }
}

/// An organization; `None` if it is erased.
pub async fn read(pool: &PgPool, id: Uuid) -> Result<Option<Organization>, sqlx::Error> {
    let mut tx = TenantTx::begin(pool, id).await?;
    let found = managed::read(tx.conn(), id).await?;
    Ok(found.map(|found| found.organization))
}

/// Makes the organization with this external id, or brings it to what `change` says. Of
/// many at once one makes it, and the others find it.
pub async fn put(
    pool: &PgPool,
    catalogue: &Catalogue,
    external_id: &str,
    change: &Change,
    by: &AskedBy,
) -> Result<Put, ManageError> {
    if !is_external_id(external_id) {
        return Err(CreateError::ExternalId.into());
    }
    check(catalogue, change)?;
    for _ in 0..TRIES {
        let mut tx = WorkerTx::begin(pool).await?;
        let found = find_names(tx.conn(), &[external_id], &[]).await?;
        drop(tx);
        if let Some((id, _)) = found.by_external_id.get(external_id) {
            let by_now = Some(external_id);
            match apply(pool, catalogue, *id, by_now, change, by).await {
                // It was renamed or erased meanwhile.
                Err(ManageError::NotFound) => continue,
                brought => return brought.map(Put::Brought),
            }
        }
        let new = NewOrganization {
            name: change.name.clone().unwrap_or_default(),
            plan_tier: change
                .plan_tier
                .clone()
                .unwrap_or_else(|| FREE_TIER.to_owned()),
            stripe_customer_id: change.stripe_customer_id.clone(),
        };
        let identity = Identity {
            external_id: Some(external_id.to_owned()),
            email: change.email.clone().flatten(),
            metadata: metadata_after(&Metadata::new(), &change.metadata),
        };
        match create_with_id(pool, catalogue, Uuid::now_v7(), new, identity, by).await {
            // Another request was first.
            Err(CreateError::ExternalIdTaken(_)) => {}
            made => return Ok(Put::Made(made?)),
        }
    }
    Err(ManageError::Contended)
}

/// Changes the organization of this id.
pub async fn patch(
    pool: &PgPool,
    catalogue: &Catalogue,
    id: Uuid,
    change: &Change,
    by: &AskedBy,
) -> Result<Organization, ManageError> {
    check(catalogue, change)?;
    if let Some(external_id) = &change.external_id {
        refuse_anothers_id(pool, external_id, id).await?;
    }
    apply(pool, catalogue, id, None, change, by).await
}

/// Archives an organization that nobody is billed for. Safe to repeat.
pub async fn archive(pool: &PgPool, id: Uuid, by: &AskedBy) -> Result<(), ManageError> {
    let mut tx = TenantTx::begin(pool, id).await?;
    let locked = audit::lock_chains(tx.conn(), &[id]).await?;
    let current = managed::read(tx.conn(), id).await?;
    let current = current.ok_or(ManageError::NotFound)?;
    if current.organization.archived_at.is_some() {
        return Ok(());
    }
    // First, so that what is asked of Stripe waits for it, or is seen below.
    managed::archive(&mut tx).await?;
    refuse_running(&mut tx).await?;
    if open_requests(&mut tx).await? > 0 {
        return Err(ManageError::Unsettled);
    }
    if has_open_checkout(&mut tx).await? {
        return Err(ManageError::CheckoutOpen);
    }
    let entry = NewEntry {
        before: Some(json!({"archived": false})),
        after: Some(json!({"archived": true})),
        ..by.entry(id, ARCHIVED)
    };
    audit::record(&mut tx, &locked, &[entry]).await?;
    tx.commit().await?;
    Ok(())
}

async fn refuse_running(tx: &mut TenantTx) -> Result<(), ManageError> {
    match running_subscription(tx).await? {
        Some((id, _)) => Err(ManageError::Running(id)),
        None => Ok(()),
    }
}

/// Checks what needs no database.
fn check(catalogue: &Catalogue, change: &Change) -> Result<(), ManageError> {
    if change
        .name
        .as_deref()
        .is_some_and(|n| valid_name(n).is_none())
    {
        return Err(CreateError::Name.into());
    }
    let external_id = change.external_id.as_deref();
    if external_id.is_some_and(|id| !is_external_id(id)) {
        return Err(CreateError::ExternalId.into());
    }
    if let Some(Some(email)) = &change.email
        && !crate::tenancy::auth::is_address(email)
    {
        return Err(CreateError::Email(email.clone()).into());
    }
    if let Some(tier) = change.plan_tier.as_deref()
        && catalogue.plan(tier).is_none()
    {
        return Err(CreateError::Plan(tier.to_owned()).into());
    }
    if let Some(customer) = change.stripe_customer_id.as_deref()
        && !is_customer_id(customer)
    {
        return Err(CreateError::CustomerId(customer.to_owned()).into());
    }
    if fits(&metadata_after(&Metadata::new(), &change.metadata)) {
        Ok(())
    } else {
        Err(ManageError::Metadata)
    }
}

fn fits(metadata: &Metadata) -> bool {
    let is_text = |text: &str, most: usize| text.chars().count() <= most && !text.contains('\0');
    metadata.len() <= METADATA_ENTRIES
        && metadata.iter().all(|(name, value)| {
            let value = value.as_str().unwrap_or_default();
            !name.is_empty() && is_text(name, METADATA_NAME) && is_text(value, METADATA_TEXT)
        })
}

fn metadata_after(before: &Metadata, change: &MetadataChange) -> Metadata {
    let text = |text: &String| Value::String(text.clone());
    match change {
        MetadataChange::Keep => before.clone(),
        MetadataChange::Replace(all) => {
            let all = all.iter();
            all.map(|(name, value)| (name.clone(), text(value)))
                .collect()
        }
        MetadataChange::Merge(some) => {
            let mut after = before.clone();
            for (name, value) in some {
                match value {
                    Some(value) => after.insert(name.clone(), text(value)),
                    None => after.remove(name),
                };
            }
            after
        }
    }
}

/// The organization as the change leaves it, but for plan and customer in force.
fn changed(current: &Organization, change: &Change) -> Organization {
    let name = change.name.as_deref().and_then(valid_name);
    Organization {
        external_id: change.external_id.clone().or(current.external_id.clone()),
        name: name.unwrap_or(&current.name).to_owned(),
        email: change.email.clone().unwrap_or(current.email.clone()),
        metadata: metadata_after(&current.metadata, &change.metadata),
        archived_at: None,
        ..current.clone()
    }
}

/// The names of what differs, which is all that the audit log is told of it.
fn differing(before: &Organization, after: &Organization) -> Vec<&'static str> {
    let fields = [
        ("externalId", before.external_id != after.external_id),
        ("name", before.name != after.name),
        ("email", before.email != after.email),
        ("metadata", before.metadata != after.metadata),
    ];
    let differing = fields.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(name, _)| name).collect()
}

/// An organization, and what a change makes of it.
struct Plan {
    current: Managed,
    after: Organization,
    base_plan_tier: String,
    /// The customer to be linked.
    customer: Option<String>,
}

impl Plan {
    /// `external_id`: what the organization must still be called.
    fn of(
        current: Option<Managed>,
        external_id: Option<&str>,
        change: &Change,
    ) -> Result<Self, ManageError> {
        let current = current.ok_or(ManageError::NotFound)?;
        let before = &current.organization;
        if external_id.is_some() && before.external_id.as_deref() != external_id {
            return Err(ManageError::NotFound);
        }
        if before.archived_at.is_some() && !change.restore {
            return Err(ManageError::Archived);
        }
        let after = changed(before, change);
        if !fits(&after.metadata) {
            return Err(ManageError::Metadata);
        }
        let base_plan_tier = change.plan_tier.as_ref();
        let customer = change.stripe_customer_id.clone();
        Ok(Self {
            base_plan_tier: base_plan_tier.unwrap_or(&current.base_plan_tier).clone(),
            customer: customer.filter(|_| before.stripe_customer_id != change.stripe_customer_id),
            after,
            current,
        })
    }

    fn moves(&self) -> bool {
        self.base_plan_tier != self.current.base_plan_tier
    }

    /// Whether the organization is what the change says already.
    fn is_done(&self) -> bool {
        self.after == self.current.organization && !self.moves() && self.customer.is_none()
    }

    /// The audit entries about the organization itself.
    fn entries(&self, by: &AskedBy) -> Vec<NewEntry> {
        let (before, base) = (&self.current.organization, &self.base_plan_tier);
        let mut entries = Vec::new();
        if before.archived_at.is_some() {
            entries.push(NewEntry {
                before: Some(json!({"archived": true})),
                after: Some(json!({"archived": false})),
                ..by.entry(before.id, RESTORED)
            });
        }
        let fields = differing(before, &self.after);
        if self.moves() || !fields.is_empty() {
            let plan = |tier| self.moves().then(|| json!({"basePlanTier": tier}));
            entries.push(NewEntry {
                before: plan(&self.current.base_plan_tier),
                after: plan(base),
                metadata: json!({"changed": fields}),
                ..by.entry(before.id, UPDATED)
            });
        }
        entries
    }
}

/// Brings an organization to what `change` says. What says nothing new changes nothing,
/// and is not entered.
async fn apply(
    pool: &PgPool,
    catalogue: &Catalogue,
    id: Uuid,
    external_id: Option<&str>,
    change: &Change,
    by: &AskedBy,
) -> Result<Organization, ManageError> {
    let mut tx = TenantTx::begin(pool, id).await?;
    let current = managed::read(tx.conn(), id).await?;
    let plan = Plan::of(current, external_id, change)?;
    if plan.is_done() {
        return Ok(plan.after);
    }
    let locked = audit::lock_chains(tx.conn(), &[id]).await?;
    let current = managed::read(tx.conn(), id).await?;
    let plan = Plan::of(current, external_id, change)?;
    if plan.is_done() {
        return Ok(plan.after);
    }
    let ended = match plan.moves() {
        true => move_to(&mut tx, catalogue, &plan.base_plan_tier).await?,
        false => Vec::new(),
    };
    if !managed::write(&mut tx, &plan.after, &plan.base_plan_tier).await? {
        let external_id = plan.after.external_id.unwrap_or_default();
        return Err(CreateError::ExternalIdTaken(external_id).into());
    }
    let mut entries = plan.entries(by);
    entries.extend(ended.iter().map(|ended| ended.entry(by.actor)));
    if let Some(customer) = &plan.customer {
        entries.push(link(&mut tx, &plan.current, customer, by).await?);
    }
    audit::record(&mut tx, &locked, &entries).await?;
    let written = managed::read(tx.conn(), id).await?;
    tx.commit().await?;
    grace::count(&ended);
    if let Some(customer) = &plan.customer {
        wake_waiting(pool, customer).await?;
    }
    let written = written.ok_or(ManageError::NotFound)?;
    Ok(written.organization)
}

/// Moves the organization of `tx` to another plan, which is in force as long as no
/// subscription runs.
async fn move_to(
    tx: &mut TenantTx,
    catalogue: &Catalogue,
    tier: &str,
) -> Result<Vec<Ended>, ManageError> {
    refuse_running(tx).await?;
    let id = tx.organization_id();
    let held = HeldPlan::of(tier, None, &Bought::default());
    quotas::set_plan(tx.conn(), catalogue, &held, &[(id, None)]).await?;
    Ok(grace::end_covered(tx.conn(), &[id], EndReason::Upgraded).await?)
}

/// Makes this the customer of new subscriptions.
async fn link(
    tx: &mut TenantTx,
    current: &Managed,
    customer: &str,
    by: &AskedBy,
) -> Result<NewEntry, ManageError> {
    let id = tx.organization_id();
    if !store::insert_customer(tx, customer).await? {
        if !managed::has_customer(tx, customer).await? {
            return Err(CreateError::CustomerTaken(customer.to_owned()).into());
        }
        if store::is_deleted(tx.conn(), id, customer).await? {
            return Err(ManageError::CustomerDeleted);
        }
    }
    store::prefer_customer(tx, customer).await?;
    let before = &current.organization.stripe_customer_id;
    Ok(NewEntry {
        resource_type: "customer",
        resource_id: customer.to_owned(),
        before: Some(json!({"stripeCustomerId": before})),
        after: Some(json!({"stripeCustomerId": customer})),
        ..by.entry(id, LINKED)
    })
}

/// Up to `limit` organizations after a position, oldest first: all, or those with this id,
/// Stripe customer or subscription, or whose external id, name or address begins like this.
pub async fn search(
    conn: &mut PgConnection,
    text: Option<&str>,
    after: Option<(Timestamp, Uuid)>,
    limit: i64,
) -> Result<Vec<Organization>, sqlx::Error> {
    let Some(text) = text else {
        return managed::page(conn, after, limit).await;
    };
    let owner = match text.starts_with("sub_") {
        true => subscription_owner(conn, text).await?,
        false => customer_owner(conn, text).await?,
    };
    let search = managed::Search {
        text,
        id: own_id(text),
        owner,
    };
    managed::search(conn, &search, after, limit).await
}
