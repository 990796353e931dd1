//! The plan that an organization has by its subscriptions, and its quotas.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use billing_domain::subscription::grants_plan;

use super::{Effects, store};
use crate::audit::{Actor, NewEntry};
use crate::plans::Catalogue;
use crate::quotas;

/// The plan that an organization has, and what applies without a subscription.
pub struct Standing {
    pub organization_id: Uuid,
    pub plan_tier: String,
    pub base_plan_tier: String,
}

/// Status and tier of each subscription, by organization.
pub type Subscriptions<'a> = BTreeMap<Uuid, Vec<(&'a str, Option<&'a str>)>>;

/// Sets plan and quotas of `organizations` to what their subscriptions say.
pub async fn settle(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    subscriptions: &Subscriptions<'_>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let mut changed = BTreeMap::<String, Vec<Uuid>>::new();
    for standing in store::subscriptions::standings(conn, organizations).await? {
        let subscriptions = subscriptions
            .get(&standing.organization_id)
            .map_or(&[][..], Vec::as_slice);
        let tier = tier_of(catalogue, subscriptions).unwrap_or(&standing.base_plan_tier);
        if tier == standing.plan_tier {
            continue;
        }
        changed
            .entry(tier.to_owned())
            .or_default()
            .push(standing.organization_id);
        effects.entries.push(NewEntry {
            organization_id: standing.organization_id,
            action: "plan_changed",
            actor: Actor::Webhook,
            resource_type: "organization",
            resource_id: standing.organization_id.to_string(),
            before: Some(json!({"planTier": standing.plan_tier})),
            after: Some(json!({"planTier": tier})),
            metadata: json!({}),
        });
    }
    for (tier, organizations) in changed {
        quotas::store::set_plan(conn, catalogue, &organizations, &tier).await?;
    }
    Ok(())
}

/// The highest tier that a running subscription pays for.
fn tier_of<'a>(
    catalogue: &Catalogue,
    subscriptions: &[(&str, Option<&'a str>)],
) -> Option<&'a str> {
    subscriptions
        .iter()
        .filter(|(status, _)| grants_plan(status))
        .filter_map(|(_, tier)| *tier)
        .max_by_key(|tier| catalogue.rank(tier))
}
