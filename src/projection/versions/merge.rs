//! Merges a batch of events into the stored objects: [`ObjectMerge`] decides, and
//! each change becomes an audit entry. Payloads of stored events of equal order
//! are read from the event log.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Earlier, Mirrored, ObjectMerge, Recency, Version};
use crate::audit::{Actor, NewEntry};
use crate::projection::decode::Decoded;
use crate::projection::event_types::action;
use crate::projection::store;
use crate::projection::types::{Effects, Results};
use crate::stripe::event::EventData;

/// The key of a row: organization and object id.
pub type ObjectKey = (Uuid, String);

/// A stored row: its summary for audit entries and its version.
pub struct Stored {
    pub summary: Value,
    pub version: Version,
}

pub type StoredRows = BTreeMap<ObjectKey, Stored>;

/// An object after its events were merged.
pub struct MergedObject<T> {
    pub organization_id: Uuid,
    pub version: Version,
    pub snapshot: T,
    /// Another event of equal order may be the newest instead.
    pub undecided: bool,
}

/// A row to write.
#[derive(Serialize)]
pub struct Row<'a, T: Serialize> {
    pub organization_id: Uuid,
    #[serde(flatten)]
    pub snapshot: &'a T,
    #[serde(flatten)]
    pub version: &'a Version,
}

impl<T: Serialize> MergedObject<T> {
    pub fn row(&self) -> Row<'_, T> {
        Row {
            organization_id: self.organization_id,
            snapshot: &self.snapshot,
            version: &self.version,
        }
    }
}

/// Merges the events of one kind of object into the stored rows, records each
/// change for the audit log, and returns the objects to write. `summarize` makes
/// the summary of a snapshot for audit entries.
pub async fn merge_events<T: Mirrored>(
    conn: &mut PgConnection,
    results: &mut Results<'_>,
    effects: &mut Effects,
    stored: &StoredRows,
    summarize: impl Fn(&ObjectKey, &T, &Version) -> Value,
) -> Result<Vec<MergedObject<T>>, sqlx::Error> {
    let objects = results.by_object::<T>();
    let batch = objects.iter().flat_map(|(key, events)| {
        let version = stored.get(key).map(|stored| &stored.version);
        let organization = key.0;
        events
            .iter()
            .map(move |(_, event, _)| (organization, *event, version))
    });
    let earlier = load_earlier(conn, batch).await?;

    let mut merged = Vec::new();
    for (key, events) in &objects {
        let mut summary = stored.get(key).map(|stored| stored.summary.clone());
        let mut merge = ObjectMerge::<T>::new(stored.get(key).map(|stored| stored.version.clone()));
        for (position, event, object) in events {
            results.newer[*position] = merge.merge(event, object, &earlier) != Recency::Older;
            let (Some(snapshot), Some(version)) = (&merge.snapshot, &merge.version) else {
                continue;
            };
            let after = summarize(key, snapshot, version);
            // Replaying the current event changes nothing, unless the row was
            // changed otherwise.
            let is_new = version.last_event_id == event.stored.id
                && stored
                    .get(key)
                    .is_none_or(|s| s.version.last_event_id != event.stored.id);
            if summary.as_ref() != Some(&after) || is_new {
                effects.record(
                    event,
                    audit_entry::<T>(key, event, summary.take(), after.clone()),
                );
            }
            summary = Some(after);
        }
        if let (true, Some(snapshot), Some(version)) =
            (merge.changed, merge.snapshot, merge.version)
        {
            merged.push(MergedObject {
                organization_id: key.0,
                version,
                snapshot,
                undecided: merge.undecided,
            });
        }
    }
    Ok(merged)
}

/// Reads the stored events of the same order as events of `batch`.
async fn load_earlier<'a>(
    conn: &mut PgConnection,
    batch: impl Iterator<Item = (Uuid, &'a Decoded<'a>, Option<&'a Version>)>,
) -> Result<Earlier, sqlx::Error> {
    let mut wanted = HashSet::new();
    for (organization, event, version) in batch {
        let tied = version.filter(|version| version.order() == event.order);
        let tied = tied.into_iter().flat_map(|version| &version.tied_event_ids);
        wanted.extend(tied.map(|id| (organization, id.as_str())));
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
    key: &ObjectKey,
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
        reason: None,
    }
}
