//! Calls to Stripe, against the stand-in.

mod client;
mod requests;

use std::time::Duration;

use reqwest::Url;
use serde_json::Value;
use stripe_sandbox::{Config, Sandbox};
use valuecanvas_billing::stripe::client::{Client, Patience, SecretKey};

/// A stand-in of a test's own.
pub struct Stripe {
    pub sandbox: Sandbox,
    http: reqwest::Client,
}

impl Stripe {
    pub async fn start() -> Self {
        Self {
            sandbox: Sandbox::start(Config::default()).await.unwrap(),
            http: valuecanvas_billing::http_client::direct_client().unwrap(),
        }
    }

    pub fn client(&self) -> Client {
        let patience = Patience {
            attempt: Duration::from_millis(500),
            total: Duration::from_secs(20),
            attempts: 4,
            pause: Duration::from_millis(5),
            ..Patience::default()
        };
        let base = Url::parse(&self.sandbox.url()).unwrap();
        Client::new(base, SecretKey::new("sk_test_secret"), patience).unwrap()
    }

    /// Makes or changes something behind the client's back.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Value {
        let url = format!("{}{path}", self.sandbox.url());
        let request = self.http.post(url).bearer_auth("sk_test_secret");
        let response = request.form(fields).send().await.unwrap();
        assert!(response.status().is_success(), "{path} {fields:?}");
        response.json().await.unwrap()
    }

    /// Makes things go wrong.
    pub async fn fault(&self, fault: &[(&str, &str)]) {
        self.post("/_sandbox/faults", fault).await;
    }

    /// How often the faults struck.
    pub async fn struck(&self) -> u64 {
        let url = format!("{}/_sandbox/faults", self.sandbox.url());
        let faults: Value = self
            .http
            .get(url)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let faults = faults["data"].as_array().unwrap();
        faults
            .iter()
            .map(|fault| fault["struck"].as_u64().unwrap())
            .sum()
    }
}
