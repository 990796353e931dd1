//! Amounts of money: minor units formatted for people.

/// The number of decimal places of Stripe's amounts in `currency` (ISO 4217,
/// any case).
///
/// This follows Stripe's lists of zero-decimal and three-decimal currencies.
/// ISK and UGX no longer have minor units, but Stripe still counts them in
/// hundredths.
pub fn decimals(currency: &str) -> u32 {
    match currency.to_ascii_lowercase().as_str() {
        "bif" | "clp" | "djf" | "gnf" | "jpy" | "kmf" | "krw" | "mga" | "pyg" | "rwf" | "vnd"
        | "vuv" | "xaf" | "xof" | "xpf" => 0,
        "bhd" | "jod" | "kwd" | "omr" | "tnd" => 3,
        _ => 2,
    }
}

/// What Stripe's amounts in `currency` are multiples of: the last digit of three-decimal
/// currencies is 0, and ISK and UGX are charged in whole units.
pub fn step(currency: &str) -> i64 {
    match (currency.to_ascii_lowercase().as_str(), decimals(currency)) {
        ("isk" | "ugx", _) => 100,
        (_, 3) => 10,
        _ => 1,
    }
}

/// The exact amount in major units: `4550, "usd"` is `45.50`; `500, "jpy"` is
/// `500`.
pub fn major(minor: i64, currency: &str) -> String {
    let decimals = decimals(currency);
    let unit = 10_u64.pow(decimals);
    let sign = if minor < 0 { "-" } else { "" };
    let (whole, part) = (minor.unsigned_abs() / unit, minor.unsigned_abs() % unit);
    if decimals == 0 {
        format!("{sign}{whole}")
    } else {
        let width = decimals as usize;
        format!("{sign}{whole}.{part:0width$}")
    }
}

/// `4550, "usd"` is `45.50 USD`; `-5, "usd"` is `-0.05 USD`; `500, "jpy"` is `500 JPY`.
pub fn display(minor: i64, currency: &str) -> String {
    format!(
        "{} {}",
        major(minor, currency),
        currency.to_ascii_uppercase()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_charged_in_steps() {
        let steps = [
            ("usd", 1),
            ("JPY", 1),
            ("KWD", 10),
            ("tnd", 10),
            ("isk", 100),
            ("ugx", 100),
        ];
        for (currency, expected) in steps {
            assert_eq!(step(currency), expected, "{currency}");
        }
    }

    #[test]
    fn amounts_follow_their_currency() {
        assert_eq!(display(4550, "usd"), "45.50 USD");
        assert_eq!(display(-5, "eur"), "-0.05 EUR");
        assert_eq!(display(500, "jpy"), "500 JPY");
        assert_eq!(display(1, "KWD"), "0.001 KWD");
        assert_eq!(display(500, "isk"), "5.00 ISK");
        assert_eq!(display(i64::MIN, "usd"), "-92233720368547758.08 USD");
    }
}
