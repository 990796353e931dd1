//! The plan that an organization has by its subscriptions, and its quotas.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use billing_domain::grace_period::EndReason;
use billing_domain::subscription::grants_plan;

use super::history::Mirrored as _;
use super::{Effects, EventData, Subscription, store};
use crate::audit::NewEntry;
use crate::plans::Catalogue;
use crate::{grace_periods, quotas};

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
}

/// The subscriptions of each organization.
pub type Holdings = BTreeMap<Uuid, Vec<Holding>>;

/// Sets plan and quotas of `organizations` to what their subscriptions say.
pub async fn settle(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    mut holdings: Holdings,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let mut changed = BTreeMap::<String, Vec<Uuid>>::new();
    for standing in store::subscriptions::standings(conn, organizations).await? {
        let organization_id = standing.organization_id;
        let mut held = holdings.remove(&organization_id).unwrap_or_default();
        keep_known_tiers(conn, catalogue, organization_id, &mut held).await?;
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
        let ended = grace_periods::end_covered(conn, &organizations, EndReason::Upgraded).await?;
        let entries = ended.iter().map(|ended| ended.entry(effects.actor));
        effects.entries.extend(entries);
        effects.graces.extend(ended);
    }
    Ok(())
}

/// A price that the catalogue does not know takes no plan away: its
/// subscription keeps the tier that its newest event had which the catalogue
/// does know.
async fn keep_known_tiers(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organization_id: Uuid,
    holdings: &mut [Holding],
) -> Result<(), sqlx::Error> {
    for holding in holdings {
        if holding.plan_tier.is_some() || !grants_plan(&holding.status) {
            continue;
        }
        let events = store::events_of(conn, organization_id, &holding.subscription_id).await?;
        let known = events.iter().filter_map(|event| {
            let data = EventData::read(&event.payload).ok()?;
            let subscription = Subscription::read(&data.object).ok()?;
            let place = subscription.place(&event.event_type, event.created.as_second());
            let tier = &catalogue.plan_of(&subscription)?.tier;
            Some(((place, &event.id), tier))
        });
        let newest = known.max_by_key(|(order, _)| *order);
        holding.plan_tier = newest.map(|(_, tier)| tier.clone());
    }
    Ok(())
}

/// The highest tier that a running subscription pays for.
fn tier_of<'a>(catalogue: &Catalogue, holdings: &'a [Holding]) -> Option<&'a str> {
    holdings
        .iter()
        .filter(|holding| grants_plan(&holding.status))
        .filter_map(|holding| holding.plan_tier.as_deref())
        .max_by_key(|tier| catalogue.rank(tier))
}
