//! The tier that a subscription keeps while the catalogue knows none of its
//! prices: the tier of its newest event whose prices are known.
//!
//! It is stored with the row, so that the cost of an event does not grow with
//! the number of earlier ones. Like the row, it depends only on the set of
//! events. If events of equal order show different tiers, their payloads decide
//! which is the newest; they are read only when the tier is needed.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use billing_domain::event_order::{EventOrder, TieBreaker};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::store;
use super::subscription::StoredSubscription;
use super::types::Results;
use super::versions::Mirrored as _;
use super::versions::merge::ObjectKey;
use crate::catalogue::Catalogue;
use crate::stripe::event::EventData;
use crate::stripe::objects::Subscription;

/// The known tier of a subscription, from its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownTier {
    /// The event that had written the row when this was stored. If the row names
    /// another one, it was written by a version without known tiers.
    as_of: String,
    newest: Option<PaidTier>,
    /// Set if events of the newest one's order show other tiers. Stored rows have
    /// it as `contest`.
    #[serde(rename = "contest", default, skip_serializing_if = "Option::is_none")]
    tie: Option<Decision>,
}

/// Whether the payloads have decided which event is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Decision {
    Open,
    Made,
}

/// An event whose prices belong to a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PaidTier {
    terminal: bool,
    created: i64,
    rank: u8,
    event_id: String,
    tier: String,
}

impl PaidTier {
    fn at(order: EventOrder, event_id: &str, tier: &str) -> Self {
        Self {
            terminal: order.terminal,
            created: order.created,
            rank: order.rank,
            event_id: event_id.to_owned(),
            tier: tier.to_owned(),
        }
    }

    fn order(&self) -> EventOrder {
        EventOrder {
            terminal: self.terminal,
            created: self.created,
            rank: self.rank,
        }
    }
}

impl KnownTier {
    pub fn none() -> Self {
        Self {
            as_of: String::new(),
            newest: None,
            tie: None,
        }
    }

    /// Whether the subscription's events must be searched to decide.
    pub fn is_open(&self) -> bool {
        self.tie == Some(Decision::Open)
    }

    pub fn tier(&self) -> Option<&str> {
        Some(self.newest.as_ref()?.tier.as_str())
    }

    /// This tier for a row that `event_id` wrote.
    pub fn beside(mut self, event_id: &str) -> Self {
        event_id.clone_into(&mut self.as_of);
        self
    }

    /// Reads the stored value, unless another event than `event_id` was the last
    /// to write its row.
    pub fn stored(value: serde_json::Value, event_id: &str) -> Option<Self> {
        let kept: Self = serde_json::from_value(value).ok()?;
        (kept.as_of == event_id).then_some(kept)
    }

    /// Takes an event into account. A replayed event counts with the current
    /// catalogue.
    fn note(
        &mut self,
        catalogue: &Catalogue,
        shown: &Subscription,
        order: EventOrder,
        event_id: &str,
    ) {
        let Some(plan) = catalogue.plan_of(shown) else {
            return;
        };
        if let Some(newest) = &self.newest {
            match order.cmp(&newest.order()) {
                Ordering::Less => return,
                Ordering::Equal if newest.event_id == event_id => {}
                Ordering::Equal => {
                    if self.tie.is_some() || newest.tier != plan.tier {
                        self.tie = Some(Decision::Open);
                    }
                    if event_id < newest.event_id.as_str() {
                        return;
                    }
                }
                Ordering::Greater => self.tie = None,
            }
        }
        self.newest = Some(PaidTier::at(order, event_id, &plan.tier));
    }
}

/// The known tiers after the batch, except of subscriptions whose events were
/// never searched.
pub fn update_known_tiers(
    catalogue: &Catalogue,
    results: &Results<'_>,
    stored: &BTreeMap<ObjectKey, StoredSubscription>,
) -> BTreeMap<ObjectKey, KnownTier> {
    let mut tiers = BTreeMap::new();
    for (key, events) in results.by_object::<Subscription>() {
        let known = match stored.get(&key) {
            Some(row) => row.known_tier.clone(),
            None => Some(KnownTier::none()),
        };
        let Some(mut known) = known else {
            continue;
        };
        for (_, event, subscription) in events {
            // Completed items depend on earlier events, so the event's own count.
            let original = match subscription.has_more_items {
                true => Subscription::read(&event.data.object).ok(),
                false => None,
            };
            let shown = original.as_ref().unwrap_or(subscription);
            known.note(catalogue, shown, event.order, &event.stored.id);
        }
        tiers.insert(key, known);
    }
    tiers
}

/// Searches all events of a subscription.
pub async fn search_events(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organization_id: Uuid,
    subscription_id: &str,
) -> Result<KnownTier, sqlx::Error> {
    let mut shown = Vec::new();
    for event in store::events_of(conn, organization_id, subscription_id).await? {
        let Ok(data) = EventData::read(&event.payload) else {
            continue;
        };
        let Ok(subscription) = Subscription::read(&data.object) else {
            continue;
        };
        catalogue.recall(conn, [&subscription]).await?;
        let order = subscription.order(&event.event_type, event.created.as_second());
        let plan = catalogue.plan_of(&subscription);
        shown.push(TierEvidence {
            order,
            id: event.id,
            tier: plan.map(|plan| plan.tier.as_str()),
            data,
        });
    }
    Ok(newest_of(shown))
}

/// An event with its tier.
struct TierEvidence<'c> {
    order: EventOrder,
    id: String,
    tier: Option<&'c str>,
    data: EventData,
}

/// The tier of the newest event that has one.
fn newest_of(shown: Vec<TierEvidence<'_>>) -> KnownTier {
    let paid = shown.iter().filter(|event| event.tier.is_some());
    let Some(order) = paid.map(|event| event.order).max() else {
        return KnownTier::none();
    };
    let (paid, unknown): (Vec<_>, Vec<_>) = shown
        .into_iter()
        .filter(|event| event.order == order)
        .partition(|event| event.tier.is_some());
    let last = last_of(&paid, &unknown).or_else(|| last_of(&paid, &[]));
    let differ = paid.iter().any(|event| event.tier != paid[0].tier);
    KnownTier {
        as_of: String::new(),
        newest: last.and_then(|last| Some(PaidTier::at(order, &last.id, last.tier?))),
        tie: differ.then_some(Decision::Made),
    }
}

/// The last of these events, if it is one of `paid`.
fn last_of<'a, 'c>(
    paid: &'a [TierEvidence<'c>],
    unknown: &[TierEvidence<'c>],
) -> Option<&'a TierEvidence<'c>> {
    let mut tie_breaker = TieBreaker::default();
    for event in paid.iter().chain(unknown) {
        let compared = event.data.digests();
        tie_breaker.put(
            event.id.clone(),
            compared.object,
            compared.previous_attributes,
        );
    }
    let last = tie_breaker.last();
    paid.get(last)
}
