//! Items of a subscription that its newest event left out: Stripe shows the
//! first few of a list and says `has_more`. What is not shown is not gone.
//!
//! An event whose list is cut has the items that it shows, and those of the
//! events before it, back to the last whose list is whole. That depends on the
//! set of events alone. Where Stripe can be asked, it is asked as well.

use std::collections::BTreeMap;

use billing_domain::event_order::Place;
use sqlx::PgConnection;
use uuid::Uuid;

use super::decode::Decoded;
use super::fold::{Folded, Key};
use super::history::{Mirrored as _, Version};
use super::subscription::StoredSubscription;
use super::{EventData, NewAlert, Results, Subscription, store};
use crate::stripe::objects::{BillingObject, SubscriptionItem};

/// Gives the batch's events about subscriptions the items that they left out.
pub async fn complete(
    conn: &mut PgConnection,
    decoded: &mut [Decoded<'_>],
) -> Result<(), sqlx::Error> {
    for event in decoded {
        let order = (event.place, event.stored.id.clone());
        if let (BillingObject::Subscription(subscription), Some(owner)) =
            (&mut event.object, event.owner)
            && subscription.has_more_items
        {
            subscription.items = items_at(conn, owner, subscription, &order).await?;
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
                one.snapshot.items = items_at(conn, key.0, &one.snapshot, &order).await?;
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
            snapshot.items = items_at(conn, key.0, &snapshot, &order).await?;
            folded.push(Folded {
                organization_id: key.0,
                version: row.version.clone(),
                snapshot,
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

/// The items of `subscription`, whose list is cut, as of the event at `order`.
async fn items_at(
    conn: &mut PgConnection,
    organization_id: Uuid,
    subscription: &Subscription,
    order: &Order,
) -> Result<Vec<SubscriptionItem>, sqlx::Error> {
    let events = store::events_of(conn, organization_id, &subscription.id).await?;
    let mut earlier: Vec<(Order, Subscription)> = events
        .into_iter()
        .filter(|event| event.event_type.starts_with("customer.subscription."))
        .filter_map(|event| {
            let data = EventData::read(&event.payload).ok()?;
            let shown = Subscription::read(&data.object).ok()?;
            let place = shown.place(&event.event_type, event.created.as_second());
            Some(((place, event.id), shown))
        })
        .filter(|(at, _)| at < order)
        .collect();
    earlier.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut items = BTreeMap::<String, SubscriptionItem>::new();
    for (_, shown) in earlier {
        if !shown.has_more_items {
            items.clear();
        }
        items.extend(shown.items.into_iter().map(|item| (item.id.clone(), item)));
    }
    let shown = subscription.items.iter();
    items.extend(shown.map(|item| (item.id.clone(), item.clone())));
    Ok(items.into_values().collect())
}
