//! Quotas: what each organization may use of each metric, by its plan or by an
//! operator's override.

pub mod routes;
mod store;

pub use store::{QuotaRow, list, set_plan};

use billing_domain::grace_period::EndReason;
use billing_domain::quantity::{self, QuantityError};
use billing_domain::quota::OverLimit;
use rust_decimal::Decimal;
use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::audit::{self, Actor, Client, NewEntry};
use crate::catalogue::Catalogue;
use crate::db::{TenantTx, WorkerTx};
use crate::metering::grace;
use crate::telemetry::metrics;

/// What an operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Quota(Decimal),
    Unlimited,
    /// What the plan says: the override goes.
    Plan,
}

impl Limit {
    /// A quantity, `unlimited` or `plan`.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        match text {
            "unlimited" => Ok(Self::Unlimited),
            "plan" => Ok(Self::Plan),
            number => quantity::parse(number).map(Self::Quota),
        }
    }
}

/// An operator's wish.
#[derive(Debug, Clone)]
pub struct Setting {
    pub organization_id: Uuid,
    pub metric: String,
    pub limit: Limit,
    /// None: as the plan says.
    pub over_limit: Option<OverLimit>,
    pub actor: Actor,
    pub client: Option<Client>,
}

#[derive(Debug, thiserror::Error)]
pub enum SetError {
    #[error("there is no metric {metric:?}; there are {known}")]
    Metric { metric: String, known: String },
    #[error("there is no organization {0}; `organizations list` shows them")]
    Organization(Uuid),
    #[error("with the plan's quota comes the plan's kind: leave out --over-limit")]
    KindOfPlan,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What bringing the quotas to the catalogue came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// Quotas that differed.
    pub changed: u64,
    /// Organizations that another transaction held, and that are left as they
    /// were.
    pub held: usize,
}

/// Brings the quotas of all organizations to what the catalogue says now.
pub async fn follow(pool: &PgPool, catalogue: &Catalogue) -> Result<Followed, sqlx::Error> {
    let mut followed = Followed::default();
    for plan in catalogue.plans() {
        let mut tx = WorkerTx::begin(pool).await?;
        let organizations = store::organizations_of(tx.conn(), &plan.tier).await?;
        tx.commit().await?;
        // A commit for each part: nobody's decisions wait for all of them.
        for part in organizations.chunks(500) {
            let mut tx = WorkerTx::begin(pool).await?;
            let refreshed = store::refresh(tx.conn(), part, plan).await?;
            tx.commit().await?;
            followed.changed += refreshed.changed;
            followed.held += refreshed.held;
        }
    }
    Ok(followed)
}

/// An operator looked at an organization's quotas.
pub const QUOTAS_LISTED: &str = "quotas_listed";

/// The actions of audit entries about quotas.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    ["quota_set", QUOTAS_LISTED].into_iter()
}

/// Sets an organization's quota of a metric; it holds for the next decision,
/// and ends a grace period that it covers.
pub async fn set(
    pool: &PgPool,
    catalogue: &Catalogue,
    setting: &Setting,
) -> Result<QuotaRow, SetError> {
    if catalogue.metric(&setting.metric).is_none() {
        let known: Vec<&str> = catalogue.metrics().keys().map(String::as_str).collect();
        return Err(SetError::Metric {
            metric: setting.metric.clone(),
            known: known.join(", "),
        });
    }
    if setting.limit == Limit::Plan && setting.over_limit.is_some() {
        return Err(SetError::KindOfPlan);
    }
    let organization_id = setting.organization_id;
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    let chains = audit::lock_chains(tx.conn(), &[organization_id]).await?;
    let missing = SetError::Organization(organization_id);
    let before = store::lock_one(&mut tx, &setting.metric).await?;
    let before = before.ok_or(missing)?;
    match setting.limit {
        Limit::Plan => store::remove_override(&mut tx, &setting.metric).await?,
        Limit::Unlimited => {
            store::put_override(&mut tx, &setting.metric, None, setting.over_limit).await?;
        }
        Limit::Quota(quota) => {
            store::put_override(&mut tx, &setting.metric, Some(quota), setting.over_limit).await?;
        }
    }
    let after = store::lock_one(&mut tx, &setting.metric).await?;
    let after = after.ok_or(SetError::Organization(organization_id))?;
    let reason = EndReason::QuotaRaised;
    let ended = grace::end_covered(tx.conn(), &[organization_id], reason).await?;
    let mut entries = vec![NewEntry {
        organization_id,
        action: "quota_set",
        actor: setting.actor,
        resource_type: "quota",
        resource_id: setting.metric.clone(),
        before: Some(json!(before)),
        after: Some(json!(after)),
        metadata: match setting.client {
            // Only operators set quotas by request.
            Some(_) => json!({"operator": true}),
            None => json!({}),
        },
        client: setting.client.clone(),
    }];
    entries.extend(ended.iter().map(|ended| ended.entry(setting.actor)));
    audit::append(tx.conn(), &chains, &entries).await?;
    tx.commit().await?;
    grace::count(&ended);
    let actions: Vec<&'static str> = entries.iter().map(|entry| entry.action).collect();
    metrics::audit_entries(&actions);
    Ok(after)
}
