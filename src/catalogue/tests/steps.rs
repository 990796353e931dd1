//! Currencies that Stripe charges in steps of several minor units.

use super::*;

/// The built-in file in another currency, with these rates for what is over the quotas.
fn in_currency(currency: &str, amount: &str, rate: &str) -> Result<Catalogue, CatalogueError> {
    let lines = BUILT_IN.lines().map(|line| {
        let line = line.replace("\"usd\"", &format!("\"{currency}\""));
        let Some((head, tail)) = line.split_once("overage_rate = \"") else {
            return line.replace("9_900", amount);
        };
        let (_, tail) = tail.split_once('"').unwrap();
        format!("{head}overage_rate = \"{rate}\"{tail}")
    });
    parse(&lines.collect::<Vec<_>>().join("\n"))
}

/// Stripe charges these in steps of several minor units: no usage comes to less than one.
#[test]
fn rates_and_fees_are_charged_in_steps_of_their_currency() {
    for (currency, amount, rate, refused, says) in [
        (
            "kwd",
            "9_900",
            "0.01",
            "0.005",
            "Stripe charges KWD in steps of 0.010",
        ),
        (
            "bhd",
            "9_900",
            "0.5",
            "0.00001",
            "Stripe charges BHD in steps of 0.010",
        ),
        (
            "jod",
            "9_900",
            "1.23",
            "1.234",
            "Stripe charges JOD in steps of 0.010",
        ),
        (
            "omr",
            "9_900",
            "1",
            "0.001",
            "Stripe charges OMR in steps of 0.010",
        ),
        (
            "tnd",
            "9_900",
            "2.50",
            "2.505",
            "Stripe charges TND in steps of 0.010",
        ),
        (
            "isk",
            "9_900",
            "1",
            "0.5",
            "Stripe charges ISK in steps of 1.00",
        ),
        (
            "ugx",
            "9_900",
            "3",
            "3.01",
            "Stripe charges UGX in steps of 1.00",
        ),
    ] {
        assert!(in_currency(currency, amount, rate).is_ok(), "{currency}");
        let error = in_currency(currency, amount, refused)
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{error}");
        let error = in_currency(currency, "9_901", rate)
            .unwrap_err()
            .to_string();
        assert!(error.contains("in steps of"), "{error}");
    }
    for currency in ["jpy", "usd", "krw"] {
        assert!(
            in_currency(currency, "9_901", "0.00001").is_ok(),
            "{currency}"
        );
    }
}
