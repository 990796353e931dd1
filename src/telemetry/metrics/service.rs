//! Metrics that only `serve` has: jobs push none of these series.

use std::time::Duration;

use metrics::{
    Counter, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use super::GRACE_BY_METRIC;

const DECISIONS: &str = "quota_decisions_total";
const DECISION_TIME: &str = "quota_decision_seconds";
const FEATURES: &str = "feature_checks_total";
const UNKNOWN_FEATURES: &str = "feature_checks_unknown_total";
const STRIPE_CALLS: &str = "stripe_api_calls_total";
const STRIPE_TIME: &str = "stripe_api_duration_seconds";
const ISSUED_TOKENS: &str = "issued_tokens_total";
const SIGNING_KEYS: &str = "signing_keys_reads_total";
const MISSING: &str = "billing_database_connections_missing";

/// The histograms of durations.
pub(super) const TIMES: [&str; 2] = [DECISION_TIME, STRIPE_TIME];

/// Outcomes of quota decisions.
const DECISION_OUTCOMES: [&str; 9] = [
    "within",
    "overage",
    "grace",
    "duplicate",
    "exceeded",
    "grace_exhausted",
    "grace_expired",
    "undecided",
    "failed_open",
];

/// Calls that `serve` makes to Stripe, and their outcomes.
const CALLS: [&str; 18] = [
    "account.retrieve",
    "customers.create",
    "customers.retrieve",
    "events.list",
    "invoices.create_preview",
    "invoices.lines",
    "invoices.retrieve",
    "meter_events.create",
    "payment_methods.list",
    "payment_methods.retrieve",
    "prices.list",
    "subscription_items.list",
    "subscriptions.cancel",
    "subscriptions.create",
    "subscriptions.list",
    "subscriptions.migrate",
    "subscriptions.retrieve",
    "subscriptions.update",
];
const CALL_OUTCOMES: [&str; 8] = [
    "ok",
    "declined",
    "unauthorized",
    "rate_limited",
    "invalid",
    "conflict",
    "failed",
    "unreachable",
];

pub(super) fn describe() {
    describe_counter!(
        STRIPE_CALLS,
        "Calls to Stripe, by call and outcome; retries of a call are not counted."
    );
    describe_histogram!(
        STRIPE_TIME,
        Unit::Seconds,
        "Duration of calls to Stripe, retries and pauses included."
    );
    describe_counter!(DECISIONS, "Quota decisions, by outcome and metric.");
    describe_counter!(
        FEATURES,
        "Requests that needed a feature of the catalogue, by feature and outcome."
    );
    describe_counter!(
        UNKNOWN_FEATURES,
        "Requests that needed a feature that the catalogue does not have; all are refused."
    );
    describe_histogram!(
        DECISION_TIME,
        Unit::Seconds,
        "Time from a request for a decision to its response, commit included."
    );
    describe_counter!(
        ISSUED_TOKENS,
        "Tokens of AUTH_ISSUER that were checked, by outcome."
    );
    describe_counter!(SIGNING_KEYS, "Reads of AUTH_JWKS_URL, by outcome.");
    describe_gauge!(
        MISSING,
        "Connections that this replica may open but the database, or a pooler, could not provide at start."
    );
}

/// Starts at zero; `metrics` and `features` are those of the catalogue.
pub fn of_service<'a>(
    metrics: impl Iterator<Item = &'a str>,
    features: impl Iterator<Item = &'a str>,
) {
    for feature in features {
        for included in [true, false] {
            of_feature(feature, included).absolute(0);
        }
    }
    counter!(UNKNOWN_FEATURES).absolute(0);
    for outcome in ["accepted", "refused", "unavailable"] {
        counter!(ISSUED_TOKENS, "outcome" => outcome).absolute(0);
    }
    for read in [true, false] {
        of_signing_keys(read).absolute(0);
    }
    for metric in metrics {
        for outcome in DECISION_OUTCOMES {
            counter!(DECISIONS, "outcome" => outcome, "metric" => metric.to_owned()).absolute(0);
        }
        gauge!(GRACE_BY_METRIC, "metric" => metric.to_owned()).set(0.0);
    }
    let _ = histogram!(DECISION_TIME);
    for call in CALLS {
        for outcome in CALL_OUTCOMES {
            counter!(STRIPE_CALLS, "call" => call, "outcome" => outcome).absolute(0);
        }
    }
}

/// One quota decision.
pub fn decision(outcome: &'static str, metric: &str, took: Duration) {
    counter!(DECISIONS, "outcome" => outcome, "metric" => metric.to_owned()).increment(1);
    histogram!(DECISION_TIME).record(took);
}

fn of_feature(feature: &str, included: bool) -> Counter {
    let outcome = if included { "included" } else { "not_included" };
    counter!(FEATURES, "feature" => feature.to_owned(), "outcome" => outcome)
}

/// One request that needed a feature of the catalogue.
pub fn feature_check(feature: &str, included: bool) {
    of_feature(feature, included).increment(1);
}

/// One request that needed a feature which the catalogue does not have.
pub fn unknown_feature() {
    counter!(UNKNOWN_FEATURES).increment(1);
}

/// One token of the product's issuer that was checked.
pub fn issued_token(outcome: &'static str) {
    counter!(ISSUED_TOKENS, "outcome" => outcome).increment(1);
}

fn of_signing_keys(read: bool) -> Counter {
    let outcome = if read { "ok" } else { "failed" };
    counter!(SIGNING_KEYS, "outcome" => outcome)
}

/// The issuer's keys were read, or could not be.
pub fn signing_keys_read(read: bool) {
    of_signing_keys(read).increment(1);
}

/// One call to Stripe, with all its attempts.
pub fn stripe_call(call: &'static str, outcome: &'static str, took: Duration) {
    counter!(STRIPE_CALLS, "call" => call, "outcome" => outcome).increment(1);
    histogram!(STRIPE_TIME, "call" => call).record(took);
}

/// How many connections were missing at the start.
pub fn connections_missing(missing: u32) {
    gauge!(MISSING).set(f64::from(missing));
}
