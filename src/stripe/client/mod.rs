//! The client of Stripe's API: thin, typed where the answer is used, and
//! careful about what may have happened when no answer came.
//!
//! A call that changes something carries an idempotency key, which all its
//! repetitions share. Keys of calls that move money are stored before the call
//! ([`super::requests`]).

mod attempt;
mod endpoints;
mod error;
mod params;
mod payments;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Method, Url};
use serde_json::Value;

use crate::http_client::{self, is_loopback};

pub use endpoints::{
    Customer, Invoice, List, Meter, PaymentMethod, Price, Product, StripeEvent, Tier,
    WebhookEndpoint,
};
pub use error::{ErrorKind, StripeError};
pub use params::Params;

/// The version of every call. Events come in the version of their endpoint;
/// [`super::objects`] reads them all.
pub const API_VERSION: &str = "2026-08-26.dahlia";
/// How new subscriptions are billed, which is said with each, whatever the
/// version's default: by the rules that the local engine computes by.
pub const BILLING_MODE: &str = "classic";
/// Stripe's own host.
pub const API_BASE: &str = "https://api.stripe.com";

/// A secret key. It is written to requests, and to nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(Arc<str>);

impl SecretKey {
    pub fn new(key: &str) -> Self {
        Self(key.into())
    }
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The prefix tells the mode, and is no secret.
        let prefix = self.0.match_indices('_').nth(1).map_or(0, |(at, _)| at + 1);
        write!(f, "{}…", &self.0[..prefix])
    }
}

/// How long a call may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For one attempt.
    pub attempt: Duration,
    /// For all attempts, and the pauses between them.
    pub total: Duration,
    pub attempts: u32,
    /// The first pause; it doubles.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(15),
            total: Duration::from_secs(30),
            attempts: 4,
            pause: Duration::from_millis(250),
        }
    }
}

/// A client; clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    key: SecretKey,
    patience: Patience,
}

/// What Stripe answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub body: Value,
    /// Stripe's name for the request, for its support.
    pub request_id: Option<String>,
    /// Stripe's clock.
    pub date: Option<Timestamp>,
}

/// A call, before it is made.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Its name in metrics and logs.
    pub name: &'static str,
    pub path: &'a str,
    pub params: &'a Params,
}

impl Client {
    /// # Errors
    /// Where no TLS provider can be had.
    pub fn new(base: Url, key: SecretKey, patience: Patience) -> Result<Self, reqwest::Error> {
        // No proxy reaches a stand-in on this host.
        let http = if is_loopback(&base) {
            http_client::direct_client()?
        } else {
            http_client::http_client()?
        };
        Ok(Self {
            http,
            base,
            key,
            patience,
        })
    }

    pub async fn get(&self, call: Call<'_>) -> Result<Answer, StripeError> {
        attempt::send(self, Method::GET, call, None).await
    }

    /// Makes or changes something, once for each `key`.
    pub async fn post(&self, call: Call<'_>, key: &str) -> Result<Answer, StripeError> {
        attempt::send(self, Method::POST, call, Some(key)).await
    }

    /// DELETE is idempotent by itself, and takes a key all the same.
    pub async fn delete(&self, call: Call<'_>, key: &str) -> Result<Answer, StripeError> {
        attempt::send(self, Method::DELETE, call, Some(key)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_shows_its_mode_and_nothing_more() {
        assert_eq!(
            format!("{:?}", SecretKey::new("sk_test_abc123")),
            "sk_test_…"
        );
        assert_eq!(format!("{:?}", SecretKey::new("rk_live_x")), "rk_live_…");
        assert_eq!(format!("{:?}", SecretKey::new("secret")), "…");
    }
}
