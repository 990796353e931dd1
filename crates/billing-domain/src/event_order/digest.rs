//! An object as its events are compared: attributes by name, values by hash. It
//! compares as the object does, and can be kept where the object may not.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde::{Deserialize, de::Error as _};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// Attributes, each digested.
pub type Attributes = BTreeMap<String, Digest>;

/// A JSON value of which only equality is left, and the names of attributes.
///
/// Digests are stored: what is equal must stay equal in later versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Digest {
    Null,
    /// A text, number, flag or array, by 64 bits of its hash.
    Value([u8; 8]),
    Object(Attributes),
}

impl Digest {
    #[must_use]
    pub fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Object(object) => Self::Object(Self::of_attributes(object)),
            value => {
                let mut hasher = Sha256::new();
                update(&mut hasher, value);
                let mut hash = [0; 8];
                hash.copy_from_slice(&hasher.finalize()[..8]);
                Self::Value(hash)
            }
        }
    }

    #[must_use]
    pub fn of_attributes(attributes: &Map<String, Value>) -> Attributes {
        let digested = attributes.iter();
        digested
            .map(|(name, value)| (name.clone(), Self::of(value)))
            .collect()
    }

    /// An attribute that is null is as good as absent.
    pub(super) fn without_nulls(&self) -> Self {
        match self {
            Self::Object(attributes) => Self::Object(
                attributes
                    .iter()
                    .filter(|(_, value)| **value != Self::Null)
                    .map(|(name, value)| (name.clone(), value.without_nulls()))
                    .collect(),
            ),
            other => other.clone(),
        }
    }

    /// The object before it was changed; `changed` are the attributes as they were.
    pub(super) fn before(&self, changed: &Attributes) -> Self {
        let Self::Object(now) = self else {
            return self.clone();
        };
        let mut earlier = now.clone();
        for (name, was) in changed {
            let was = match (now.get(name), was) {
                // A changed hash lists only the keys that changed.
                (Some(now @ Self::Object(_)), Self::Object(was)) => now.before(was),
                (_, was) => was.without_nulls(),
            };
            if was == Self::Null {
                earlier.remove(name);
            } else {
                earlier.insert(name.clone(), was);
            }
        }
        Self::Object(earlier)
    }

    /// Whether the object has these attributes.
    pub(super) fn shows(&self, attributes: &Attributes) -> bool {
        let now = match self {
            Self::Object(now) => Some(now),
            _ => None,
        };
        attributes.iter().all(
            |(name, was)| match (now.and_then(|now| now.get(name)), was) {
                (None, was) => *was == Self::Null,
                (Some(now @ Self::Object(_)), Self::Object(was)) => now.shows(was),
                (Some(now), was) => now == was,
            },
        )
    }
}

/// Values that are equal have the same bytes, and no others have.
fn update(hasher: &mut Sha256, value: &Value) {
    let mut text = |kind: u8, text: &str| {
        hasher.update([kind]);
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    match value {
        Value::Null => hasher.update([0]),
        Value::Bool(value) => hasher.update([1, u8::from(*value)]),
        // Zero equals itself below zero.
        Value::Number(number) if number.is_f64() && number.as_f64() == Some(0.0) => text(2, "0.0"),
        Value::Number(number) => text(2, &number.to_string()),
        Value::String(value) => text(3, value),
        Value::Array(values) => {
            hasher.update([4]);
            hasher.update((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| update(hasher, value));
        }
        Value::Object(attributes) => {
            hasher.update([5]);
            hasher.update((attributes.len() as u64).to_le_bytes());
            // In any order they are equal.
            let sorted: BTreeMap<&String, &Value> = attributes.iter().collect();
            for (name, value) in sorted {
                hasher.update((name.len() as u64).to_le_bytes());
                hasher.update(name.as_bytes());
                update(hasher, value);
            }
        }
    }
}

/// As the object itself, with 16 hexadecimal digits in place of a value.
impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Value(hash) => {
                serializer.serialize_str(&format!("{:016x}", u64::from_be_bytes(*hash)))
            }
            Self::Object(attributes) => attributes.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Digest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("null, 16 hexadecimal digits, or an object of these")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Digest, E> {
                Ok(Digest::Null)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
                let hash = u64::from_str_radix(text, 16).map_err(E::custom)?;
                Ok(Digest::Value(hash.to_be_bytes()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Digest, A::Error> {
                let mut attributes = Attributes::new();
                while let Some((name, value)) = map.next_entry::<String, Digest>()? {
                    if attributes.insert(name, value).is_some() {
                        return Err(A::Error::custom("an attribute stands twice"));
                    }
                }
                Ok(Digest::Object(attributes))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::{before, shows, without_nulls};
    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0_i64..3).prop_map(Value::from),
            Just(json!(0.0)),
            Just(json!(-0.0)),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[xyz]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn object() -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::btree_map("[xyz]", value(), 0..4)
            .prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        /// Whatever is asked of two objects, their digests answer alike.
        #[test]
        fn digests_compare_as_the_objects_do(one in object(), other in object(), was in object()) {
            let (a, b) = (Value::Object(one), Value::Object(other));
            let (x, y) = (Digest::of(&a), Digest::of(&b));
            let changed = Digest::of_attributes(&was);
            prop_assert_eq!(a == b, x == y);
            prop_assert_eq!(shows(&a, &was), x.shows(&changed));
            prop_assert_eq!(Digest::of(&without_nulls(&a)), x.without_nulls());
            prop_assert_eq!(Digest::of(&before(&a, &was)), x.before(&changed));
            let text = serde_json::to_string(&x).unwrap();
            prop_assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), x);
        }
    }

    #[test]
    fn stored_digests_stay_what_they_are() {
        let digest =
            Digest::of(&json!({"a": [1, "x", null, {"b": 1.5}], "c": {"d": true}, "e": null}));
        let stored = r#"{"a":"c968368d0870c896","c":{"d":"9dcf97a184f32623"},"e":null}"#;
        assert_eq!(serde_json::to_string(&digest).unwrap(), stored);
    }
}
