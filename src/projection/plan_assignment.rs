//! Assigns an organization's plan and quotas from its subscriptions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use billing_domain::grace_period::EndReason;
use billing_domain::past_due::Access;
use billing_domain::status::SubscriptionStatus;

use super::known_tier::{self, KnownTier};
use super::store;
use super::types::Effects;
use super::versions::merge::ObjectKey;
use crate::audit::{Actor, NewEntry};
use crate::catalogue::{Bought, Catalogue};
use crate::metering::charges::{self, Booked};
use crate::metering::grace;
use crate::metering::quotas::{self, HeldPlan};

/// The audit action of a changed plan.
pub const CHANGED: &str = "plan_changed";

/// The plan that an organization holds, and its plan without a subscription.
pub struct PlanHolding {
    pub organization_id: Uuid,
    pub plan_tier: String,
    /// `None` without a subscription, and in rows of before.
    pub plan_version: Option<i32>,
    pub bought: Bought,
    pub base_plan_tier: String,
}

/// A subscription as a source of the plan.
pub struct PlanSource {
    pub subscription_id: String,
    pub status: SubscriptionStatus,
    pub access: Access,
    /// `None` if the catalogue knows none of its prices.
    pub plan_tier: Option<String>,
    /// The version of the plan that it has.
    pub plan_version: Option<i32>,
    pub bought: Bought,
    /// The tier that it keeps then; `None` until its events were searched.
    pub known_tier: Option<KnownTier>,
}

impl PlanSource {
    fn grants_plan(&self) -> bool {
        self.access.grants_plan(&self.status)
    }
}

/// The subscriptions of each organization.
pub type PlanSources = BTreeMap<Uuid, Vec<PlanSource>>;

/// Assigns plan and quotas of `organizations` from their subscriptions, whose `swapped`
/// prices are settled. Returns the known tiers that were found by searching events.
pub async fn assign_plans(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    mut sources: PlanSources,
    swapped: &[Booked],
    effects: &mut Effects,
) -> Result<BTreeMap<ObjectKey, KnownTier>, sqlx::Error> {
    let mut searched = BTreeMap::new();
    // By the seats, each organization would be alone.
    let mut changed = BTreeMap::<HeldPlan, Vec<(Uuid, Option<u32>)>>::new();
    let mut other_addons = BTreeSet::new();
    for holding in store::subscriptions::plan_holdings(conn, organizations).await? {
        let organization_id = holding.organization_id;
        let mut candidates = sources.remove(&organization_id).unwrap_or_default();
        for source in &mut candidates {
            let found = keep_known_tier(conn, catalogue, organization_id, source).await?;
            let key = || (organization_id, source.subscription_id.clone());
            searched.extend(found.map(|found| (key(), found)));
        }
        let (tier, version, bought) = match plan_of(catalogue, &candidates) {
            Some((tier, source)) => {
                // A row of before has no version: it has the organization's, or the oldest.
                let version = source.plan_version.or_else(|| {
                    let held = holding.plan_version.filter(|_| tier == holding.plan_tier);
                    held.or_else(|| catalogue.oldest_version(tier))
                });
                (tier, version, source.bought.clone())
            }
            None => (holding.base_plan_tier.as_str(), None, Bought::default()),
        };
        let same_plan = tier == holding.plan_tier && version == holding.plan_version;
        if same_plan && bought == holding.bought {
            continue;
        }
        if bought.addons != holding.bought.addons {
            other_addons.insert(organization_id);
        }
        changed
            .entry(HeldPlan::of(tier, version, &bought))
            .or_default()
            .push((organization_id, bought.seats));
        if !same_plan {
            let entry = entry(&holding, tier, version, effects.actor);
            effects.entries.extend(entry);
        }
    }
    for (held, holders) in changed {
        let organizations: Vec<Uuid> = holders.iter().map(|(id, _)| *id).collect();
        let raised = organizations.iter().filter(|id| other_addons.contains(id));
        let raised: Vec<Uuid> = raised.copied().collect();
        if let Some(plan) = held.terms(catalogue).filter(|_| !raised.is_empty()) {
            let kept = charges::keep_over(conn, &plan, &raised, swapped).await?;
            let entries = kept.iter().filter_map(|one| one.entry(effects.actor));
            effects.entries.extend(entries);
        }
        quotas::set_plan(conn, catalogue, &held, &holders).await?;
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
    if source.plan_tier.is_some() || !source.grants_plan() {
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

/// The audit entry of a plan that changes. A version that is written down for the
/// first time changes nothing.
fn entry(
    holding: &PlanHolding,
    tier: &str,
    version: Option<i32>,
    actor: Actor,
) -> Option<NewEntry> {
    let same_plan = tier == holding.plan_tier;
    if same_plan && (holding.plan_version.is_none() || version.is_none()) {
        return None;
    }
    let plan = |tier: &str, version: Option<i32>| match version {
        Some(version) => json!({"planTier": tier, "planVersion": version}),
        None => json!({"planTier": tier}),
    };
    Some(NewEntry {
        organization_id: holding.organization_id,
        action: if same_plan {
            quotas::VERSION_CHANGED
        } else {
            CHANGED
        },
        actor,
        resource_type: "organization",
        resource_id: holding.organization_id.to_string(),
        before: Some(plan(&holding.plan_tier, holding.plan_version)),
        after: Some(plan(tier, version)),
        metadata: json!({}),
        client: None,
        reason: None,
    })
}

/// The highest plan that a running subscription pays for, and that subscription: the one
/// with the newest version, if several pay for the plan, and of those the last by id.
pub fn plan_of<'a>(
    catalogue: &Catalogue,
    sources: &'a [PlanSource],
) -> Option<(&'a str, &'a PlanSource)> {
    let running = sources.iter().filter(|source| source.grants_plan());
    let plans = running.filter_map(|source| Some((source.plan_tier.as_deref()?, source)));
    plans.max_by_key(|(tier, source)| {
        let id = &source.subscription_id;
        (catalogue.rank(tier), source.plan_version, id)
    })
}
