//! Amounts, times and quantities as customers read them.

use billing_domain::money as exact;
use jiff::Timestamp;

use crate::pages::number::by_thousands;

/// An amount as it is written on a bill: `$1,234.50`.
pub fn money(minor: i64, currency: &str) -> String {
    priced(&exact::major(minor, currency), currency)
}

/// The price of one of something, with all of its digits: `$0.00001`.
pub fn rate(major: &str, currency: &str) -> String {
    priced(major, currency)
}

fn priced(major: &str, currency: &str) -> String {
    let (sign, digits) = match major.strip_prefix('-') {
        Some(digits) => ("−", digits),
        None => ("", major),
    };
    let amount = match digits.split_once('.') {
        Some((whole, part)) => format!("{}.{part}", by_thousands(whole)),
        None => by_thousands(digits),
    };
    match currency.to_ascii_lowercase().as_str() {
        "usd" => format!("{sign}${amount}"),
        "eur" => format!("{sign}€{amount}"),
        "gbp" => format!("{sign}£{amount}"),
        "jpy" => format!("{sign}¥{amount}"),
        other => format!("{sign}{amount} {}", other.to_ascii_uppercase()),
    }
}

/// A day, which everybody reads alike: `1 Dec 2026`.
pub fn day(at: Timestamp) -> String {
    at.strftime("%-d %b %Y").to_string()
}

/// A time to the minute, in UTC.
pub fn minute(at: Timestamp) -> String {
    at.strftime("%-d %b %Y, %H:%M UTC").to_string()
}

/// The time of a day, to the second.
pub fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S UTC").to_string()
}

/// How long it takes yet, in its two largest units.
pub fn left(secs: i64) -> String {
    let counted = |count: i64, name: &str| match count {
        1 => format!("1 {name}"),
        _ => format!("{count} {name}s"),
    };
    let (days, hours, minutes) = (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60);
    let pair = |one: String, (count, name): (i64, &str)| match count {
        0 => one,
        _ => format!("{one} {}", counted(count, name)),
    };
    match (days, hours, minutes) {
        (1.., ..) => pair(counted(days, "day"), (hours, "hour")),
        (_, 1.., _) => pair(counted(hours, "hour"), (minutes, "minute")),
        (_, _, 1..) => counted(minutes, "minute"),
        _ => "less than a minute".to_owned(),
    }
}

/// `payment_method_removed` as words: `Payment method removed`.
pub fn words(name: &str) -> String {
    capitalized(&name.replace(['_', '.'], " "))
}

pub fn capitalized(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().into_iter().flat_map(char::to_uppercase);
    first.chain(rest).collect()
}

/// An address that a browser may be led to; none of any other scheme.
pub fn web_address(address: Option<&str>) -> Option<String> {
    let address = address?;
    let is_web = address.starts_with("https://") || address.starts_with("http://");
    is_web.then(|| address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_as_on_a_bill() {
        for (minor, currency, expected) in [
            (4_550, "usd", "$45.50"),
            (-123_456_789, "eur", "−€1,234,567.89"),
            (500, "jpy", "¥500"),
            (9_900, "chf", "99.00 CHF"),
            (0, "gbp", "£0.00"),
        ] {
            assert_eq!(money(minor, currency), expected);
        }
        assert_eq!(rate("0.00001", "usd"), "$0.00001");
    }

    #[test]
    fn times_are_read_alike_everywhere() {
        let at: Timestamp = "2026-12-01T07:05:09Z".parse().unwrap();
        assert_eq!(day(at), "1 Dec 2026");
        assert_eq!(minute(at), "1 Dec 2026, 07:05 UTC");
        assert_eq!(clock(at), "07:05:09 UTC");
        assert_eq!(left(86_400 + 3_600), "1 day 1 hour");
        assert_eq!(left(2 * 86_400), "2 days");
        assert_eq!(left(3_600 * 5 + 60 * 20 + 3), "5 hours 20 minutes");
        assert_eq!(left(61), "1 minute");
        assert_eq!(left(-4), "less than a minute");
    }

    #[test]
    fn only_addresses_of_the_web_are_links() {
        assert!(web_address(Some("https://a.example/x")).is_some());
        for wrong in ["javascript:alert(1)", "data:text/html,x", "//a", ""] {
            assert_eq!(web_address(Some(wrong)), None);
        }
        assert_eq!(words("plan_changed"), "Plan changed");
    }
}
