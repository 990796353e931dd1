//! Assigns an organization's plan and quotas from its subscriptions.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use billing_domain::grace_period::EndReason;
use billing_domain::subscription::grants_plan;

use super::known_tier::{self, KnownTier};
use super::store;
use super::types::Effects;
use super::versions::merge::ObjectKey;
use crate::audit::NewEntry;
use crate::catalogue::Catalogue;
use crate::metering::{grace, quotas};

/// The audit action of a changed plan.
pub const CHANGED: &str = "plan_changed";

/// The plan that an organization holds, and its plan without a subscription.
pub struct PlanHolding {
    pub organization_id: Uuid,
    pub plan_tier: String,
    pub base_plan_tier: String,
}

/// A subscription as a source of the plan.
pub struct PlanSource {
    pub subscription_id: String,
    pub status: String,
    /// `None` if the catalogue knows none of its prices.
    pub plan_tier: Option<String>,
    /// The tier that it keeps then; `None` until its events were searched.
    pub known_tier: Option<KnownTier>,
}

/// The subscriptions of each organization.
pub type PlanSources = BTreeMap<Uuid, Vec<PlanSource>>;

/// Assigns plan and quotas of `organizations` from their subscriptions. Returns
/// the known tiers that were found by searching events.
pub async fn assign_plans(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    mut sources: PlanSources,
    effects: &mut Effects,
) -> Result<BTreeMap<ObjectKey, KnownTier>, sqlx::Error> {
    let mut searched = BTreeMap::new();
    let mut changed = BTreeMap::<String, Vec<Uuid>>::new();
    for holding in store::subscriptions::plan_holdings(conn, organizations).await? {
        let organization_id = holding.organization_id;
        let mut candidates = sources.remove(&organization_id).unwrap_or_default();
        for source in &mut candidates {
            let found = keep_known_tier(conn, catalogue, organization_id, source).await?;
            let key = || (organization_id, source.subscription_id.clone());
            searched.extend(found.map(|found| (key(), found)));
        }
        let tier = tier_of(catalogue, &candidates).unwrap_or(&holding.base_plan_tier);
        if tier == holding.plan_tier {
            continue;
        }
        changed
            .entry(tier.to_owned())
            .or_default()
            .push(organization_id);
        effects.entries.push(NewEntry {
            organization_id,
            action: CHANGED,
            actor: effects.actor,
            resource_type: "organization",
            resource_id: organization_id.to_string(),
            before: Some(json!({"planTier": holding.plan_tier})),
            after: Some(json!({"planTier": tier})),
            metadata: json!({}),
            client: None,
        });
    }
    for (tier, organizations) in changed {
        quotas::set_plan(conn, catalogue, &organizations, &tier).await?;
        let ended = grace::end_covered(conn, &organizations, EndReason::Upgraded).await?;
        let entries = ended.iter().map(|ended| ended.entry(effects.actor));
        effects.entries.extend(entries);
        effects.graces.extend(ended);
    }
    Ok(searched)
}

/// An unknown price takes no plan away: the subscription keeps the tier of its
/// newest event whose prices are known. Returns that tier if its events had to
/// be searched.
async fn keep_known_tier(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organization_id: Uuid,
    source: &mut PlanSource,
) -> Result<Option<KnownTier>, sqlx::Error> {
    if source.plan_tier.is_some() || !grants_plan(&source.status) {
        return Ok(None);
    }
    let mut found = None;
    if source.known_tier.as_ref().is_none_or(KnownTier::is_open) {
        let id = &source.subscription_id;
        found = Some(known_tier::search_events(conn, catalogue, organization_id, id).await?);
    }
    let known = found.as_ref().or(source.known_tier.as_ref());
    source.plan_tier = known.and_then(KnownTier::tier).map(str::to_owned);
    Ok(found)
}

/// The highest tier that a running subscription pays for.
fn tier_of<'a>(catalogue: &Catalogue, sources: &'a [PlanSource]) -> Option<&'a str> {
    sources
        .iter()
        .filter(|source| grants_plan(&source.status))
        .filter_map(|source| source.plan_tier.as_deref())
        .max_by_key(|tier| catalogue.rank(tier))
}
