//! Ends a subscription that Stripe does not have, for which no event and no
//! response will ever arrive.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::plan_assignment::{self, PlanSource, PlanSources};
use super::types::Effects;
use super::versions::merge::ObjectKey;
use super::{store, subscription};
use crate::audit::{Actor, LockedChains, NewEntry};
use crate::catalogue::Catalogue;
use crate::metering::grace;

/// The outcome of ending a subscription here.
#[derive(Debug)]
pub struct EndedHere {
    /// The subscription's summary before, for the audit entry.
    pub before: Option<Value>,
    /// Entries for the consequences.
    pub entries: Vec<NewEntry>,
    /// Grace periods that ended.
    pub graces: Vec<grace::Ended>,
}

/// Marks the subscription as canceled and assigns plan and quotas from the
/// remaining ones. If Stripe shows it later after all, that state counts again.
pub async fn end_missing(
    conn: &mut PgConnection,
    _locked: &LockedChains,
    catalogue: &Catalogue,
    (organization_id, subscription_id): (Uuid, &str),
    actor: Actor,
) -> Result<EndedHere, sqlx::Error> {
    let organizations = [organization_id];
    let key: ObjectKey = (organization_id, subscription_id.to_owned());
    let mut stored = store::subscriptions::load(conn, &organizations).await?;
    let before = subscription::summaries(&stored)
        .remove(&key)
        .map(|row| row.summary);
    store::subscriptions::end(conn, organization_id, subscription_id, Uuid::now_v7()).await?;
    stored.remove(&key);
    let mut sources = PlanSources::new();
    for ((owner, subscription_id), row) in stored {
        sources.entry(owner).or_default().push(PlanSource {
            subscription_id,
            status: row.status,
            access: row.access,
            plan_tier: row.plan_tier,
            plan_version: row.plan_version,
            bought: row.bought,
            known_tier: row.known_tier,
        });
    }
    let mut effects = Effects::of(actor);
    plan_assignment::assign_plans(conn, catalogue, &organizations, sources, &[], &mut effects)
        .await?;
    Ok(EndedHere {
        before,
        entries: effects.entries,
        graces: effects.graces,
    })
}
