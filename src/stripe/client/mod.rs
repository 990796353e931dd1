//! The client of Stripe's API: thin, typed where a response is used, and explicit
//! about whether a call without a response may have had an effect.
//!
//! A call that changes something carries an idempotency key, shared by all its
//! retries. Keys of calls that move money are stored before the call
//! ([`super::requests`]).

mod attempt;
mod discounts;
mod endpoints;
mod error;
mod lists;
mod meters;
mod pace;
mod pages;
mod params;
mod payments;
mod schedules;

use jiff::Timestamp;
use reqwest::{Method, Url};
use serde_json::Value;

use crate::config::is_loopback;
use crate::http_client;

pub use crate::config::{Patience, SecretKey};
pub use discounts::{PromotionCode, with_discounts};
pub use endpoints::{
    Customer, Invoice, List, Meter, PaymentMethod, Price, Product, StripeEvent, Tier,
    WebhookEndpoint,
};
pub use error::{ErrorKind, StripeError};
pub use lists::{AccountList, Page};
use pace::Pace;
pub use params::Params;

/// The version of every call. Events come in the version of their endpoint;
/// [`super::objects`] reads them all.
pub const API_VERSION: &str = "2026-08-26.dahlia";
/// The billing mode of new subscriptions, the one that the local engine
/// implements. It is set on each, whatever the version's default.
pub const BILLING_MODE: &str = "classic";
/// The mode that lets prices of different intervals into one subscription.
pub const FLEXIBLE: &str = "flexible";
/// A client; clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    key: SecretKey,
    patience: Patience,
    /// `None`: as fast as they are asked for.
    pace: Option<Pace>,
}

/// A successful response from Stripe.
#[derive(Debug, Clone)]
pub struct Response {
    pub body: Value,
    /// Stripe's id of the request, for its support.
    pub request_id: Option<String>,
    /// Stripe's clock.
    pub date: Option<Timestamp>,
}

/// A call to make.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Its name in metrics and logs.
    pub name: &'static str,
    pub path: &'a str,
    pub params: &'a Params,
}

impl Client {
    /// # Errors
    /// If no TLS provider is available.
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
            pace: None,
        })
    }

    /// The same client, with at most `rate` calls a second among its clones.
    pub fn paced(self, rate: u32) -> Self {
        Self {
            pace: Some(Pace::per_second(rate)),
            ..self
        }
    }

    pub const fn patience(&self) -> Patience {
        self.patience
    }

    pub async fn get(&self, call: Call<'_>) -> Result<Response, StripeError> {
        attempt::send(self, Method::GET, call, None).await
    }

    /// Creates or changes something, once per `key`.
    pub async fn post(&self, call: Call<'_>, key: &str) -> Result<Response, StripeError> {
        attempt::send(self, Method::POST, call, Some(key)).await
    }

    /// DELETE is idempotent by itself, but accepts a key too.
    pub async fn delete(&self, call: Call<'_>, key: &str) -> Result<Response, StripeError> {
        attempt::send(self, Method::DELETE, call, Some(key)).await
    }
}
