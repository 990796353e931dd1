//! Decides which of several events about one object describes its latest state.
//!
//! Stripe delivers events late, more than once and in any order. Event ids do
//! not sort and timestamps are whole seconds. The order defined here is total
//! over any set of events, so every arrival order yields the same latest event.

mod digest;
mod tie_breaker;

use serde_json::{Map, Value};

pub use digest::{Attributes, Digest};
pub use tie_breaker::TieBreaker;

/// The position of an event in the history of its object; greater is later.
///
/// A terminal state, which Stripe never leaves, comes last whatever its
/// timestamp says. Within one second, `rank` follows the life of the object:
/// created before updated, open before paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventOrder {
    pub terminal: bool,
    /// Unix time, in seconds.
    pub created: i64,
    pub rank: u8,
}

/// Returns `object` as it was before a change. `changed` holds the previous
/// values of the changed attributes (`data.previous_attributes`).
#[must_use]
pub fn before(object: &Value, changed: &Map<String, Value>) -> Value {
    let mut earlier = object.clone();
    let Some(attributes) = earlier.as_object_mut() else {
        return earlier;
    };
    for (name, was) in changed {
        let was = match (object.get(name), was) {
            // A nested object lists only the keys that changed.
            (Some(now), Value::Object(was)) if now.is_object() => before(now, was),
            (_, was) => without_nulls(was),
        };
        if was.is_null() {
            attributes.remove(name);
        } else {
            attributes.insert(name.clone(), was);
        }
    }
    earlier
}

/// Stripe treats a null attribute and a missing one alike, so nulls are
/// dropped.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(attributes) => attributes
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
fn shows(object: &Value, attributes: &Map<String, Value>) -> bool {
    attributes
        .iter()
        .all(|(name, was)| match (object.get(name), was) {
            (None, was) => was.is_null(),
            // A nested object lists only the keys that changed.
            (Some(now), Value::Object(was)) if now.is_object() => shows(now, was),
            (Some(now), was) => now == was,
        })
}

#[cfg(test)]
mod tests;
