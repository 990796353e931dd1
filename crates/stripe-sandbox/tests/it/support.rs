//! A small HTTP client, and the steps that tests consist of.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use stripe_sandbox::{Config, Sandbox};

pub const DAY: i64 = 86_400;
/// 2026-01-31T10:00:00Z, the last day of a long month.
pub const START: i64 = 1_769_853_600;
pub const OLD: &str = "2023-10-16";

/// A response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Reply {
    /// The body of a response that must be a 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{:#}", self.body);
        self.body
    }

    /// The error of a response that must have this status.
    #[track_caller]
    pub fn error(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:#}", self.body);
        self.body["error"].clone()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A sandbox and a client for it.
pub struct World {
    pub sandbox: Sandbox,
    http: Client<HttpConnector, Body>,
    pub version: Option<&'static str>,
    pub key: String,
}

pub type Fields<'a> = &'a [(&'a str, &'a str)];

impl World {
    pub async fn new() -> Self {
        Self::with(Config {
            webhook_retry_delays: vec![Duration::from_millis(20); 2],
            timeout_fault: Duration::from_millis(50),
            ..Config::default()
        })
        .await
    }

    pub async fn with(config: Config) -> Self {
        Self {
            sandbox: Sandbox::start(config).await.expect("a free port"),
            http: Client::builder(TokioExecutor::new()).build_http(),
            version: None,
            key: "Bearer sk_test_world".to_owned(),
        }
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        fields: Fields<'_>,
        key: Option<&str>,
    ) -> Option<Reply> {
        let form: String = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let (query, body) = if method == "POST" {
            (String::new(), form)
        } else {
            (format!("?{form}"), String::new())
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}{query}", self.sandbox.url()))
            .header("authorization", &self.key);
        if method == "POST" {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        if let Some(version) = self.version {
            request = request.header("stripe-version", version);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Body::from(body)).expect("a request");
        let response = self.http.request(request).await.ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.into_body().collect().await.ok()?.to_bytes();
        let body = serde_json::from_slice(&bytes).expect("JSON");
        Some(Reply {
            status,
            headers,
            body,
        })
    }

    /// The content type and bytes behind a link.
    pub async fn download(&self, url: &str) -> (String, Vec<u8>) {
        let request = Request::get(url).body(Body::empty()).expect("a request");
        let response = self.http.request(request).await.expect("a response");
        let kind = response.headers()["content-type"]
            .to_str()
            .expect("text")
            .to_owned();
        let bytes = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        (kind, bytes.to_vec())
    }

    pub async fn post(&self, path: &str, fields: Fields<'_>) -> Reply {
        self.send("POST", path, fields, None)
            .await
            .expect("a response")
    }

    pub async fn get(&self, path: &str, fields: Fields<'_>) -> Reply {
        self.send("GET", path, fields, None)
            .await
            .expect("a response")
    }

    pub async fn delete(&self, path: &str, fields: Fields<'_>) -> Reply {
        self.send("DELETE", path, fields, None)
            .await
            .expect("a response")
    }

    /// A monthly licensed price.
    pub async fn price(&self, amount: i64) -> String {
        self.price_every(amount, "month").await
    }

    pub async fn price_every(&self, amount: i64, interval: &str) -> String {
        let amount = amount.to_string();
        let price = self
            .post(
                "/v1/prices",
                &[
                    ("currency", "usd"),
                    ("unit_amount", &amount),
                    ("recurring[interval]", interval),
                    ("product_data[name]", "Plan"),
                ],
            )
            .await
            .ok();
        text(&price, "id")
    }

    pub async fn clock(&self, at: i64) -> String {
        let at = at.to_string();
        text(
            &self
                .post("/v1/test_helpers/test_clocks", &[("frozen_time", &at)])
                .await
                .ok(),
            "id",
        )
    }

    pub async fn advance(&self, clock: &str, to: i64) {
        let to = to.to_string();
        let path = format!("/v1/test_helpers/test_clocks/{clock}/advance");
        self.post(&path, &[("frozen_time", &to)]).await.ok();
    }

    /// A customer on a clock whose default is a test card.
    pub async fn customer(&self, clock: &str, card: &str) -> String {
        let customer = self
            .post(
                "/v1/customers",
                &[
                    ("test_clock", clock),
                    ("payment_method", card),
                    ("invoice_settings[default_payment_method]", card),
                ],
            )
            .await
            .ok();
        text(&customer, "id")
    }

    pub async fn subscribe(&self, customer: &str, price: &str, mode: &str) -> Value {
        self.post(
            "/v1/subscriptions",
            &[
                ("customer", customer),
                ("items[0][price]", price),
                ("billing_mode[type]", mode),
            ],
        )
        .await
        .ok()
    }

    pub async fn subscription(&self, id: &str) -> Value {
        self.get(&format!("/v1/subscriptions/{id}"), &[]).await.ok()
    }

    pub async fn invoice(&self, id: &str) -> Value {
        self.get(&format!("/v1/invoices/{id}"), &[]).await.ok()
    }

    /// The newest invoice of a subscription.
    pub async fn latest_invoice(&self, subscription: &str) -> Value {
        let subscription = self.subscription(subscription).await;
        self.invoice(&text(&subscription, "latest_invoice")).await
    }

    /// The types of all events, oldest first.
    pub async fn event_types(&self) -> Vec<String> {
        let events = self.get("/v1/events", &[("limit", "100")]).await.ok();
        let data = events["data"].as_array().expect("a list");
        data.iter().rev().map(|event| text(event, "type")).collect()
    }
}

/// A text field that must be present.
#[track_caller]
pub fn text(value: &Value, key: &str) -> String {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no text {key} in {value:#}"))
        .to_owned()
}

/// The amounts of an invoice's lines.
pub fn amounts(invoice: &Value) -> Vec<i64> {
    let lines = invoice["lines"]["data"].as_array().expect("lines");
    lines
        .iter()
        .map(|line| line["amount"].as_i64().expect("an amount"))
        .collect()
}

/// The id of a subscription's first item.
pub fn item(subscription: &Value) -> String {
    text(&subscription["items"]["data"][0], "id")
}
