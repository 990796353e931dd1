//! Usage quantities: exact, non-negative decimals.

use rust_decimal::Decimal;

/// The maximum number of digits, in total and after the decimal point.
pub const DIGITS: usize = 20;
pub const FRACTION_DIGITS: usize = 4;

/// Why a text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("a quantity is a decimal number such as 12 or 0.25, without sign or exponent")]
    NotDecimal,
    #[error("a quantity cannot be negative")]
    Negative,
    #[error("a quantity has at most {DIGITS} digits")]
    TooManyDigits,
    #[error("a quantity has at most {FRACTION_DIGITS} digits after the point")]
    TooPrecise,
}

/// Parses a quantity. Insignificant zeros count toward the limits, because the
/// limits apply to what was sent.
pub fn parse(text: &str) -> Result<Decimal, QuantityError> {
    if let Some(rest) = text.strip_prefix('-') {
        let number = parse(rest).is_ok();
        return Err(if number {
            QuantityError::Negative
        } else {
            QuantityError::NotDecimal
        });
    }
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !fraction.is_none_or(digits) {
        return Err(QuantityError::NotDecimal);
    }
    let decimals = fraction.map_or(0, str::len);
    if whole.len() + decimals > DIGITS {
        return Err(QuantityError::TooManyDigits);
    }
    if decimals > FRACTION_DIGITS {
        return Err(QuantityError::TooPrecise);
    }
    Decimal::from_str_exact(text).map_err(|_| QuantityError::NotDecimal)
}

/// The whole units of a quantity. The fraction is not billed until it is
/// complete.
#[must_use]
pub fn whole_units(quantity: Decimal) -> Decimal {
    quantity.floor()
}

#[cfg(test)]
mod tests {
    use super::*;
    use QuantityError::{Negative, NotDecimal, TooManyDigits, TooPrecise};

    #[test]
    fn every_digit_counts() {
        for (text, read) in [
            ("0", Ok("0")),
            ("7", Ok("7")),
            ("0.0001", Ok("0.0001")),
            ("9999999999999999.9999", Ok("9999999999999999.9999")),
            ("12345678901234567890", Ok("12345678901234567890")),
            ("123456789012345678901", Err(TooManyDigits)),
            ("12345678901234567.8901", Err(TooManyDigits)),
            ("1.00000", Err(TooPrecise)),
            ("-1", Err(Negative)),
            ("-0.5", Err(Negative)),
            ("--1", Err(NotDecimal)),
            ("", Err(NotDecimal)),
            (".", Err(NotDecimal)),
            ("1.", Err(NotDecimal)),
            (".5", Err(NotDecimal)),
            ("+1", Err(NotDecimal)),
            ("1e3", Err(NotDecimal)),
            ("1e309", Err(NotDecimal)),
            ("NaN", Err(NotDecimal)),
            ("Infinity", Err(NotDecimal)),
            ("1_000", Err(NotDecimal)),
            (" 1", Err(NotDecimal)),
            ("1,5", Err(NotDecimal)),
            ("١", Err(NotDecimal)),
        ] {
            let expected = read.map(|digits: &str| digits.parse::<Decimal>().unwrap());
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
