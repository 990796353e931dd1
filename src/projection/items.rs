//! Items of a subscription that its newest event left out: Stripe shows the
//! first few of a list and says `has_more`. What is not shown is not gone.
//!
//! An event whose list is cut has the items that it shows, and those of the
//! events before it, back to the last whose list is whole. That depends on the
//! set of events alone. Where Stripe can be asked, it is asked as well.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use billing_domain::event_order::Place;
use sqlx::PgConnection;
use uuid::Uuid;

use super::decode::Decoded;
use super::subscription::StoredSubscription;
use super::versions::apply::{Folded, Key};
use super::versions::{Mirrored as _, Version};
use super::{EventData, NewAlert, Results, Subscription, store};
use crate::stripe::objects::{BillingObject, SubscriptionItem};

/// Gives the batch's events about subscriptions the items that they left out.
pub async fn complete(
    conn: &mut PgConnection,
    decoded: &mut [Decoded<'_>],
) -> Result<(), sqlx::Error> {
    // What was told before is read once, however many events need it.
    let mut told = BTreeMap::<Key, Vec<Told>>::new();
    for event in decoded {
        let order = (event.place, event.stored.id.clone());
        if let (BillingObject::Subscription(subscription), Some(owner)) =
            (&mut event.object, event.owner)
            && subscription.has_more_items
        {
            let told = match told.entry((owner, subscription.id.clone())) {
                Entry::Occupied(read) => read.into_mut(),
                Entry::Vacant(unread) => {
                    unread.insert(read_told(conn, owner, &subscription.id).await?)
                }
            };
            subscription.items = items_at(told, subscription, &order);
        }
    }
    Ok(())
}

/// Subscriptions whose newest event left items out, and of which the batch has
/// an earlier event: it may show them.
pub async fn revisit(
    conn: &mut PgConnection,
    results: &Results<'_>,
    stored: &BTreeMap<Key, StoredSubscription>,
    folded: &mut Vec<Folded<Subscription>>,
) -> Result<(), sqlx::Error> {
    for key in results.by_object::<Subscription>().into_keys() {
        let written = folded
            .iter_mut()
            .find(|one| one.organization_id == key.0 && one.snapshot.id == key.1);
        if let Some(one) = written {
            if one.snapshot.has_more_items {
                let order = order_of(&one.version);
                let told = read_told(conn, key.0, &key.1).await?;
                one.snapshot.items = items_at(&told, &one.snapshot, &order);
            }
            continue;
        }
        let Some(row) = stored.get(&key).filter(|row| row.has_more_items) else {
            continue;
        };
        let winner =
            store::kept_events(conn, std::slice::from_ref(&row.version.last_event_id)).await?;
        let winner = winner.first().and_then(|event| {
            Subscription::read(&EventData::read(&event.payload).ok()?.object).ok()
        });
        if let Some(mut snapshot) = winner {
            let order = order_of(&row.version);
            let told = read_told(conn, key.0, &key.1).await?;
            snapshot.items = items_at(&told, &snapshot, &order);
            folded.push(Folded {
                organization_id: key.0,
                version: row.version.clone(),
                snapshot,
                undecided: false,
            });
        }
    }
    Ok(())
}

/// What is not known of a subscription may be what it costs.
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

/// Where an event stands, and its id.
type Order = (Place, String);

fn order_of(version: &Version) -> Order {
    (version.place(), version.last_event_id.clone())
}

/// What an event shows of a subscription.
type Told = (Order, Subscription);

/// What all events show of a subscription, in their order.
async fn read_told(
    conn: &mut PgConnection,
    organization_id: Uuid,
    subscription_id: &str,
) -> Result<Vec<Told>, sqlx::Error> {
    let events = store::events_of(conn, organization_id, subscription_id).await?;
    let shown = events.into_iter().filter_map(|event| {
        let data = EventData::read(&event.payload).ok()?;
        let shown = Subscription::read(&data.object).ok()?;
        let place = shown.place(&event.event_type, event.created.as_second());
        Some(((place, event.id), shown))
    });
    let mut told: Vec<Told> = shown.collect();
    told.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(told)
}

/// The items of `subscription`, whose list is cut, as of the event at `order`.
fn items_at(told: &[Told], subscription: &Subscription, order: &Order) -> Vec<SubscriptionItem> {
    let earlier = &told[..told.partition_point(|(at, _)| at < order)];
    let whole = earlier.iter().rposition(|(_, shown)| !shown.has_more_items);
    let shown = earlier[whole.unwrap_or(0)..].iter().map(|(_, shown)| shown);
    let shown = shown.chain([subscription]).flat_map(|shown| &shown.items);
    let items: BTreeMap<&str, &SubscriptionItem> =
        shown.map(|item| (item.id.as_str(), item)).collect();
    items.into_values().cloned().collect()
}
