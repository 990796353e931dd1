//! The running service, as its callers reach it.

use reqwest::{Client, StatusCode, Url};

use super::Check;
use crate::http_client;
use crate::webhooks::endpoint::{PATH, PROBE};

/// The service to check.
pub struct Service {
    pub base: Url,
    /// Whether it must be running: its address was given.
    pub expected: bool,
}

pub async fn check(service: &Service, client: &Client) -> Vec<Check> {
    let base = service.base.as_str().trim_end_matches('/');
    let ready = match client.get(format!("{base}/readyz")).send().await {
        Ok(answer) if answer.status() == StatusCode::OK => {
            Check::ok("service", format!("{base} is ready"))
        }
        Ok(answer) => {
            let status = answer.status();
            let reasons = reasons_of(answer).await;
            Check::failed(
                "service",
                format!("{base}/readyz answers {status}{reasons}"),
                "see docs/database.md, When it fails, and the service's log",
            )
        }
        Err(_) if !service.expected => {
            let detail =
                format!("nothing answers at {base}; give the service's address with --url");
            return vec![Check::skipped("service", detail)];
        }
        Err(error) => {
            let fix = "check that `serve` runs there and the network path to it; a certificate of your own \
                       authority needs SSL_CERT_FILE";
            let detail = http_client::reason(error);
            return vec![Check::failed("service", format!("{base}: {detail}"), fix)];
        }
    };
    vec![ready, unsigned(base, client).await]
}

/// The reasons that the service gives for not being ready.
async fn reasons_of(answer: reqwest::Response) -> String {
    let Ok(body) = answer.json::<serde_json::Value>().await else {
        return String::new();
    };
    let reasons: Vec<&str> = body["reasons"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(serde_json::Value::as_str)
        .collect();
    if reasons.is_empty() {
        return String::new();
    }
    format!(": {}", reasons.join("; "))
}

/// A delivery without a signature must be answered 400. Otherwise another program
/// answers on this path, or signatures are not checked.
async fn unsigned(base: &str, client: &Client) -> Check {
    let name = "signatures";
    let answer = client.post(format!("{base}{PATH}")).header(PROBE, "doctor");
    let answer = answer.body("{}").send().await;
    match answer {
        Ok(answer) if answer.status() == StatusCode::BAD_REQUEST => {
            Check::ok(name, "a delivery without a signature is refused with 400")
        }
        Ok(answer) => Check::failed(
            name,
            format!("{PATH} without a signature answers {}", answer.status()),
            "the proxy must forward the path unchanged, and nothing else may answer on it",
        ),
        Err(error) => Check::failed(
            name,
            http_client::reason(error),
            "check that `serve` runs there and the network path to it",
        ),
    }
}
