//! Descriptions of invoice lines.

use billing_domain::money;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::prices::{Price, Recurring};
use crate::pricing::{DecimalAmount, PricedLine};

/// For example `Unused time on 2 × Seat after 22 Nov 2026`.
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

/// For example `1 × Standard (at $99.00 / month)`.
#[must_use]
pub fn recurring(quantity: u64, product: &str, price: &Price) -> String {
    let Some(recurring) = &price.recurring else {
        return product.to_owned();
    };
    let every = every(recurring);
    match price.scheme.unit() {
        Some(unit) => format!(
            "{quantity} × {product} (at {} / {every})",
            self::price(unit, &price.currency)
        ),
        None => format!("{quantity} × {product} (per {every})"),
    }
}

/// For example `31 × Standard (Tier 2 at $0.036 / month)`.
#[must_use]
pub fn metered(part: &PricedLine, product: &str, price: &Price) -> String {
    let Some(tier) = part.tier else {
        return recurring(part.quantity, product, price);
    };
    let every = price.recurring.as_ref().map_or_else(String::new, every);
    let amount = self::price(part.unit, &price.currency);
    if part.flat {
        format!("{product} (Tier {tier} flat fee of {amount} / {every})")
    } else {
        format!(
            "{} × {product} (Tier {tier} at {amount} / {every})",
            part.quantity
        )
    }
}

/// For example `Free trial for 1 × Standard`.
#[must_use]
pub fn trial(quantity: u64, product: &str) -> String {
    format!("Free trial for {quantity} × {product}")
}

fn every(recurring: &Recurring) -> String {
    if recurring.count == 1 {
        recurring.interval.to_owned()
    } else {
        format!("every {} {}s", recurring.count, recurring.interval)
    }
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

/// For example `$99.00`, `980 JPY` or `$0.00001`: exact, with at least the
/// currency's usual decimal places.
#[must_use]
pub fn price(amount: DecimalAmount, currency: &str) -> String {
    let minor = amount.to_string();
    let (whole, fraction) = minor.split_once('.').unwrap_or((minor.as_str(), ""));
    let decimals = usize::try_from(money::decimals(currency)).unwrap_or(2);
    let padded = format!("{whole:0>width$}", width = decimals + 1);
    let (units, part) = padded.split_at(padded.len() - decimals);
    let part = format!("{part}{fraction}");
    let major = if part.is_empty() {
        units.to_owned()
    } else {
        format!("{units}.{part}")
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
            |text: &str, currency| price(DecimalAmount::parse(text).expect("a decimal"), currency);
        assert_eq!(shown("9900", "usd"), "$99.00");
        assert_eq!(shown("5", "eur"), "€0.05");
        assert_eq!(shown("0.001", "usd"), "$0.00001");
        assert_eq!(shown("980", "jpy"), "980 JPY");
        assert_eq!(shown("0.5", "jpy"), "0.5 JPY");
        assert_eq!(shown("1230", "kwd"), "1.230 KWD");
        assert_eq!(shown("500", "ugx"), "5.00 UGX");
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
