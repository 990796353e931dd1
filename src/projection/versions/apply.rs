//! Folding a batch of events over the stored state of the objects they are
//! about: what is stored is read, [`History`] decides, and each change is
//! entered in the audit log. Payloads of events that tie with those of the
//! batch are read again from the inbox.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Earlier, History, Mirrored, Step, Version};
use crate::audit::{Actor, NewEntry};
use crate::projection::decode::Decoded;
use crate::projection::event_types::action;
use crate::projection::{Effects, EventData, Results, store};

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
    /// Another event of its second may as well be the newest.
    pub undecided: bool,
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
    let earlier = load_earlier(conn, batch).await?;

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
                undecided: history.undecided,
            });
        }
    }
    Ok(folded)
}

/// Reads what the events of `batch` tie with.
async fn load_earlier<'a>(
    conn: &mut PgConnection,
    batch: impl Iterator<Item = (&'a Decoded<'a>, Option<&'a Version>)>,
) -> Result<Earlier, sqlx::Error> {
    let mut wanted = HashSet::new();
    for (event, version) in batch {
        let tied = version.filter(|version| version.place() == event.place);
        wanted.extend(
            tied.into_iter()
                .flat_map(|version| version.tied_event_ids.iter().cloned()),
        );
    }
    if wanted.is_empty() {
        return Ok(Earlier::default());
    }
    let kept = store::kept_events(conn, &wanted.into_iter().collect::<Vec<_>>()).await?;
    let read = kept.into_iter().filter_map(|event| {
        let data = EventData::read(&event.payload).ok()?;
        Some((event.id, (event.event_type, data)))
    });
    Ok(Earlier(read.collect()))
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
        client: None,
    }
}
