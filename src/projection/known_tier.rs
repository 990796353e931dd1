//! The tier that a subscription keeps while the catalogue knows none of its
//! prices: that of its newest event which the catalogue did know.
//!
//! It is kept with the row, so that an event costs the same however many came
//! before it. Like the row, it depends on the set of events alone: the newest
//! of them is the same whatever their order. Which of several is the newest that
//! share a place and show different tiers, their changes tell: it is looked for
//! in the events themselves, once it is asked.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use billing_domain::event_order::{Contest, Place};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::subscription::StoredSubscription;
use super::versions::Mirrored as _;
use super::versions::apply::Key;
use super::{EventData, Results, Subscription, store};
use crate::catalogue::Catalogue;

/// What the events of a subscription say of its tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownTier {
    /// The event that had written the row when this was kept. Another one: the
    /// row was written by a program that does not keep this.
    as_of: String,
    newest: Option<Paid>,
    /// Set where events that share the newest one's place show other tiers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    contest: Option<Decision>,
}

/// Whether their changes were asked which of them is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Decision {
    Open,
    Made,
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
    fn at(place: Place, event_id: &str, tier: &str) -> Self {
        Self {
            terminal: place.terminal,
            created: place.created,
            rank: place.rank,
            event_id: event_id.to_owned(),
            tier: tier.to_owned(),
        }
    }

    fn place(&self) -> Place {
        Place {
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
            contest: None,
        }
    }

    /// Whether the subscription's events must be looked through to tell.
    pub fn is_open(&self) -> bool {
        self.contest == Some(Decision::Open)
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
        if let Some(newest) = &self.newest {
            match place.cmp(&newest.place()) {
                Ordering::Less => return,
                Ordering::Equal if newest.event_id == event_id => {}
                Ordering::Equal => {
                    if self.contest.is_some() || newest.tier != plan.tier {
                        self.contest = Some(Decision::Open);
                    }
                    if event_id < newest.event_id.as_str() {
                        return;
                    }
                }
                Ordering::Greater => self.contest = None,
            }
        }
        self.newest = Some(Paid::at(place, event_id, &plan.tier));
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
    let mut shown = Vec::new();
    for event in store::events_of(conn, organization_id, subscription_id).await? {
        let Ok(data) = EventData::read(&event.payload) else {
            continue;
        };
        let Ok(subscription) = Subscription::read(&data.object) else {
            continue;
        };
        let place = subscription.place(&event.event_type, event.created.as_second());
        let plan = catalogue.plan_of(&subscription);
        shown.push(Shown {
            place,
            id: event.id,
            tier: plan.map(|plan| plan.tier.as_str()),
            data,
        });
    }
    Ok(newest_of(shown))
}

/// An event, and the tier that it shows.
struct Shown<'c> {
    place: Place,
    id: String,
    tier: Option<&'c str>,
    data: EventData,
}

/// The newest of the events that show a tier.
fn newest_of(shown: Vec<Shown<'_>>) -> KnownTier {
    let paid = shown.iter().filter(|event| event.tier.is_some());
    let Some(place) = paid.map(|event| event.place).max() else {
        return KnownTier::none();
    };
    let (paid, unknown): (Vec<_>, Vec<_>) = shown
        .into_iter()
        .filter(|event| event.place == place)
        .partition(|event| event.tier.is_some());
    let last = last_of(&paid, &unknown).or_else(|| last_of(&paid, &[]));
    let differ = paid.iter().any(|event| event.tier != paid[0].tier);
    KnownTier {
        as_of: String::new(),
        newest: last.and_then(|last| Some(Paid::at(place, &last.id, last.tier?))),
        contest: differ.then_some(Decision::Made),
    }
}

/// The last of all these events, where it is one of `paid`.
fn last_of<'a, 'c>(paid: &'a [Shown<'c>], unknown: &[Shown<'c>]) -> Option<&'a Shown<'c>> {
    let mut contest = Contest::default();
    for event in paid.iter().chain(unknown) {
        let data = event.data.clone();
        contest.put(event.id.clone(), data.object, data.previous_attributes);
    }
    let last = contest.last();
    paid.get(last)
}
