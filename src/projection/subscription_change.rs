//! What a merged subscription is to be written as: its plan, version and status.

use std::collections::BTreeMap;

use super::invoice::Payment;
use super::known_tier::KnownTier;
use super::payment_status::status_of;
use super::stripe_response;
use super::subscription::{Change, StoredSubscription};
use super::versions::merge::{MergedObject, ObjectKey};
use crate::catalogue::Catalogue;
use crate::stripe::objects::Subscription;

/// What a merged subscription is to be written as.
pub fn change_of(
    catalogue: &Catalogue,
    stored: &BTreeMap<ObjectKey, StoredSubscription>,
    payments: &BTreeMap<ObjectKey, Payment>,
    tiers: &BTreeMap<ObjectKey, KnownTier>,
    mut merged: MergedObject<Subscription>,
) -> Change {
    let (start, end) = catalogue.period_of(&merged.snapshot);
    let (usage_start, usage_end) = catalogue.usage_period_of(&merged.snapshot);
    merged.snapshot.current_period_start = start;
    merged.snapshot.current_period_end = end;
    merged.snapshot.usage_period_start = usage_start;
    merged.snapshot.usage_period_end = usage_end;
    let key = (merged.organization_id, merged.snapshot.id.clone());
    let status = status_of(&merged.snapshot, &merged.version, payments.get(&key)).clone();
    let plan = catalogue.plan_of(&merged.snapshot);
    let plan_tier = plan.map(|plan| plan.tier.clone());
    // The items left out may be those that a response has shown.
    let known = stored.get(&key).filter(|_| merged.snapshot.has_more_items);
    let known = known.filter(|row| stripe_response::is_response(&row.version));
    let plan_tier = plan_tier.or_else(|| known?.plan_tier.clone());
    let plan_version = match &plan_tier {
        Some(tier) => catalogue.version_of(&merged.snapshot, tier),
        None => stored.get(&key).and_then(|row| row.plan_version),
    };
    let shown = stored.get(&key).filter(|_| merged.snapshot.has_more_items);
    let shown = shown.map(|row| &row.bought);
    let bought = catalogue.bought_of(&merged.snapshot, &plan_tier, plan_version, shown);
    let known_tier = tiers.get(&key).cloned();
    let known_tier = known_tier.or_else(|| match stored.get(&key) {
        Some(row) => row.known_tier.clone(),
        // No event has been applied yet.
        None => Some(KnownTier::none()),
    });
    let known_tier = known_tier.map(|tier| tier.beside(&merged.version.last_event_id));
    Change {
        merged,
        status,
        plan_tier,
        plan_version,
        bought,
        known_tier,
    }
}
