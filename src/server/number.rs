//! Numbers in JSON: decimals exact, and whole numbers however they are written.

use rust_decimal::Decimal;
use serde::de::{Deserializer, Error as _, Unexpected, Visitor};
use serde::ser::{Error as _, Serialize, Serializer};
use serde_json::value::RawValue;

/// A decimal as a JSON number with all of its digits and no needless zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number(pub Decimal);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = self.0.normalize().to_string();
        RawValue::from_string(digits)
            .map_err(S::Error::custom)?
            .serialize(serializer)
    }
}

impl utoipa::PartialSchema for Number {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::Object::with_type(utoipa::openapi::schema::Type::Number).into()
    }
}

impl utoipa::ToSchema for Number {}

/// A whole number, for `deserialize_with`. JSON has one kind of number: 19.0 is
/// 19, and some clients write it so.
pub fn whole<'de, D: Deserializer<'de>, N: TryFrom<u64>>(deserializer: D) -> Result<N, D::Error> {
    let number = deserializer.deserialize_u64(Whole)?;
    N::try_from(number).map_err(|_| D::Error::custom(format!("{number} is too large a number")))
}

/// The same, where there may be none.
pub fn maybe_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(serde::Deserialize)]
    struct Written(#[serde(deserialize_with = "whole")] u64);
    let written = <Option<Written> as serde::Deserialize>::deserialize(deserializer)?;
    Ok(written.map(|Written(number)| number))
}

struct Whole;

impl Visitor<'_> for Whole {
    type Value = u64;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a whole number from 0 up")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<u64, E> {
        // A float says integers below 2^53 exactly.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if number.fract() == 0.0 && (0.0..EXACT).contains(&number) {
            // -0.0 is a zero, too.
            return format!("{:.0}", number.abs()).parse().map_err(E::custom);
        }
        Err(E::invalid_value(Unexpected::Float(number), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_digit_is_lost_or_added() {
        for (decimal, json) in [
            ("0", "0"),
            ("-0.00", "0"),
            ("45.50", "45.5"),
            ("1000000.0000", "1000000"),
            (
                "79228162514264337593543950335",
                "79228162514264337593543950335",
            ),
            (
                "0.0000000000000000000000000001",
                "0.0000000000000000000000000001",
            ),
        ] {
            let number = Number(decimal.parse().unwrap());
            assert_eq!(serde_json::to_string(&number).unwrap(), json);
        }
    }

    #[test]
    fn whole_numbers_may_have_a_point_and_nothing_after_it() {
        let read = |json: &str| whole::<_, u16>(&mut serde_json::Deserializer::from_str(json)).ok();
        for (json, number) in [
            ("19", Some(19)),
            ("19.0", Some(19)),
            ("1.9e1", Some(19)),
            ("-0.0", Some(0)),
            ("65535", Some(65_535)),
            ("65536", None),
            ("19.5", None),
            ("-1", None),
            ("-1.0", None),
            ("1e300", None),
            ("\"19\"", None),
            ("null", None),
        ] {
            assert_eq!(read(json), number, "{json}");
        }
    }
}
