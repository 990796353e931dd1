//! A subscription that Stripe does not have: no event and no answer will ever
//! say that it has ended.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::plan_assignment::{self, Holding, Holdings};
use super::versions::apply::Key;
use super::{Effects, store, subscription};
use crate::audit::{Actor, LockedChains, NewEntry};
use crate::catalogue::Catalogue;
use crate::metering::grace;

/// What the end of a subscription did.
#[derive(Debug)]
pub struct EndedHere {
    /// What an audit entry shows of the subscription as it was.
    pub before: Option<Value>,
    /// Entries for what followed from it.
    pub entries: Vec<NewEntry>,
    /// The grace periods that ended.
    pub graces: Vec<grace::Ended>,
}

/// Marks the subscription as canceled, and sets plan and quotas by what is left.
/// Should Stripe show it after all, that counts again.
pub async fn end_missing(
    conn: &mut PgConnection,
    _locked: &LockedChains,
    catalogue: &Catalogue,
    (organization_id, subscription_id): (Uuid, &str),
    actor: Actor,
) -> Result<EndedHere, sqlx::Error> {
    let organizations = [organization_id];
    let key: Key = (organization_id, subscription_id.to_owned());
    let mut stored = store::subscriptions::load(conn, &organizations).await?;
    let before = subscription::summaries(&stored)
        .remove(&key)
        .map(|row| row.summary);
    store::subscriptions::end(conn, organization_id, subscription_id, Uuid::now_v7()).await?;
    stored.remove(&key);
    let mut holdings = Holdings::new();
    for ((owner, subscription_id), row) in stored {
        holdings.entry(owner).or_default().push(Holding {
            subscription_id,
            status: row.status,
            plan_tier: row.plan_tier,
            known_tier: row.known_tier,
        });
    }
    let mut effects = Effects::of(actor);
    plan_assignment::settle(conn, catalogue, &organizations, holdings, &mut effects).await?;
    Ok(EndedHere {
        before,
        entries: effects.entries,
        graces: effects.graces,
    })
}
