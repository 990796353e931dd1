//! Percentages of coupons and tax rates: exact, with up to four decimal places.

use serde_json::{Value, json};

/// Ten-thousandths of a percent in the whole.
const WHOLE: i128 = 1_000_000;
const MAX_PLACES: usize = 4;

/// A percentage from 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(i128);

impl Percent {
    pub const ZERO: Self = Self(0);

    /// A percentage in ten-thousandths.
    #[must_use]
    pub const fn from_ten_thousandths(value: u32) -> Self {
        Self(value as i128)
    }

    /// Parses `22.5`, without sign or exponent.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let known = !whole.is_empty() && digits(whole) && digits(fraction);
        if !known || whole.len() > 3 || fraction.len() > MAX_PLACES || text.ends_with('.') {
            return None;
        }
        let fraction: i128 = format!("{fraction:0<MAX_PLACES$}").parse().ok()?;
        let value = whole.parse::<i128>().ok()? * 10_000 + fraction;
        (value <= WHOLE).then_some(Self(value))
    }

    /// The JSON number.
    #[must_use]
    pub fn render(self) -> Value {
        let (whole, fraction) = (self.0 / 10_000, self.0 % 10_000);
        if fraction == 0 {
            return json!(i64::try_from(whole).unwrap_or_default());
        }
        let text = format!("{whole}.{fraction:0>MAX_PLACES$}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// This share of an amount, rounded half up.
    #[must_use]
    pub fn of(self, amount: i64) -> i64 {
        half_up(i128::from(amount) * self.0, WHOLE)
    }

    /// The share of an amount that was added to something by this percentage,
    /// such as the tax in a price that includes it. Rounded half up.
    #[must_use]
    pub fn included_in(self, amount: i64) -> i64 {
        half_up(i128::from(amount) * self.0, WHOLE + self.0)
    }

    /// The sum of two percentages, which may be more than 100.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Like [`Percent::included_in`], if an amount includes several
    /// percentages, which `together` is the sum of.
    #[must_use]
    pub fn included_beside(self, amount: i64, together: Self) -> i64 {
        half_up(i128::from(amount) * self.0, WHOLE + together.0)
    }

    /// The fraction that is left when this percentage is taken off.
    #[must_use]
    pub const fn rest(self) -> (i128, i128) {
        (WHOLE - self.0, WHOLE)
    }
}

/// Divides and rounds half up. A share of an amount fits where the amount does.
fn half_up(numerator: i128, denominator: i128) -> i64 {
    let rounded = (2 * numerator + denominator).div_euclid(2 * denominator);
    i64::try_from(rounded).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(text: &str) -> Percent {
        Percent::parse(text).expect("a percentage")
    }

    #[test]
    fn percentages_are_exact_and_print_as_written() {
        for text in ["0", "7", "22.5", "8.875", "0.0001", "100"] {
            assert_eq!(percent(text).render().to_string(), text);
        }
        for text in ["", ".5", "1.", "-1", "1e1", "0.00001", "100.0001", "1000"] {
            assert_eq!(Percent::parse(text), None, "{text}");
        }
    }

    #[test]
    fn shares_are_rounded_half_up() {
        assert_eq!(percent("15").of(999), 150);
        assert_eq!(percent("50").of(999), 500);
        assert_eq!(percent("50").of(-999), -499);
        assert_eq!(percent("20").included_in(1_200), 200);
        assert_eq!(percent("19").included_in(1_000), 160);
        assert_eq!(percent("100").of(i64::MAX), i64::MAX);
    }
}
