//! Folding events over the stored state of the object they are about.
//!
//! The newest event of an object decides its state. Events that share a place
//! in the order are decided by [`event_order::last_of`] over all of them, so
//! their ids are kept with the state, and their payloads are read again from
//! the inbox when another of the same place arrives. The result depends on the
//! set of events alone, not on how they came.

use std::collections::{BTreeMap, HashMap, HashSet};

use billing_domain::event_order::{self, Contender, Place};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::decode::{Decoded, read_object};
use super::{Effects, EventData, Results, store};
use crate::audit::{Actor, NewEntry};
use crate::stripe::objects::BillingObject;

/// An object of Stripe's that is kept as a row.
pub trait Mirrored: Clone {
    /// The word for it in audit entries.
    const RESOURCE: &'static str;

    fn of(object: &BillingObject) -> Option<&Self>;
    fn id(&self) -> &str;
    /// Where an event of `event_type`, made at `created`, stands.
    fn place(&self, event_type: &str, created: i64) -> Place;
}

/// Ranks of terminal states are stored from here on.
const TERMINAL: i16 = 100;

/// Which event wrote a row, and which others share its place.
#[derive(Debug, Clone, Serialize)]
pub struct Version {
    pub last_event_at: Timestamp,
    pub last_event_rank: i16,
    pub last_event_id: String,
    pub tied_event_ids: Vec<String>,
}

impl Version {
    fn place(&self) -> Place {
        Place {
            terminal: self.last_event_rank >= TERMINAL,
            created: self.last_event_at.as_second(),
            rank: u8::try_from(self.last_event_rank % TERMINAL).unwrap_or(u8::MAX),
        }
    }

    fn of(event: &Decoded<'_>) -> Self {
        let Place { terminal, rank, .. } = event.place;
        Self {
            last_event_at: event.stored.created,
            last_event_rank: i16::from(rank) + if terminal { TERMINAL } else { 0 },
            last_event_id: event.stored.id.clone(),
            tied_event_ids: vec![event.stored.id.clone()],
        }
    }
}

/// An object's state while events are folded over it.
pub struct History<T> {
    pub version: Option<Version>,
    /// The newest snapshot, if the fold brought one.
    pub snapshot: Option<T>,
    /// Whether the row must be written.
    pub changed: bool,
    contenders: Vec<(String, EventData, Option<T>)>,
}

/// What an event did to the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is the state.
    Newest,
    /// A later event is the state.
    Older,
}

impl<T: Mirrored> History<T> {
    pub fn new(version: Option<Version>) -> Self {
        Self {
            version,
            snapshot: None,
            changed: false,
            contenders: Vec::new(),
        }
    }

    /// Folds `event`, which shows `object`. `earlier` has the payloads of
    /// events that share their place with others.
    pub fn fold(&mut self, event: &Decoded<'_>, object: &T, earlier: &Earlier) -> Step {
        let Some(version) = &self.version else {
            return self.replace(event, object);
        };
        match event.place.cmp(&version.place()) {
            std::cmp::Ordering::Less => Step::Older,
            std::cmp::Ordering::Greater => self.replace(event, object),
            std::cmp::Ordering::Equal => self.contend(event, object, earlier),
        }
    }

    fn replace(&mut self, event: &Decoded<'_>, object: &T) -> Step {
        self.version = Some(Version::of(event));
        self.snapshot = Some(object.clone());
        self.changed = true;
        self.contenders = vec![(
            event.stored.id.clone(),
            event.data.clone(),
            Some(object.clone()),
        )];
        Step::Newest
    }

    fn contend(&mut self, event: &Decoded<'_>, object: &T, earlier: &Earlier) -> Step {
        let id = &event.stored.id;
        let Some(version) = &mut self.version else {
            unreachable!("only a known version can tie")
        };
        for tied in &version.tied_event_ids {
            if tied != id && !self.contenders.iter().any(|(known, ..)| known == tied) {
                let (data, object) = earlier.get::<T>(tied);
                self.contenders.push((tied.clone(), data, object));
            }
        }
        self.contenders.retain(|(known, ..)| known != id);
        self.contenders
            .push((id.clone(), event.data.clone(), Some(object.clone())));
        if !version.tied_event_ids.contains(id) {
            version.tied_event_ids.push(id.clone());
            version.tied_event_ids.sort();
            self.changed = true;
        }

        let contenders: Vec<Contender<'_>> = self
            .contenders
            .iter()
            .map(|(event_id, data, _)| Contender {
                event_id,
                object: &data.object,
                previous_attributes: data.previous_attributes.as_ref(),
            })
            .collect();
        let (winner_id, _, winner) = &self.contenders[event_order::last_of(&contenders)];
        // The winner may be an event other than this one: this one may have
        // shown that what was thought newest was followed by another. A replay
        // of the newest writes the row again.
        self.changed |= winner_id == id || *winner_id != version.last_event_id;
        if let (true, Some(winner)) = (self.changed, winner) {
            self.snapshot = Some(winner.clone());
            version.last_event_id.clone_from(winner_id);
        }
        if winner_id == id {
            Step::Newest
        } else {
            Step::Older
        }
    }
}

/// The payloads of events that were applied before and share their place with
/// events of this batch.
#[derive(Default)]
pub struct Earlier(HashMap<String, (String, EventData)>);

impl Earlier {
    /// Reads what the events of `batch` tie with.
    pub async fn load<'a>(
        conn: &mut PgConnection,
        batch: impl Iterator<Item = (&'a Decoded<'a>, Option<&'a Version>)>,
    ) -> Result<Self, sqlx::Error> {
        let mut wanted = HashSet::new();
        for (event, version) in batch {
            let tied = version.filter(|version| version.place() == event.place);
            wanted.extend(
                tied.into_iter()
                    .flat_map(|version| version.tied_event_ids.iter().cloned()),
            );
        }
        if wanted.is_empty() {
            return Ok(Self::default());
        }
        let payloads = store::payloads(conn, &wanted.into_iter().collect::<Vec<_>>()).await?;
        let read = payloads
            .into_iter()
            .filter_map(|(id, event_type, payload)| {
                Some((id, (event_type, EventData::read(&payload).ok()?)))
            });
        Ok(Self(read.collect()))
    }

    /// An event that is no longer in the inbox is decided by its id alone.
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
                },
                None,
            ),
        }
    }
}

/// The key of a row: its organization and the object's id.
pub type Key = (Uuid, String);

/// A stored row: what it says in audit entries, and its version.
pub struct Stored {
    pub summary: Value,
    pub version: Version,
}

pub type StoredRows = BTreeMap<Key, Stored>;

/// What came out of folding the events of one object.
pub struct Folded<T> {
    pub organization_id: Uuid,
    pub version: Version,
    pub snapshot: T,
}

/// A row to be written.
#[derive(Serialize)]
pub struct Row<'a, T: Serialize> {
    pub organization_id: Uuid,
    #[serde(flatten)]
    pub snapshot: &'a T,
    #[serde(flatten)]
    pub version: &'a Version,
}

impl<T: Serialize> Folded<T> {
    pub fn row(&self) -> Row<'_, T> {
        Row {
            organization_id: self.organization_id,
            snapshot: &self.snapshot,
            version: &self.version,
        }
    }
}

/// Folds all events about objects of one kind over their stored rows, enters
/// each change in the audit log, and returns the objects to be written.
/// `summarize` says what an audit entry shows of a snapshot from `version`.
pub async fn fold_objects<T: Mirrored>(
    conn: &mut PgConnection,
    results: &mut Results<'_>,
    effects: &mut Effects,
    stored: &StoredRows,
    summarize: impl Fn(&Key, &T, &Version) -> Value,
) -> Result<Vec<Folded<T>>, sqlx::Error> {
    let objects = results.by_object::<T>();
    let batch = objects.iter().flat_map(|(key, events)| {
        let version = stored.get(key).map(|stored| &stored.version);
        events.iter().map(move |(_, event, _)| (*event, version))
    });
    let earlier = Earlier::load(conn, batch).await?;

    let mut folded = Vec::new();
    for (key, events) in &objects {
        let mut summary = stored.get(key).map(|stored| stored.summary.clone());
        let mut history = History::<T>::new(stored.get(key).map(|stored| stored.version.clone()));
        for (position, event, object) in events {
            results.newer[*position] = history.fold(event, object, &earlier) != Step::Older;
            let (Some(snapshot), Some(version)) = (&history.snapshot, &history.version) else {
                continue;
            };
            let after = summarize(key, snapshot, version);
            // A replay of what is the state already changes nothing to tell of,
            // unless the row had been changed behind our back.
            let told = version.last_event_id == event.stored.id
                && stored
                    .get(key)
                    .is_none_or(|s| s.version.last_event_id != event.stored.id);
            if summary.as_ref() != Some(&after) || told {
                effects.record(
                    event,
                    audit_entry::<T>(key, event, summary.take(), after.clone()),
                );
            }
            summary = Some(after);
        }
        if let (true, Some(snapshot), Some(version)) =
            (history.changed, history.snapshot, history.version)
        {
            folded.push(Folded {
                organization_id: key.0,
                version,
                snapshot,
            });
        }
    }
    Ok(folded)
}

fn audit_entry<T: Mirrored>(
    key: &Key,
    event: &Decoded<'_>,
    before: Option<Value>,
    after: Value,
) -> NewEntry {
    NewEntry {
        organization_id: key.0,
        action: action(&event.stored.event_type),
        actor: Actor::Webhook,
        resource_type: T::RESOURCE,
        resource_id: key.1.clone(),
        before,
        after: Some(after),
        metadata: Value::Null,
    }
}

/// The audit log's word for what an event of `event_type` does.
pub(super) fn action(event_type: &str) -> &'static str {
    match event_type {
        "invoice.created" => "invoice_created",
        "invoice.finalized" => "invoice_finalized",
        "invoice.updated" => "invoice_updated",
        "invoice.payment_succeeded" => "invoice_payment_succeeded",
        "invoice.payment_failed" => "invoice_payment_failed",
        "customer.subscription.created" => "subscription_created",
        "customer.subscription.updated" => "subscription_updated",
        "customer.subscription.deleted" => "subscription_deleted",
        "charge.succeeded" => "charge_succeeded",
        "charge.failed" => "charge_failed",
        "payment_method.attached" => "payment_method_attached",
        "payment_method.detached" => "payment_method_detached",
        other => unreachable!("{other} has no handler"),
    }
}
