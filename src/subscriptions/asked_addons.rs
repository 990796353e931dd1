//! The add-ons of a request: `["extra_tokens", {"id": "priority_support", "quantity": 2}]`.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, de};
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::command::ChangeRejection;
use super::selection::AskedAddons;
use crate::catalogue::MAX_ADDONS;

/// An add-on that is asked for: its id, or its id and how many.
#[derive(Debug)]
pub struct AskedAddon {
    id: String,
    quantity: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    #[serde(default = "one", deserialize_with = "whole")]
    quantity: i64,
}

fn one() -> i64 {
    1
}

/// The add-ons by their ids; `None` if nobody speaks of them.
pub fn by_id(asked: Option<&[AskedAddon]>) -> Result<Option<AskedAddons>, ChangeRejection> {
    let Some(asked) = asked else {
        return Ok(None);
    };
    let mut addons = AskedAddons::new();
    for one in asked {
        if addons.insert(one.id.clone(), one.quantity).is_some() {
            let id = one.id.chars().take(64).collect();
            return Err(ChangeRejection::AddonTwice(id));
        }
    }
    Ok(Some(addons))
}

impl<'de> Deserialize<'de> for AskedAddon {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = AskedAddon;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the id of an add-on, or {\"id\": …, \"quantity\": …}")
            }

            fn visit_str<E: de::Error>(self, id: &str) -> Result<AskedAddon, E> {
                Ok(AskedAddon {
                    id: id.to_owned(),
                    quantity: 1,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AskedAddon, A::Error> {
                let Written { id, quantity } =
                    Written::deserialize(MapAccessDeserializer::new(map))?;
                Ok(AskedAddon { id, quantity })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// A whole number of any sign: what is out of range is a problem that says the range.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    struct Whole;

    impl Visitor<'_> for Whole {
        type Value = i64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<i64, E> {
            Ok(number)
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<i64, E> {
            Ok(i64::try_from(number).unwrap_or(i64::MAX))
        }

        fn visit_f64<E: de::Error>(self, number: f64) -> Result<i64, E> {
            // A float says integers below 2^53 exactly.
            const EXACT: f64 = 9_007_199_254_740_992.0;
            if number.fract() == 0.0 && number.abs() < EXACT {
                return format!("{number:.0}").parse().map_err(E::custom);
            }
            Err(E::invalid_value(Unexpected::Float(number), &self))
        }
    }

    let number = deserializer.deserialize_i64(Whole)?;
    match number {
        i64::MIN => Err(D::Error::custom("the number is out of range")),
        number => Ok(number),
    }
}

impl PartialSchema for AskedAddon {
    fn schema() -> utoipa::openapi::RefOr<Schema> {
        let id = || {
            ObjectBuilder::new()
                .schema_type(Type::String)
                .examples(["extra_tokens"])
        };
        let quantity = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(MAX_ADDONS))
            .default(Some(1.into()));
        let both = ObjectBuilder::new()
            .property("id", id())
            .required("id")
            .property("quantity", quantity)
            .additional_properties(Some(
                utoipa::openapi::schema::AdditionalProperties::<Schema>::FreeForm(false),
            ));
        let either = OneOfBuilder::new().item(id()).item(both);
        Schema::OneOf(either.build()).into()
    }
}

impl ToSchema for AskedAddon {}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Option<AskedAddons>, String> {
        let asked: Vec<AskedAddon> = serde_json::from_str(json).map_err(|e| e.to_string())?;
        by_id(Some(&asked)).map_err(|rejection| rejection.to_string())
    }

    #[test]
    fn an_addon_is_an_id_or_an_id_with_its_number() {
        let addons = |list: &[(&str, i64)]| {
            let list = list.iter();
            Some(list.map(|(id, n)| ((*id).to_owned(), *n)).collect())
        };
        let both =
            r#"["a", {"id": "b", "quantity": 3}, {"id": "c"}, {"id": "d", "quantity": 2.0}]"#;
        let expected = addons(&[("a", 1), ("b", 3), ("c", 1), ("d", 2)]);
        assert_eq!(read(both), Ok(expected));
        assert_eq!(read("[]"), Ok(addons(&[])));
        // Whether these can be had, the catalogue says.
        let odd = r#"[{"id": "a", "quantity": -1}, {"id": "b", "quantity": 0}]"#;
        assert_eq!(read(odd), Ok(addons(&[("a", -1), ("b", 0)])));
        let large = r#"[{"id": "a", "quantity": 18446744073709551615}]"#;
        assert_eq!(read(large), Ok(addons(&[("a", i64::MAX)])));
    }

    #[test]
    fn what_is_no_addon_is_told() {
        for (json, problem) in [
            (r#"["a", {"id": "a"}]"#, "\"a\" is named twice"),
            (r#"[1]"#, "the id of an add-on, or"),
            (r#"[{"quantity": 1}]"#, "missing field `id`"),
            (r#"[{"id": "a", "number": 1}]"#, "unknown field `number`"),
            (r#"[{"id": "a", "quantity": 1.5}]"#, "a whole number"),
            (r#"[{"id": "a", "quantity": "2"}]"#, "a whole number"),
        ] {
            let told = read(json).unwrap_err();
            assert!(told.contains(problem), "{json}: {told}");
        }
    }
}
