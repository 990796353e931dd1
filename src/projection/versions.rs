//! Merges the events of one object into its state, whatever their order of
//! delivery.
//!
//! The newest event is the state. Among events of equal order, a [`TieBreaker`]
//! between all of them decides, so their ids are kept with the state. The result
//! depends only on the set of events. Nothing here touches the database.

pub mod merge;

use std::collections::HashMap;

use billing_domain::event_order::{EventOrder, TieBreaker};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::decode::Decoded;
use super::event_types::read_object;
use crate::stripe::event::EventData;
use crate::stripe::objects::BillingObject;

/// A Stripe object that is mirrored as a row.
pub trait Mirrored: Clone {
    /// The resource type in audit entries.
    const RESOURCE: &'static str;

    fn of(object: &BillingObject) -> Option<&Self>;
    fn id(&self) -> &str;
    /// The order of an event of `event_type`, created at `created`.
    fn order(&self, event_type: &str, created: i64) -> EventOrder;
}

/// Added to the stored rank of terminal states.
const TERMINAL: i16 = 100;

/// The event that last wrote a row, and the events of equal order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    pub last_event_at: Timestamp,
    pub last_event_rank: i16,
    pub last_event_id: String,
    pub tied_event_ids: Vec<String>,
}

impl Version {
    pub fn order(&self) -> EventOrder {
        EventOrder {
            terminal: self.last_event_rank >= TERMINAL,
            created: self.last_event_at.as_second(),
            rank: u8::try_from(self.last_event_rank % TERMINAL).unwrap_or(u8::MAX),
        }
    }

    fn of(event: &Decoded<'_>) -> Self {
        Self::at(event.order, event.stored.created, event.stored.id.clone())
    }

    /// The version written by an event of this order and id.
    pub fn at(order: EventOrder, told_at: Timestamp, id: String) -> Self {
        Self {
            last_event_at: told_at,
            last_event_rank: i16::from(order.rank) + if order.terminal { TERMINAL } else { 0 },
            tied_event_ids: vec![id.clone()],
            last_event_id: id,
        }
    }
}

/// An object's state while events are merged into it.
pub struct ObjectMerge<'e, T> {
    pub version: Option<Version>,
    /// The newest snapshot, if an event of the batch has it.
    pub snapshot: Option<T>,
    /// Whether the row must be written.
    pub changed: bool,
    /// Whether the last of the events of equal order is unknown.
    pub undecided: bool,
    /// The event of the batch that has the current version.
    newest: Option<(&'e Decoded<'e>, &'e T)>,
    /// The events of the version's order, once there are several.
    tie_breaker: Option<TieBreaker>,
    /// Their snapshots, in the same order.
    shown: Vec<Option<T>>,
}

/// Whether an event is the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recency {
    Newest,
    /// A later event is the state.
    Older,
}

impl<'e, T: Mirrored> ObjectMerge<'e, T> {
    pub fn new(version: Option<Version>) -> Self {
        Self {
            version,
            snapshot: None,
            changed: false,
            undecided: false,
            newest: None,
            tie_breaker: None,
            shown: Vec::new(),
        }
    }

    /// Merges `event` with its `object`. `earlier` has the payloads of stored
    /// events of equal order.
    pub fn merge(&mut self, event: &'e Decoded<'e>, object: &'e T, earlier: &Earlier) -> Recency {
        let Some(version) = &self.version else {
            return self.replace(event, object);
        };
        match event.order.cmp(&version.order()) {
            std::cmp::Ordering::Less => Recency::Older,
            std::cmp::Ordering::Greater => self.replace(event, object),
            std::cmp::Ordering::Equal => self.contend(event, object, earlier),
        }
    }

    fn replace(&mut self, event: &'e Decoded<'e>, object: &'e T) -> Recency {
        self.version = Some(Version::of(event));
        self.snapshot = Some(object.clone());
        self.changed = true;
        self.undecided = false;
        self.newest = Some((event, object));
        self.tie_breaker = None;
        Recency::Newest
    }

    fn contend(&mut self, event: &'e Decoded<'e>, object: &'e T, earlier: &Earlier) -> Recency {
        let id = &event.stored.id;
        let mut tie_breaker = match self.tie_breaker.take() {
            Some(tie_breaker) => tie_breaker,
            None => self.open_tie_breaker(earlier),
        };
        self.enter(&mut tie_breaker, id, &event.data, Some(object.clone()));
        let Some(version) = &mut self.version else {
            unreachable!("only a known version can tie")
        };
        if let Err(at) = version.tied_event_ids.binary_search(id) {
            version.tied_event_ids.insert(at, id.clone());
            self.changed = true;
        }

        self.undecided = !tie_breaker.is_decided();
        let winner = tie_breaker.last();
        let winner_id = tie_breaker.event_id(winner);
        let step = match winner_id == id {
            true => Recency::Newest,
            false => Recency::Older,
        };
        // This event may show that another one is the last. A replay of the last
        // one writes the row again.
        self.changed |= step == Recency::Newest || winner_id != version.last_event_id;
        if let (true, Some(winner)) = (self.changed, &self.shown[winner]) {
            self.snapshot = Some(winner.clone());
            winner_id.clone_into(&mut version.last_event_id);
        }
        self.tie_breaker = Some(tie_breaker);
        step
    }

    /// Starts a tie breaker with the events of the version's order.
    fn open_tie_breaker(&mut self, earlier: &Earlier) -> TieBreaker {
        let mut tie_breaker = TieBreaker::default();
        self.shown.clear();
        if let Some((event, object)) = self.newest {
            let id = &event.stored.id;
            self.enter(&mut tie_breaker, id, &event.data, Some(object.clone()));
        }
        let tied = self.version.as_mut().map(|version| {
            version.tied_event_ids.sort();
            version.tied_event_ids.clone()
        });
        for id in tied.unwrap_or_default() {
            if !tie_breaker.contains(&id) {
                let (data, object) = earlier.get::<T>(&id);
                self.enter(&mut tie_breaker, &id, &data, object);
            }
        }
        tie_breaker
    }

    fn enter(
        &mut self,
        tie_breaker: &mut TieBreaker,
        id: &str,
        data: &EventData,
        shown: Option<T>,
    ) {
        let compared = data.digests();
        let at = tie_breaker.put(id.to_owned(), compared.object, compared.previous_attributes);
        match self.shown.get_mut(at) {
            Some(known) => *known = shown,
            None => self.shown.push(shown),
        }
    }
}

/// Type and data, by id, of applied events whose order equals that of an event
/// of this batch.
#[derive(Default)]
pub struct Earlier(pub HashMap<String, (String, EventData)>);

impl Earlier {
    /// An event that is no longer stored takes part with its id alone.
    fn get<T: Mirrored>(&self, id: &str) -> (EventData, Option<T>) {
        match self.0.get(id) {
            Some((event_type, data)) => {
                let object = read_object(event_type, data).ok();
                (data.clone(), object.as_ref().and_then(T::of).cloned())
            }
            None => (
                EventData {
                    object: json!({}),
                    previous_attributes: None,
                    caused_by: None,
                    digests: None,
                },
                None,
            ),
        }
    }
}

#[cfg(test)]
mod tests;
