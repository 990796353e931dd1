//! Completes truncated lists of subscription items: Stripe shows the first few
//! and sets `has_more`. Items that are not shown still exist.
//!
//! An event with a truncated list has the items that it shows and those of the
//! events before it, back to the last complete list. That depends only on the
//! set of events. With a Stripe key, the items are fetched as well.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use billing_domain::event_order::EventOrder;
use sqlx::PgConnection;
use uuid::Uuid;

use super::decode::Decoded;
use super::store;
use super::subscription::StoredSubscription;
use super::types::{NewAlert, Results};
use super::versions::merge::{MergedObject, ObjectKey};
use super::versions::{Mirrored as _, Version};
use crate::stripe::event::EventData;
use crate::stripe::objects::{BillingObject, Subscription, SubscriptionItem};

/// Adds the items that the batch's subscription events left out.
pub async fn complete(
    conn: &mut PgConnection,
    decoded: &mut [Decoded<'_>],
) -> Result<(), sqlx::Error> {
    // Earlier states are read once per subscription.
    let mut states = BTreeMap::<ObjectKey, Vec<ShownState>>::new();
    for event in decoded {
        let order = (event.order, event.stored.id.clone());
        if let (BillingObject::Subscription(subscription), Some(owner)) =
            (&mut event.object, event.owner)
            && subscription.has_more_items
        {
            let states = match states.entry((owner, subscription.id.clone())) {
                Entry::Occupied(read) => read.into_mut(),
                Entry::Vacant(unread) => {
                    unread.insert(read_states(conn, owner, &subscription.id).await?)
                }
            };
            subscription.items = items_at(states, subscription, &order);
        }
    }
    Ok(())
}

/// Completes subscriptions whose newest event left items out, when the batch has
/// an earlier event that may show them.
pub async fn revisit(
    conn: &mut PgConnection,
    results: &Results<'_>,
    stored: &BTreeMap<ObjectKey, StoredSubscription>,
    merged: &mut Vec<MergedObject<Subscription>>,
) -> Result<(), sqlx::Error> {
    for key in results.by_object::<Subscription>().into_keys() {
        let written = merged
            .iter_mut()
            .find(|one| one.organization_id == key.0 && one.snapshot.id == key.1);
        if let Some(one) = written {
            if one.snapshot.has_more_items {
                let order = order_of(&one.version);
                let states = read_states(conn, key.0, &key.1).await?;
                one.snapshot.items = items_at(&states, &one.snapshot, &order);
            }
            continue;
        }
        let Some(row) = stored.get(&key).filter(|row| row.has_more_items) else {
            continue;
        };
        let winner = (key.0, &*row.version.last_event_id);
        let winner = store::kept_events(conn, &[winner]).await?;
        let winner = winner.first().and_then(|event| {
            Subscription::read(&EventData::read(&event.payload).ok()?.object).ok()
        });
        if let Some(mut snapshot) = winner {
            let order = order_of(&row.version);
            let states = read_states(conn, key.0, &key.1).await?;
            snapshot.items = items_at(&states, &snapshot, &order);
            merged.push(MergedObject {
                organization_id: key.0,
                version: row.version.clone(),
                snapshot,
                undecided: false,
            });
        }
    }
    Ok(())
}

/// The alert for items that are not known and may be charged.
pub fn alert(event: &Decoded<'_>) -> Option<NewAlert> {
    let subscription = Subscription::of(&event.object).filter(|s| s.has_more_items)?;
    Some(NewAlert {
        organization_id: event.owner?,
        kind: "subscription_items_missing",
        key: subscription.id.clone(),
        resource_type: Subscription::RESOURCE,
        resource_id: subscription.id.clone(),
        message: "Stripe's events leave out items of this subscription, and without \
                  STRIPE_SECRET_KEY they cannot be fetched; those known before are kept"
            .to_owned(),
        occurred_at: event.stored.created,
    })
}

/// An event's order and id.
pub type Order = (EventOrder, String);

fn order_of(version: &Version) -> Order {
    (version.order(), version.last_event_id.clone())
}

/// A subscription as an event shows it.
pub type ShownState = (Order, Subscription);

/// The subscription as all its events show it, in their order.
async fn read_states(
    conn: &mut PgConnection,
    organization_id: Uuid,
    subscription_id: &str,
) -> Result<Vec<ShownState>, sqlx::Error> {
    let events = store::events_of(conn, organization_id, subscription_id).await?;
    let shown = events.into_iter().filter_map(|event| {
        let data = EventData::read(&event.payload).ok()?;
        let shown = Subscription::read(&data.object).ok()?;
        let order = shown.order(&event.event_type, event.created.as_second());
        Some(((order, event.id), shown))
    });
    let mut states: Vec<ShownState> = shown.collect();
    states.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(states)
}

/// The items of `subscription`, whose list is truncated, as of `order`.
pub fn items_at(
    states: &[ShownState],
    subscription: &Subscription,
    order: &Order,
) -> Vec<SubscriptionItem> {
    let earlier = &states[..states.partition_point(|(at, _)| at < order)];
    let whole = earlier.iter().rposition(|(_, shown)| !shown.has_more_items);
    let shown = earlier[whole.unwrap_or(0)..].iter().map(|(_, shown)| shown);
    let shown = shown.chain([subscription]).flat_map(|shown| &shown.items);
    let items: BTreeMap<&str, &SubscriptionItem> =
        shown.map(|item| (item.id.as_str(), item)).collect();
    items.into_values().cloned().collect()
}
