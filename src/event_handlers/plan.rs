//! The plan that an organization has by its subscriptions, and its quotas.

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use billing_domain::subscription::grants_plan;

use super::{Effects, store};
use crate::audit::{Actor, NewEntry};
use crate::plans::Catalogue;
use crate::quotas;

/// What decides an organization's plan.
pub struct Standing {
    pub organization_id: Uuid,
    pub plan_tier: String,
    /// What applies without a subscription.
    pub base_plan_tier: String,
    /// Status and tier of each subscription.
    pub subscriptions: Vec<(String, Option<String>)>,
}

/// Sets plan and quotas of `organizations` to what their subscriptions say.
pub async fn settle(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    for standing in store::subscriptions::standings(conn, organizations).await? {
        let tier = tier_of(catalogue, &standing);
        if tier == standing.plan_tier {
            continue;
        }
        quotas::store::set_plan(conn, catalogue, standing.organization_id, tier).await?;
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
    Ok(())
}

/// The highest tier that a running subscription pays for.
fn tier_of<'a>(catalogue: &Catalogue, standing: &'a Standing) -> &'a str {
    standing
        .subscriptions
        .iter()
        .filter(|(status, _)| grants_plan(status))
        .filter_map(|(_, tier)| tier.as_deref())
        .max_by_key(|tier| catalogue.rank(tier))
        .unwrap_or(&standing.base_plan_tier)
}
