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

use jiff::Timestamp;
use reqwest::{Method, Url};
use serde_json::Value;

use crate::config::is_loopback;
use crate::http_client;

pub use crate::config::{Patience, SecretKey};
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
