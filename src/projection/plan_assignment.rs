//! The plan that an organization has by its subscriptions, and its quotas.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use billing_domain::grace_period::EndReason;
use billing_domain::subscription::grants_plan;

use super::known_tier::{self, KnownTier};
use super::versions::apply::Key;
use super::{Effects, store};
use crate::audit::NewEntry;
use crate::catalogue::Catalogue;
use crate::metering::{grace, quotas};

/// The action of the audit entry that says so.
pub const CHANGED: &str = "plan_changed";

/// The plan that an organization has, and what applies without a subscription.
pub struct Standing {
    pub organization_id: Uuid,
    pub plan_tier: String,
    pub base_plan_tier: String,
}

/// What a subscription adds to it.
pub struct Holding {
    pub subscription_id: String,
    pub status: String,
    /// None: the catalogue knows none of its prices.
    pub plan_tier: Option<String>,
    /// What it keeps then. None: its events were not looked through yet.
    pub known_tier: Option<KnownTier>,
}

/// The subscriptions of each organization.
pub type Holdings = BTreeMap<Uuid, Vec<Holding>>;

/// Sets plan and quotas of `organizations` to what their subscriptions say.
/// Returns the tiers that were looked for in subscriptions' events.
pub async fn settle(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    mut holdings: Holdings,
    effects: &mut Effects,
) -> Result<BTreeMap<Key, KnownTier>, sqlx::Error> {
    let mut looked_for = BTreeMap::new();
    let mut changed = BTreeMap::<String, Vec<Uuid>>::new();
    for standing in store::subscriptions::standings(conn, organizations).await? {
        let organization_id = standing.organization_id;
        let mut held = holdings.remove(&organization_id).unwrap_or_default();
        for holding in &mut held {
            let found = keep_known_tier(conn, catalogue, organization_id, holding).await?;
            let key = || (organization_id, holding.subscription_id.clone());
            looked_for.extend(found.map(|found| (key(), found)));
        }
        let tier = tier_of(catalogue, &held).unwrap_or(&standing.base_plan_tier);
        if tier == standing.plan_tier {
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
            before: Some(json!({"planTier": standing.plan_tier})),
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
    Ok(looked_for)
}

/// A price that the catalogue does not know takes no plan away: its
/// subscription keeps the tier that its newest event had which the catalogue
/// does know. Returns it where it had to be looked for.
async fn keep_known_tier(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organization_id: Uuid,
    holding: &mut Holding,
) -> Result<Option<KnownTier>, sqlx::Error> {
    if holding.plan_tier.is_some() || !grants_plan(&holding.status) {
        return Ok(None);
    }
    let mut found = None;
    if holding.known_tier.as_ref().is_none_or(KnownTier::is_open) {
        let id = &holding.subscription_id;
        found = Some(known_tier::look_for(conn, catalogue, organization_id, id).await?);
    }
    let known = found.as_ref().or(holding.known_tier.as_ref());
    holding.plan_tier = known.and_then(KnownTier::tier).map(str::to_owned);
    Ok(found)
}

/// The highest tier that a running subscription pays for.
fn tier_of<'a>(catalogue: &Catalogue, holdings: &'a [Holding]) -> Option<&'a str> {
    holdings
        .iter()
        .filter(|holding| grants_plan(&holding.status))
        .filter_map(|holding| holding.plan_tier.as_deref())
        .max_by_key(|tier| catalogue.rank(tier))
}
