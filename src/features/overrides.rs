//! Overrides: an operator gives an organization a feature, or takes it away,
//! with a reason and perhaps an end. All of it is in the audit log, also the
//! end that comes by itself.

use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::effective::{FeatureRow, Override};
use super::store::{self, Expired, NewOverride};
use crate::audit::{self, Actor, Client, LockedChains, NewEntry};
use crate::catalogue::Catalogue;
use crate::catalogue::features::{self, Feature, FeatureKind, FeatureValue};
use crate::db::{TenantTx, WorkerTx};

pub const SET: &str = "feature_set";
pub const UNSET: &str = "feature_unset";
pub const EXPIRED: &str = "feature_override_expired";

/// The resource type of entries about features.
pub const RESOURCE: &str = "feature";

const MAX_REASON: usize = 500;

/// Organizations handled in one transaction.
const SWEEP: i64 = 500;

/// A value, as it was typed or sent.
#[derive(Debug, Clone)]
pub enum Given {
    Text(String),
    Json(Value),
}

impl Given {
    fn read(&self, kind: FeatureKind) -> Result<Option<FeatureValue>, String> {
        match self {
            Self::Text(text) => kind.parse(text),
            Self::Json(value) => kind.read(value),
        }
    }
}

/// The command to override a feature of an organization.
#[derive(Debug, Clone)]
pub struct SetFeature {
    pub organization_id: Uuid,
    pub feature: String,
    pub value: Given,
    pub reason: String,
    /// When the override ends by itself.
    pub expires_at: Option<Timestamp>,
    pub actor: Actor,
    pub client: Option<Client>,
}

/// The command to return to what the plan says.
#[derive(Debug, Clone)]
pub struct UnsetFeature {
    pub organization_id: Uuid,
    pub feature: String,
    pub reason: Option<String>,
    pub actor: Actor,
    pub client: Option<Client>,
}

#[derive(Debug, thiserror::Error)]
pub enum SetError {
    #[error("{0}")]
    Feature(String),
    #[error("{0}")]
    Value(String),
    #[error("say why, in 1 to {MAX_REASON} characters")]
    Reason,
    #[error("{0} is not in the future; give a later time, or leave it out for no end")]
    Past(Timestamp),
    #[error("organization {0} not found; run `organizations list` to see them")]
    Organization(Uuid),
    #[error("organization {0} was erased, and takes no more changes")]
    Erased(Uuid),
    #[error("the feature {0:?} has no override; it is as the plan says")]
    NoOverride(String),
    #[error("somebody else changed the override meanwhile")]
    Changed,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// When the override was set that somebody saw; `None`: there was none.
pub type Seen = Option<Timestamp>;

/// Overrides a feature of an organization, from the next request on.
pub async fn set(
    pool: &PgPool,
    catalogue: &Catalogue,
    command: &SetFeature,
) -> Result<FeatureRow, SetError> {
    set_as_seen(pool, catalogue, command, None).await
}

/// The same, unless the override is another one by now than the one that was `seen`, if any was.
pub async fn set_as_seen(
    pool: &PgPool,
    catalogue: &Catalogue,
    command: &SetFeature,
    seen: Option<Seen>,
) -> Result<FeatureRow, SetError> {
    let feature = known(catalogue, &command.feature)?;
    let value = command.value.read(feature.kind);
    let value =
        value.map_err(|expected| SetError::Value(format!("{:?} {expected}", command.feature)))?;
    let reason = checked_reason(&command.reason)?;
    let (mut change, now) = Change::begin(pool, command.organization_id).await?;
    if let Some(at) = command.expires_at.filter(|at| *at <= now) {
        return Err(SetError::Past(at));
    }
    change.end_expired(&command.feature).await?;
    let before = change.row(&command.feature, feature).await?;
    as_seen(&before, seen)?;
    let new = NewOverride {
        feature: &command.feature,
        value: value.as_ref(),
        reason,
        expires_at: command.expires_at,
        set_by: &set_by(command.actor),
    };
    store::put(&mut change.tx, &new).await?;
    let after = change.row(&command.feature, feature).await?;
    change.enter(
        SET,
        command.actor,
        command.client.clone(),
        [&before, &after],
        Some(reason),
    );
    change.commit().await?;
    Ok(after)
}

/// Removes an override; the plan's value is in force from the next request on.
pub async fn unset(
    pool: &PgPool,
    catalogue: &Catalogue,
    command: &UnsetFeature,
) -> Result<FeatureRow, SetError> {
    unset_as_seen(pool, catalogue, command, None).await
}

/// The same, unless the override is another one by now than the one that was `seen`, if any was.
pub async fn unset_as_seen(
    pool: &PgPool,
    catalogue: &Catalogue,
    command: &UnsetFeature,
    seen: Option<Seen>,
) -> Result<FeatureRow, SetError> {
    let feature = known(catalogue, &command.feature)?;
    let reason = command.reason.as_deref().map(checked_reason).transpose()?;
    let (mut change, _) = Change::begin(pool, command.organization_id).await?;
    change.end_expired(&command.feature).await?;
    let before = change.row(&command.feature, feature).await?;
    as_seen(&before, seen)?;
    if before.r#override.is_none() {
        change.commit().await?;
        return Err(SetError::NoOverride(command.feature.clone()));
    }
    store::remove(&mut change.tx, &command.feature).await?;
    let after = change.row(&command.feature, feature).await?;
    change.enter(
        UNSET,
        command.actor,
        command.client.clone(),
        [&before, &after],
        reason,
    );
    change.commit().await?;
    Ok(after)
}

/// Whether the override is the one that was seen, under the lock by which it is changed.
fn as_seen(now: &FeatureRow, seen: Option<Seen>) -> Result<(), SetError> {
    let set = now.r#override.as_ref().map(|set| set.created_at);
    match seen {
        Some(seen) if seen != set => Err(SetError::Changed),
        _ => Ok(()),
    }
}

fn known<'c>(catalogue: &'c Catalogue, feature: &str) -> Result<&'c Feature, SetError> {
    let all = catalogue.features();
    all.get(feature)
        .ok_or_else(|| SetError::Feature(features::unknown(feature, all)))
}

fn checked_reason(reason: &str) -> Result<&str, SetError> {
    let reason = reason.trim();
    let long = reason.chars().count() > MAX_REASON;
    if reason.is_empty() || long || reason.contains('\0') {
        return Err(SetError::Reason);
    }
    Ok(reason)
}

/// Who is written down beside an override.
fn set_by(actor: Actor) -> String {
    let id = actor.id().map(|id| id.to_string());
    id.or_else(audit::login_name)
        .unwrap_or_else(|| actor.as_str().to_owned())
}

/// A change of one organization's overrides, and its audit entries.
struct Change {
    tx: TenantTx,
    chains: LockedChains,
    entries: Vec<NewEntry>,
}

impl Change {
    /// Also the database's clock.
    async fn begin(pool: &PgPool, organization_id: Uuid) -> Result<(Self, Timestamp), SetError> {
        let mut tx = TenantTx::begin(pool, organization_id).await?;
        let chains = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        let now = store::now_for(&mut tx).await?;
        let now = now.ok_or(SetError::Organization(organization_id))?;
        if audit::is_erased(tx.conn(), organization_id).await? {
            return Err(SetError::Erased(organization_id));
        }
        let change = Self {
            tx,
            chains,
            entries: Vec::new(),
        };
        Ok((change, now))
    }

    /// An override whose end has come is not replaced unseen.
    async fn end_expired(&mut self, feature: &str) -> Result<(), sqlx::Error> {
        let organization_id = self.tx.organization_id();
        let expired =
            store::remove_expired(self.tx.conn(), &[organization_id], Some(feature)).await?;
        self.entries.extend(expired.iter().map(Expired::entry));
        Ok(())
    }

    async fn row(&mut self, id: &str, feature: &Feature) -> Result<FeatureRow, sqlx::Error> {
        let organization_id = self.tx.organization_id();
        let held = store::held(self.tx.conn(), organization_id).await?;
        Ok(held.row(id, feature))
    }

    fn enter(
        &mut self,
        action: &'static str,
        actor: Actor,
        client: Option<Client>,
        [before, after]: [&FeatureRow; 2],
        reason: Option<&str>,
    ) {
        let mut metadata = json!({});
        if client.is_some() {
            // Over HTTP, only operators set features.
            metadata["operator"] = json!(true);
        }
        self.entries.push(NewEntry {
            organization_id: self.tx.organization_id(),
            action,
            actor,
            resource_type: RESOURCE,
            resource_id: after.feature.clone(),
            before: Some(state(before)),
            after: Some(state(after)),
            metadata,
            client,
            reason: reason.map(str::to_owned),
        });
    }

    async fn commit(mut self) -> Result<(), sqlx::Error> {
        audit::record(&mut self.tx, &self.chains, &self.entries).await?;
        self.tx.commit().await
    }
}

/// What an audit entry shows of a feature.
fn state(row: &FeatureRow) -> Value {
    let set = row.r#override.as_ref().map(without_reason);
    json!({"value": row.value, "source": row.source, "override": set})
}

/// The reason is in the audit entry of whoever set it, where it can be erased.
fn without_reason(set: &Override) -> Value {
    json!({"value": set.value, "expiresAt": set.expires_at, "setBy": set.set_by,
           "createdAt": set.created_at})
}

impl Expired {
    fn entry(&self) -> NewEntry {
        NewEntry {
            organization_id: self.organization_id,
            action: EXPIRED,
            actor: Actor::System,
            resource_type: RESOURCE,
            resource_id: self.feature.clone(),
            before: Some(json!({
                "value": self.ended.value,
                "source": "override",
                "override": without_reason(&self.ended),
            })),
            after: Some(json!({"value": self.plan_value, "override": null})),
            metadata: json!({}),
            client: None,
            reason: None,
        }
    }
}

/// How many features are named in a warning.
const NAMED: i64 = 10;

/// Overrides that count for nothing, since the catalogue no longer has their
/// feature, or has it with another kind: the features, and how many of each.
pub async fn idle(pool: &PgPool, catalogue: &Catalogue) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let features = catalogue.features().iter();
    let known: Vec<(&str, &str)> = features
        .flat_map(|(id, feature)| {
            let types = feature.kind.json_types().iter();
            types.map(|json_type| (id.as_str(), *json_type))
        })
        .collect();
    let mut tx = WorkerTx::begin(pool).await?;
    let found = store::overrides_beside(tx.conn(), &known, NAMED).await?;
    tx.commit().await?;
    Ok(found)
}

/// Removes overrides whose end has come, each with an audit entry; reading had
/// left them out since. Each ends exactly once, however many replicas sweep.
pub async fn sweep(pool: &PgPool) -> Result<usize, sqlx::Error> {
    let mut total = 0;
    let mut after = None;
    loop {
        let mut tx = WorkerTx::begin(pool).await?;
        let due = store::due(tx.conn(), after, SWEEP).await?;
        // Organizations locked by another transaction are left to the next sweep.
        let (chains, free) = audit::lock_free_chains(tx.conn(), &due).await?;
        let free: Vec<Uuid> = free.into_iter().collect();
        let expired = store::remove_expired(tx.conn(), &free, None).await?;
        let entries: Vec<NewEntry> = expired.iter().map(Expired::entry).collect();
        audit::record(&mut tx, &chains, &entries).await?;
        tx.commit().await?;
        total += entries.len();
        after = due.last().copied();
        if due.len() < usize::try_from(SWEEP).unwrap_or(usize::MAX) {
            return Ok(total);
        }
    }
}
