//! What subscriptions were, event by event, for whom the mirror's present is not enough.

use std::collections::{BTreeMap, HashMap};

use billing_domain::event_order::EventOrder;
use jiff::Timestamp;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::versions::Mirrored as _;
use super::versions::merge::ObjectKey;
use super::{items, store};
use crate::stripe::event::EventData;
use crate::stripe::objects::Subscription;

/// A subscription as one of its events shows it.
pub struct SubscriptionState {
    pub event_id: String,
    pub at: Timestamp,
    /// The status that the event says it had before, if the event changed it.
    pub status_before: Option<String>,
    pub shown: Subscription,
}

/// The states of each subscription of `organizations`, in the order of their events: the
/// newest `depth` that are still stored.
pub async fn subscription_states(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    depth: i64,
) -> Result<BTreeMap<ObjectKey, Vec<SubscriptionState>>, sqlx::Error> {
    let applied = store::subscription_history::recent_events(conn, organizations, depth).await?;
    let owners: HashMap<&str, Uuid> = applied
        .iter()
        .map(|(organization, id)| (id.as_str(), *organization))
        .collect();
    let wanted: Vec<(Uuid, &str)> = owners.iter().map(|(id, owner)| (*owner, *id)).collect();
    let mut read = BTreeMap::<ObjectKey, Vec<(EventOrder, SubscriptionState)>>::new();
    for event in store::kept_events(conn, &wanted).await? {
        let Some(owner) = owners.get(event.id.as_str()) else {
            continue;
        };
        // What cannot be read was not applied either.
        let Ok(data) = EventData::read(&event.payload) else {
            continue;
        };
        let Ok(shown) = Subscription::read(&data.object) else {
            continue;
        };
        let before = data.previous_attributes.as_ref();
        let before = before.and_then(|before| before.get("status"));
        let state = SubscriptionState {
            at: event.created,
            status_before: before.and_then(Value::as_str).map(str::to_owned),
            event_id: event.id,
            shown,
        };
        let order = state
            .shown
            .order(&event.event_type, event.created.as_second());
        let key = (*owner, state.shown.id.clone());
        read.entry(key).or_default().push((order, state));
    }
    Ok(read
        .into_iter()
        .map(|(key, states)| (key, in_order(states)))
        .collect())
}

/// In the order of events, with the items that lists leave out.
fn in_order(mut states: Vec<(EventOrder, SubscriptionState)>) -> Vec<SubscriptionState> {
    states.sort_by(|(a, left), (b, right)| (a, &left.event_id).cmp(&(b, &right.event_id)));
    if states.iter().any(|(_, state)| state.shown.has_more_items) {
        let all: Vec<items::ShownState> = states
            .iter()
            .map(|(order, state)| ((*order, state.event_id.clone()), state.shown.clone()))
            .collect();
        for (order, state) in &mut states {
            if state.shown.has_more_items {
                let order = (*order, state.event_id.clone());
                state.shown.items = items::items_at(&all, &state.shown, &order);
            }
        }
    }
    states.into_iter().map(|(_, state)| state).collect()
}

/// Enters what the mirror has not kept of price and collection until now, from the events that
/// wrote the rows.
pub async fn complete_terms(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<(), sqlx::Error> {
    let states = subscription_states(conn, organizations, 1).await?;
    let newest: Vec<_> = states
        .iter()
        .filter_map(|((organization, _), states)| Some((*organization, states.last()?)))
        .collect();
    store::subscription_history::complete_terms(conn, &newest).await
}
