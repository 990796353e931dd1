//! The tier that a subscription keeps while the catalogue knows none of its
//! prices: that of its newest event which the catalogue did know.
//!
//! It is kept with the row, so that an event costs the same however many came
//! before it. Like the row, it depends on the set of events alone: the newest
//! of them is the same whatever their order.

use std::collections::BTreeMap;

use billing_domain::event_order::Place;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::fold::Key;
use super::history::Mirrored as _;
use super::subscription::StoredSubscription;
use super::{EventData, Results, Subscription, store};
use crate::plans::Catalogue;

/// What the events of a subscription say of its tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownTier {
    /// The event that had written the row when this was kept. Another one: the
    /// row was written by a program that does not keep this.
    as_of: String,
    newest: Option<Paid>,
}

/// An event whose prices are a plan's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Paid {
    terminal: bool,
    created: i64,
    rank: u8,
    event_id: String,
    tier: String,
}

impl Paid {
    fn order(&self) -> (Place, &str) {
        let place = Place {
            terminal: self.terminal,
            created: self.created,
            rank: self.rank,
        };
        (place, &self.event_id)
    }
}

impl KnownTier {
    pub fn none() -> Self {
        Self {
            as_of: String::new(),
            newest: None,
        }
    }

    pub fn tier(&self) -> Option<&str> {
        Some(self.newest.as_ref()?.tier.as_str())
    }

    /// The same, to be kept with a row that `event_id` wrote.
    pub fn beside(mut self, event_id: &str) -> Self {
        event_id.clone_into(&mut self.as_of);
        self
    }

    /// What is stored beside a row that `event_id` wrote, unless it is not the
    /// row's.
    pub fn stored(value: serde_json::Value, event_id: &str) -> Option<Self> {
        let kept: Self = serde_json::from_value(value).ok()?;
        (kept.as_of == event_id).then_some(kept)
    }

    /// Takes account of an event that shows `shown`. A replayed event counts
    /// as the catalogue has it now.
    fn note(&mut self, catalogue: &Catalogue, shown: &Subscription, place: Place, event_id: &str) {
        let Some(plan) = catalogue.plan_of(shown) else {
            return;
        };
        let newest = self.newest.as_ref();
        if newest.is_none_or(|newest| (place, event_id) >= newest.order()) {
            self.newest = Some(Paid {
                terminal: place.terminal,
                created: place.created,
                rank: place.rank,
                event_id: event_id.to_owned(),
                tier: plan.tier.clone(),
            });
        }
    }
}

/// What the batch makes of the tiers that were kept. Those of subscriptions
/// whose events were not looked through yet are left out.
pub fn noted(
    catalogue: &Catalogue,
    results: &Results<'_>,
    stored: &BTreeMap<Key, StoredSubscription>,
) -> BTreeMap<Key, KnownTier> {
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
            // Items that were filled in depend on what came before.
            let as_told = match subscription.has_more_items {
                true => Subscription::read(&event.data.object).ok(),
                false => None,
            };
            let shown = as_told.as_ref().unwrap_or(subscription);
            known.note(catalogue, shown, event.place, &event.stored.id);
        }
        tiers.insert(key, known);
    }
    tiers
}

/// Looks through all events of a subscription, once.
pub async fn look_for(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organization_id: Uuid,
    subscription_id: &str,
) -> Result<KnownTier, sqlx::Error> {
    let mut known = KnownTier::none();
    for event in store::events_of(conn, organization_id, subscription_id).await? {
        let shown = EventData::read(&event.payload)
            .ok()
            .and_then(|data| Subscription::read(&data.object).ok());
        if let Some(shown) = shown {
            let place = shown.place(&event.event_type, event.created.as_second());
            known.note(catalogue, &shown, place, &event.id);
        }
    }
    Ok(known)
}
