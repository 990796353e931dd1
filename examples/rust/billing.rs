//! The calls to valuecanvas-billing. The service key stays on the server, and each request
//! names its customer by the product's own id.

use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::Value;

/// Billing as the product calls it.
pub struct Billing {
    client: Client,
    base: String,
    key: String,
}

/// A call that came to nothing.
pub enum Failure {
    /// Billing refused it; the text is for people.
    Refused(String),
    /// It could not be asked, or failed. Nothing is made twice if it is asked again.
    Unavailable(String),
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Billing {
    pub fn new(base: String, key: String) -> Result<Self, reqwest::Error> {
        let client = Client::builder().timeout(Duration::from_secs(40)).build()?;
        Ok(Self { client, base, key })
    }

    /// One request. `key` makes one that is sent again the same one.
    pub async fn send(
        &self,
        method: Method,
        customer: &str,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Value, Failure> {
        let url = format!("{}{path}", self.base);
        let mut request = self.client.request(method, url).bearer_auth(&self.key);
        // Sign-up names its customer in the path.
        if !path.starts_with("/api/organizations/") {
            request = request.header("x-organization", customer);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let answer: Value = response.json().await.unwrap_or_default();
        let detail = answer["detail"].as_str().unwrap_or_default().to_owned();
        match status.as_u16() {
            200..300 => Ok(answer),
            400..500 => Err(Failure::Refused(detail)),
            _ => Err(Failure::Unavailable(format!("{status}: {detail}"))),
        }
    }
}
