//! Differences from Stripe.

use std::collections::BTreeMap;

use metrics::{counter, gauge};

use super::text::name_of;
use super::{DRIFT, DRIFT_LEFT};

/// A difference from Stripe found by reconciliation.
pub fn drift(kind: &'static str, healed: bool) {
    let healed = if healed { "true" } else { "false" };
    counter!(DRIFT, "kind" => kind, "healed" => healed).increment(1);
}

/// The differences of `kind` that a run with these counters left.
pub fn drift_left(kind: &'static str, counted: &BTreeMap<String, u64>) {
    gauge!(DRIFT_LEFT, "kind" => kind).set(drift_in(kind, counted) as f64);
}

/// How many that is.
pub fn drift_in(kind: &str, counted: &BTreeMap<String, u64>) -> u64 {
    let kind_label = format!("kind=\"{kind}\"");
    let of_kind = counted.iter().filter(|(series, _)| {
        name_of(series) == DRIFT
            && series.contains(&kind_label)
            && series.contains("healed=\"false\"")
    });
    of_kind.map(|(_, count)| count).sum()
}
