//! The words of invoice lines.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::prices::Price;
use crate::pricing::Decimal;

/// `Unused time on 2 × Seat after 22 Nov 2026`.
#[must_use]
pub fn proration(credit: bool, quantity: u64, product: &str, at_secs: i64) -> String {
    let what = if credit { "Unused" } else { "Remaining" };
    let times = if quantity == 1 {
        String::new()
    } else {
        format!("{quantity} × ")
    };
    format!("{what} time on {times}{product} after {}", day(at_secs))
}

/// `1 × Standard (at $99.00 / month)`.
#[must_use]
pub fn recurring(quantity: u64, product: &str, price: &Price) -> String {
    let Some(recurring) = &price.recurring else {
        return product.to_owned();
    };
    let every = if recurring.count == 1 {
        recurring.interval.to_owned()
    } else {
        format!("every {} {}s", recurring.count, recurring.interval)
    };
    match price.scheme.unit() {
        Some(unit) => format!(
            "{quantity} × {product} (at {} / {every})",
            money(unit, &price.currency)
        ),
        None => format!("{quantity} × {product} (per {every})"),
    }
}

/// `Trial period for Standard`.
#[must_use]
pub fn trial(product: &str) -> String {
    format!("Trial period for {product}")
}

fn day(at_secs: i64) -> String {
    Timestamp::from_second(at_secs).map_or_else(
        |_| at_secs.to_string(),
        |timestamp| {
            timestamp
                .to_zoned(TimeZone::UTC)
                .strftime("%-d %b %Y")
                .to_string()
        },
    )
}

/// Currencies whose smallest unit is the unit itself.
const WHOLE_UNITS: [&str; 16] = [
    "bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv",
    "xaf", "xof", "xpf",
];

/// `$99.00`, `980 JPY`, `$0.00001`: exact, with at least the usual places.
#[must_use]
pub fn money(amount: Decimal, currency: &str) -> String {
    let minor = amount.to_string();
    let (whole, fraction) = minor.split_once('.').unwrap_or((minor.as_str(), ""));
    let major = if WHOLE_UNITS.contains(&currency) {
        if fraction.is_empty() {
            whole.to_owned()
        } else {
            format!("{whole}.{fraction}")
        }
    } else {
        let padded = format!("{whole:0>3}");
        let (units, cents) = padded.split_at(padded.len() - 2);
        format!("{units}.{cents}{fraction}")
    };
    match currency {
        "usd" => format!("${major}"),
        "eur" => format!("€{major}"),
        "gbp" => format!("£{major}"),
        other => format!("{major} {}", other.to_uppercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_shows_every_digit_and_no_more() {
        let shown =
            |text: &str, currency| money(Decimal::parse(text).expect("a decimal"), currency);
        assert_eq!(shown("9900", "usd"), "$99.00");
        assert_eq!(shown("5", "eur"), "€0.05");
        assert_eq!(shown("0.001", "usd"), "$0.00001");
        assert_eq!(shown("980", "jpy"), "980 JPY");
    }

    #[test]
    fn a_proration_names_the_day() {
        assert_eq!(
            proration(true, 2, "Seat", 1_795_305_600),
            "Unused time on 2 × Seat after 22 Nov 2026"
        );
        assert_eq!(
            proration(false, 1, "Pro", 0),
            "Remaining time on Pro after 1 Jan 1970"
        );
    }
}
