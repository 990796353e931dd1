//! What a sandbox can be told when it starts.

use std::time::Duration;

use crate::shape;

/// What becomes of a subscription when every payment retry has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DunningEnd {
    /// The subscription is canceled.
    Cancel,
    /// The subscription is `unpaid`; invoices stay open.
    MarkUnpaid,
    /// The subscription stays `past_due`.
    LeavePastDue,
}

/// How a sandbox behaves. The defaults are those of a new Stripe account.
#[derive(Debug, Clone)]
pub struct Config {
    /// Fixes the ids, so that a run can be repeated exactly.
    pub seed: u64,
    /// The account's default API version: for requests without
    /// `Stripe-Version`, for events, and for endpoints without one.
    pub api_version: String,
    /// The keys that authenticate; none means any `sk_test_…` or `rk_test_…`.
    pub keys: Vec<String>,
    /// Where the links in invoices lead; its own address, unless set.
    pub public_url: Option<String>,
    /// Freezes the wall clock at a Unix time.
    pub frozen_at: Option<i64>,
    /// Pauses before the second, third, … delivery of an event.
    pub webhook_retry_delays: Vec<Duration>,
    /// How long an endpoint may take to answer.
    pub webhook_timeout: Duration,
    /// Days between a failed payment and its next attempt.
    pub dunning_days: Vec<u16>,
    /// What follows the last failed attempt.
    pub dunning_end: DunningEnd,
    /// How long a renewal invoice stays a draft.
    pub draft_secs: i64,
    /// How long before a renewal `invoice.upcoming` is sent.
    pub upcoming_days: u16,
    /// How long a request hangs when the fault `timeout` strikes it.
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
