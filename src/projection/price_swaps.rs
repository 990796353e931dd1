//! Finds the metered prices that a batch's subscriptions gain and lose while they go
//! on: what was used at a price that is gone is charged by `metering::charges`.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::subscription::grants_plan;
use jiff::Timestamp;
use sqlx::PgConnection;

use super::store::{self, price_swaps::HeldItem};
use super::subscription::{Change, StoredSubscription};
use super::versions::merge::ObjectKey;
use crate::catalogue::Catalogue;
use crate::metering::charges::PriceSwap;

/// The metadata key of a subscription that names our last change.
const CHANGE_KEY: &str = "billing_change_id";

/// The swaps of metered prices that `changes` make. Call it before they are written.
pub async fn found(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    stored: &BTreeMap<ObjectKey, StoredSubscription>,
    changes: &[Change],
) -> Result<Vec<PriceSwap>, sqlx::Error> {
    // Usage of a trial costs nothing, and that of a suspended subscription is free.
    let charged = |status: &str| grants_plan(status) && status != "trialing";
    let going_on = changes.iter().filter_map(|change| {
        let key = key_of(change);
        let old = stored.get(&key)?;
        let goes_on = charged(&old.status) && charged(&change.status);
        let all_known = !change.merged.snapshot.has_more_items && !old.has_more_items;
        (goes_on && all_known).then_some((key, (change, old)))
    });
    let going_on: BTreeMap<ObjectKey, (&Change, &StoredSubscription)> = going_on.collect();
    if going_on.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<ObjectKey> = going_on.keys().cloned().collect();
    let held = store::price_swaps::metered_items(conn, &keys).await?;
    let mut swaps = Vec::new();
    for (key, (change, old)) in going_on {
        let (items, last_change) = held.get(&key).cloned().unwrap_or_default();
        let of_one = of_subscription(catalogue, change, old, &items);
        if of_one.is_empty() {
            continue;
        }
        let metadata = &change.merged.snapshot.metadata;
        let change_id = metadata.get(CHANGE_KEY).and_then(|id| id.as_str());
        // The metadata stays when somebody changes the subscription in Stripe later.
        let new_change = change_id.filter(|id| last_change.as_deref() != Some(*id));
        let ours = match new_change.and_then(|id| id.parse().ok()) {
            Some(id) => store::price_swaps::charges_of(conn, key.0, id)
                .await?
                .map(|charges| (id, charges)),
            None => None,
        };
        swaps.extend(of_one.into_iter().map(|swap| PriceSwap {
            ours: ours.clone(),
            ..swap
        }));
    }
    Ok(swaps)
}

fn key_of(change: &Change) -> ObjectKey {
    let id = change.merged.snapshot.id.clone();
    (change.merged.organization_id, id)
}

fn both(period: (Option<Timestamp>, Option<Timestamp>)) -> Option<(Timestamp, Timestamp)> {
    period.0.zip(period.1)
}

/// The swaps of one subscription, whoever made them.
fn of_subscription(
    catalogue: &Catalogue,
    change: &Change,
    old: &StoredSubscription,
    held: &[HeldItem],
) -> Vec<PriceSwap> {
    let new = &change.merged.snapshot;
    let (Some(was), Some(is)) = (
        both(old.period),
        both((new.current_period_start, new.current_period_end)),
    ) else {
        return Vec::new();
    };
    let told_at = change.merged.version.last_event_at;
    // By metric: the price, and when its item was added.
    let mut now: BTreeMap<String, (String, Option<Timestamp>)> = BTreeMap::new();
    for item in &new.items {
        let metric = catalogue.item_use(item).and_then(|used| used.metric);
        if let (Some(metric), Some(price)) = (metric, item.price_id.clone()) {
            let is_new = !held.iter().any(|held| held.id == item.id);
            now.insert(metric, (price, item.created.filter(|_| is_new)));
        }
    }
    let before: BTreeMap<&str, &str> = held
        .iter()
        .map(|item| (item.metric.as_str(), item.price_id.as_str()))
        .collect();
    let metrics: BTreeSet<&str> = before
        .keys()
        .copied()
        .chain(now.keys().map(|m| &**m))
        .collect();
    let swapped = metrics.into_iter().filter_map(|metric| {
        let old_price = before.get(metric).map(|price| (*price).to_owned());
        let new_price = now.get(metric).map(|(price, _)| price.clone());
        let at = now.get(metric).and_then(|(_, created)| *created);
        let at = at.unwrap_or(told_at);
        // A renewal may be heard of together with a change before or after it.
        let (period_start, period_end) = if is.0 < at { is } else { was };
        (old_price != new_price).then(|| PriceSwap {
            organization_id: change.merged.organization_id,
            subscription_id: new.id.clone(),
            customer_id: new.customer_id.clone(),
            metric: metric.to_owned(),
            period_start,
            period_end,
            at,
            old_price,
            new_price,
            flexible: new.billing_mode.as_deref() == Some("flexible"),
            ours: None,
            same_period: is.0 != at || is.0 == was.0,
        })
    });
    swapped.collect()
}
