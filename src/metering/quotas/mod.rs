//! Quotas: what each organization may use of each metric, set by its plan or
//! by an operator's override. Nothing here counts or decides; the ledger does.

mod follow;
pub mod routes;
mod store;

pub use follow::VERSION_CHANGED;
pub use store::{
    HeldPlan, QuotaOverride, QuotaRow, are_fewer_seats, hold_seats, list, overrides, release_seats,
    seats_used, set_plan,
};

use std::collections::HashSet;

use billing_domain::grace_period::EndReason;
use billing_domain::quantity::{self, QuantityError};
use billing_domain::quota::OverLimit;
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::audit::{self, Actor, Client, NewEntry};
use crate::catalogue::Catalogue;
use crate::db::{TenantTx, WorkerTx};
use crate::metering::{grace, reports};

/// The limit an operator sets for one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaLimit {
    Quota(Decimal),
    Unlimited,
    /// The plan's own quota; removes the override.
    Plan,
}

impl QuotaLimit {
    /// Parses a quantity, `unlimited` or `plan`.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        match text {
            "unlimited" => Ok(Self::Unlimited),
            "plan" => Ok(Self::Plan),
            number => quantity::parse(number).map(Self::Quota),
        }
    }
}

/// The command to set an organization's quota.
#[derive(Debug, Clone)]
pub struct SetQuota {
    pub organization_id: Uuid,
    pub metric: String,
    pub limit: QuotaLimit,
    /// What happens over the limit; `None` keeps what the plan says.
    pub over_limit: Option<OverLimit>,
    /// Why, for the audit log and for the next operator.
    pub reason: Option<String>,
    /// When the override ends by itself.
    pub expires_at: Option<Timestamp>,
    pub actor: Actor,
    pub client: Option<Client>,
}

#[derive(Debug, thiserror::Error)]
pub enum SetError {
    #[error("unknown metric {metric:?}; expected one of {known}")]
    Metric { metric: String, known: String },
    #[error("organization {0} not found; run `organizations list` to see them")]
    Organization(Uuid),
    #[error("organization {0} was erased, and takes no more changes")]
    Erased(Uuid),
    #[error("--over-limit cannot be combined with the plan's quota; leave it out")]
    OverLimitOfPlan,
    #[error("the plan's quota has no end; leave it out")]
    EndOfPlan,
    #[error("say why, in 1 to {MAX_REASON} characters")]
    Reason,
    #[error("{0} is not in the future; give a later time, or leave it out for no end")]
    Past(Timestamp),
    #[error("somebody else changed the override meanwhile")]
    Changed,
    #[error(
        "the plan {plan:?} has no overage rate for {metric:?}, so that usage over the quota would cost \
         nothing; set a quota that is hard, grace or unlimited, or give the plan a rate in PLANS_FILE"
    )]
    NoRate { plan: String, metric: String },
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The result of applying the catalogue to stored quotas.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct AppliedCatalogue {
    /// Quotas and features that differed.
    pub changed: u64,
    /// Organizations skipped because another transaction had them locked.
    pub skipped: usize,
}

/// Brings the quotas and features of all organizations in line with their terms: the
/// version that their subscription bought, or the one sold now. Writes only rows that
/// differ.
pub async fn apply_catalogue(
    pool: &PgPool,
    catalogue: &Catalogue,
) -> Result<AppliedCatalogue, sqlx::Error> {
    let mut applied = AppliedCatalogue::default();
    loop {
        let mut tx = WorkerTx::begin(pool).await?;
        let adopted = store::adopt_oldest(tx.conn()).await?;
        let priced = store::adopt_prices(tx.conn()).await?;
        tx.commit().await?;
        if adopted + priced == 0 {
            break;
        }
    }
    applied.skipped += follow::follow(pool, catalogue).await?;
    let mut tx = WorkerTx::begin(pool).await?;
    let held = store::held_plans(tx.conn()).await?;
    catalogue.read_versions(tx.conn()).await?;
    tx.commit().await?;
    for held in &held {
        let Some(plan) = held.terms(catalogue) else {
            continue;
        };
        let mut tx = WorkerTx::begin(pool).await?;
        let assigned = store::Assigned { plan: &plan, held };
        let organizations = store::differing(tx.conn(), assigned).await?;
        tx.commit().await?;
        // Each chunk commits by itself, so that no quota decision waits for
        // all organizations.
        for chunk in organizations.chunks(500) {
            let mut tx = WorkerTx::begin(pool).await?;
            let (chains, unlocked) = audit::lock_free_chains(tx.conn(), chunk).await?;
            let unlocked: Vec<Uuid> = unlocked.into_iter().collect();
            let refreshed = store::refresh(tx.conn(), chunk, &unlocked, assigned).await?;
            let ended =
                grace::end_covered(tx.conn(), &refreshed.organizations, EndReason::QuotaRaised)
                    .await?;
            let entries: Vec<NewEntry> = ended.iter().map(|one| one.entry(Actor::System)).collect();
            audit::record(&mut tx, &chains, &entries).await?;
            tx.commit().await?;
            grace::count(&ended);
            applied.changed += refreshed.changed;
            applied.skipped += refreshed.skipped;
        }
    }
    Ok(applied)
}

/// The audit action for an operator who viewed an organization's quotas.
pub const QUOTAS_LISTED: &str = "quotas_listed";

const SET: &str = "quota_set";
/// An override came to its end.
const EXPIRED: &str = "quota_override_expired";

const MAX_REASON: usize = 500;

/// The audit actions this module writes.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    [SET, EXPIRED, QUOTAS_LISTED, VERSION_CHANGED].into_iter()
}

/// Sets an organization's quota for a metric. It applies from the next
/// decision, and ends a running grace period that it covers.
pub async fn set(
    pool: &PgPool,
    catalogue: &Catalogue,
    command: &SetQuota,
) -> Result<QuotaRow, SetError> {
    let set = enter(pool, catalogue, command, Cause::Asked(None)).await?;
    Ok(set.expect("only what is to end may have gone before"))
}

/// When the override was set that somebody saw; `None`: there was none.
pub type Seen = Option<Timestamp>;

/// The same, unless the override is another one by now than the one that somebody saw.
pub async fn set_as_seen(
    pool: &PgPool,
    catalogue: &Catalogue,
    command: &SetQuota,
    seen: Seen,
) -> Result<QuotaRow, SetError> {
    let set = enter(pool, catalogue, command, Cause::Asked(Some(seen))).await?;
    Ok(set.expect("only what is to end may have gone before"))
}

/// Why a quota is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Somebody asked for it, perhaps after a look at the override.
    Asked(Option<Seen>),
    /// The override has come to its end.
    Ended,
}

/// None, and nothing is done, if an override is to end that has no end any more, or a later one.
async fn enter(
    pool: &PgPool,
    catalogue: &Catalogue,
    command: &SetQuota,
    cause: Cause,
) -> Result<Option<QuotaRow>, SetError> {
    let said = checked(catalogue, command)?;
    let organization_id = command.organization_id;
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    let chains = audit::lock_chains(tx.conn(), &[organization_id]).await?;
    if audit::is_erased(tx.conn(), organization_id).await? {
        return Err(SetError::Erased(organization_id));
    }
    // Read under the lock: another operator or replica may have set or ended it meanwhile.
    let overrides = store::overrides(tx.conn(), organization_id).await?;
    let set = overrides
        .into_iter()
        .find(|one| one.metric == command.metric);
    match cause {
        Cause::Asked(Some(seen)) if set.as_ref().map(|set| set.updated_at) != seen => {
            return Err(SetError::Changed);
        }
        Cause::Ended if !is_due(&mut tx, set.as_ref()).await? => return Ok(None),
        Cause::Asked(_) | Cause::Ended => {}
    }
    if let Some(at) = command.expires_at
        && at <= store::now(tx.conn()).await?
    {
        return Err(SetError::Past(at));
    }
    reports::keep_terms(tx.conn(), &[organization_id]).await?;
    let missing = SetError::Organization(organization_id);
    let before = store::lock_one(&mut tx, &command.metric).await?;
    let before = before.ok_or(missing)?;
    put(&mut tx, command, said).await?;
    let after = store::lock_one(&mut tx, &command.metric).await?;
    let after = after.ok_or(SetError::Organization(organization_id))?;
    // Without a rate, the override's own kind counts for nothing.
    let unheeded = command.over_limit == Some(OverLimit::Overage)
        && command.limit != QuotaLimit::Unlimited
        && after.over_limit != OverLimit::Overage.as_str();
    if cause != Cause::Ended && (unheeded || after.is_never_billed()) {
        return Err(SetError::NoRate {
            plan: after.plan_tier,
            metric: command.metric.clone(),
        });
    }
    let reason = EndReason::QuotaRaised;
    let ended = grace::end_covered(tx.conn(), &[organization_id], reason).await?;
    let mut entries = vec![NewEntry {
        organization_id,
        action: match cause {
            Cause::Asked(_) => SET,
            Cause::Ended => EXPIRED,
        },
        actor: command.actor,
        resource_type: "quota",
        resource_id: command.metric.clone(),
        before: Some(json!(before)),
        after: Some(shown(&after, command.expires_at)),
        metadata: match command.client {
            // Over HTTP, only operators set quotas.
            Some(_) => json!({"operator": true}),
            None => json!({}),
        },
        client: command.client.clone(),
        reason: said.map(str::to_owned),
    }];
    entries.extend(ended.iter().map(|ended| ended.entry(command.actor)));
    audit::record(&mut tx, &chains, &entries).await?;
    tx.commit().await?;
    grace::count(&ended);
    Ok(Some(after))
}

/// Whether an override's end has come.
async fn is_due(tx: &mut TenantTx, set: Option<&QuotaOverride>) -> Result<bool, sqlx::Error> {
    let now = store::now(tx.conn()).await?;
    Ok(set
        .and_then(|set| set.expires_at)
        .is_some_and(|at| at <= now))
}

/// Whether the command holds by itself, and the reason that it gives.
fn checked<'c>(catalogue: &Catalogue, command: &'c SetQuota) -> Result<Option<&'c str>, SetError> {
    if catalogue.metric(&command.metric).is_none() {
        let known: Vec<&str> = catalogue.metrics().keys().map(String::as_str).collect();
        return Err(SetError::Metric {
            metric: command.metric.clone(),
            known: known.join(", "),
        });
    }
    if command.limit == QuotaLimit::Plan && command.over_limit.is_some() {
        return Err(SetError::OverLimitOfPlan);
    }
    if command.limit == QuotaLimit::Plan && command.expires_at.is_some() {
        return Err(SetError::EndOfPlan);
    }
    command.reason.as_deref().map(checked_reason).transpose()
}

/// Writes the override, or takes it away.
async fn put(tx: &mut TenantTx, command: &SetQuota, said: Option<&str>) -> Result<(), sqlx::Error> {
    let quota = match command.limit {
        QuotaLimit::Plan => None,
        QuotaLimit::Unlimited => Some(None),
        QuotaLimit::Quota(quota) => Some(Some(quota)),
    };
    match quota {
        None => store::remove_override(tx, &command.metric).await,
        Some(quota) => {
            let set_by = set_by(command.actor);
            let new = store::NewOverride {
                metric: &command.metric,
                quota,
                over_limit: command.over_limit,
                reason: said,
                expires_at: command.expires_at,
                set_by: &set_by,
            };
            store::put_override(tx, &new).await
        }
    }
}

fn checked_reason(reason: &str) -> Result<&str, SetError> {
    let reason = reason.trim();
    let long = reason.chars().count() > MAX_REASON;
    match reason.is_empty() || long || reason.contains('\0') {
        true => Err(SetError::Reason),
        false => Ok(reason),
    }
}

/// Who is written down beside an override.
fn set_by(actor: Actor) -> String {
    let id = actor.id().map(|id| id.to_string());
    id.or_else(audit::login_name)
        .unwrap_or_else(|| actor.as_str().to_owned())
}

/// What an audit entry shows of a quota that was set.
fn shown(after: &QuotaRow, expires_at: Option<Timestamp>) -> serde_json::Value {
    let mut shown = json!(after);
    if let Some(at) = expires_at {
        shown["expiresAt"] = json!(at);
    }
    shown
}

/// Overrides that are looked up at a time.
const SWEEP: i64 = 100;

/// Ends overrides whose end has come, each as an operator would who returns to the plan's
/// quota. Returns how many. Those that cannot be ended hold up no others.
pub async fn sweep(pool: &PgPool, catalogue: &Catalogue) -> Result<usize, sqlx::Error> {
    let mut ended = 0;
    let mut refused = HashSet::<(Uuid, String)>::new();
    loop {
        let most = SWEEP.saturating_add(i64::try_from(refused.len()).unwrap_or(i64::MAX));
        let mut tx = WorkerTx::begin(pool).await?;
        let mut due = store::due_overrides(tx.conn(), most).await?;
        tx.commit().await?;
        due.retain(|one| !refused.contains(one));
        if due.is_empty() {
            return Ok(ended);
        }
        for (organization_id, metric) in due {
            let command = SetQuota {
                organization_id,
                metric,
                limit: QuotaLimit::Plan,
                over_limit: None,
                reason: None,
                expires_at: None,
                actor: Actor::System,
                client: None,
            };
            match enter(pool, catalogue, &command, Cause::Ended).await {
                Ok(Some(_)) => ended += 1,
                Ok(None) => {}
                Err(SetError::Database(error)) => return Err(error),
                // An erased organization's, or of a metric that the catalogue no longer has:
                // nothing asks for it.
                Err(error) => {
                    let metric = &command.metric;
                    tracing::warn!(%organization_id, metric, %error, "A quota's override cannot be ended");
                    refused.insert((organization_id, command.metric));
                }
            }
        }
    }
}
