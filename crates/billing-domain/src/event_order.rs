//! Which of two events about one object tells of its later state.
//!
//! Stripe delivers events late, twice and in any order; its ids do not sort,
//! and its times are whole seconds. The order here is total over any set of
//! events, so the newest of them is the same however they arrive.

mod contest;

use serde_json::{Map, Value};

pub use contest::Contest;

/// Where an event stands among those of its object; greater is later.
///
/// A state that Stripe never leaves comes last whatever its time says. Within
/// one second, `rank` follows the object's life: created before updated, open
/// before paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub terminal: bool,
    /// Unix seconds.
    pub created: i64,
    pub rank: u8,
}

/// `object` before it was changed; `changed` are the attributes as they were.
#[must_use]
pub fn before(object: &Value, changed: &Map<String, Value>) -> Value {
    let mut earlier = object.clone();
    let Some(attributes) = earlier.as_object_mut() else {
        return earlier;
    };
    for (name, was) in changed {
        let was = match (object.get(name), was) {
            // A changed hash lists only the keys that changed.
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

/// An attribute that is null is as good as absent.
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

fn shows(object: &Value, attributes: &Map<String, Value>) -> bool {
    attributes
        .iter()
        .all(|(name, was)| match (object.get(name), was) {
            (None, was) => was.is_null(),
            // A changed hash lists only the keys that changed.
            (Some(now), Value::Object(was)) if now.is_object() => shows(now, was),
            (Some(now), was) => now == was,
        })
}

#[cfg(test)]
mod tests;
