//! Decimals in JSON: exact, as numbers.

use rust_decimal::Decimal;
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
}
