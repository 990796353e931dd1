//! Configuration of a sandbox.

use std::time::Duration;

use crate::shape;

/// What happens to a subscription once every payment retry has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DunningEnd {
    Cancel,
    /// It becomes `unpaid`, and its invoices stay open.
    MarkUnpaid,
    /// It stays `past_due`.
    LeavePastDue,
}

/// The behavior of a sandbox. The defaults are those of a new Stripe account.
#[derive(Debug, Clone)]
pub struct Config {
    /// Determines the ids, so that a run can be repeated exactly.
    pub seed: u64,
    /// The account's default API version. It applies to requests without
    /// `Stripe-Version`, to events, and to webhook endpoints without a version.
    pub api_version: String,
    /// The accepted API keys. If empty, any `sk_test_…` or `rk_test_…` key is.
    pub keys: Vec<String>,
    /// The base URL of the links in invoices; by default the sandbox's address.
    pub public_url: Option<String>,
    /// Freezes the wall clock at this Unix time.
    pub frozen_at: Option<i64>,
    /// The delays before each redelivery of an event.
    pub webhook_retry_delays: Vec<Duration>,
    /// How long an endpoint may take to respond.
    pub webhook_timeout: Duration,
    /// The delays between payment attempts, in days.
    pub dunning_days: Vec<u16>,
    /// What happens after the last failed attempt.
    pub dunning_end: DunningEnd,
    /// How long a renewal invoice stays a draft.
    pub draft_secs: i64,
    /// How many days before a renewal `invoice.upcoming` is sent.
    pub upcoming_days: u16,
    /// How long a request hangs when the `timeout` fault applies to it.
    pub timeout_fault: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 1,
            api_version: shape::LATEST.to_owned(),
            keys: Vec::new(),
            public_url: None,
            frozen_at: None,
            webhook_retry_delays: [1, 5, 30, 300, 3_600].map(Duration::from_secs).to_vec(),
            webhook_timeout: Duration::from_secs(10),
            dunning_days: vec![3, 5, 7],
            dunning_end: DunningEnd::Cancel,
            draft_secs: 3_600,
            upcoming_days: 7,
            timeout_fault: Duration::from_secs(120),
        }
    }
}
