//! What happens in the demo: customers subscribe, upgrade, fail to pay, pay
//! again and leave, by the API, and use what they have; the stand-in for Stripe
//! tells of it.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::samples::{self, Sample};
use super::account::{BAD_CARD, GOOD_CARD, use_card};
use super::tenants::Tenant;
use crate::http_client;
use crate::stripe::client::Client;
use crate::stripe::signature::{self, SigningSecret};

const PAUSE: Duration = Duration::from_secs(2);
const SUBSCRIPTION: &str = "/api/billing/subscription";
const CHECK: &str = "/api/billing/usage/check";
const METRIC: &str = "agent_executions";

/// A step of the story.
enum Step {
    /// A call to our API, by method and plan.
    Call(Method, Option<&'static str>),
    /// The customer's next card.
    Card(&'static str),
}

const STORY: [Step; 8] = [
    Step::Call(Method::POST, Some("standard")),
    Step::Card(BAD_CARD),
    // Declined.
    Step::Call(Method::PUT, Some("enterprise")),
    Step::Card(GOOD_CARD),
    Step::Call(Method::PUT, Some("enterprise")),
    Step::Call(Method::PUT, Some("standard")),
    Step::Call(Method::GET, None),
    Step::Call(Method::DELETE, None),
];

/// Tells the story for each organization, again and again, until `stop`.
pub async fn run(
    address: SocketAddr,
    stripe: Client,
    secret: SigningSecret,
    tenants: Vec<Tenant>,
    stop: CancellationToken,
) {
    let telling = async {
        // One event that no handler can apply, for the dead letters.
        if let Some(tenant) = tenants.first() {
            unreadable(address, &secret, tenant).await;
        }
        loop {
            for tenant in &tenants {
                for step in &STORY {
                    act(address, &stripe, tenant, step).await;
                    if let Err(error) = consume(address, tenant).await {
                        tracing::warn!(%error, "a sample use could not be made");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = telling => {}
        () = stop.cancelled() => {}
    }
}

async fn act(address: SocketAddr, stripe: &Client, tenant: &Tenant, step: &Step) {
    match step {
        Step::Card(card) => {
            if let Err(error) = use_card(stripe, &tenant.customer, card).await {
                tracing::warn!(%error, "a sample card could not be used");
            }
        }
        Step::Call(method, plan) => {
            let called = call(address, tenant, method.clone(), *plan).await;
            if let Err(error) = called {
                tracing::warn!(%error, "a sample call could not be made");
            }
        }
    }
}

/// Uses agents, now and then more than the free plan has.
async fn consume(address: SocketAddr, tenant: &Tenant) -> Result<(), reqwest::Error> {
    let quantity = rand::random_range(1..=20);
    let used = json!({"metric": METRIC, "quantity": quantity, "consume": true});
    let response = http_client::direct_client()?
        .post(format!("http://{address}{CHECK}"))
        .bearer_auth(&tenant.api_key)
        .json(&used)
        .send()
        .await?;
    let status = response.status().as_u16();
    let grace = response.headers().contains_key("x-grace-period-expires");
    let organization_id = tenant.organization_id;
    tracing::info!(%organization_id, metric = METRIC, quantity, status, grace, "Sample use");
    Ok(())
}

async fn call(
    address: SocketAddr,
    tenant: &Tenant,
    method: Method,
    plan: Option<&str>,
) -> Result<(), reqwest::Error> {
    let now = if method == Method::DELETE {
        "?immediately=true"
    } else {
        ""
    };
    let url = format!("http://{address}{SUBSCRIPTION}{now}");
    let mut request = http_client::direct_client()?
        .request(method.clone(), url)
        .bearer_auth(&tenant.api_key);
    if let Some(plan) = plan {
        request = request.json(&json!({"planTier": plan}));
    }
    let response = request.send().await?;
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap_or_default();
    let organization_id = tenant.organization_id;
    match body["code"].as_str() {
        None => tracing::info!(%organization_id, %method, plan, status, "Sample change"),
        Some(code) => {
            tracing::info!(%organization_id, %method, plan, status, code, "Sample change refused")
        }
    }
    Ok(())
}

/// An invoice with half a cent.
async fn unreadable(address: SocketAddr, secret: &SigningSecret, tenant: &Tenant) {
    let sample = Sample::new(tenant.organization_id, Some(&tenant.customer));
    let event = sample.event("invoice.updated", Timestamp::now(), false);
    let body = event
        .body
        .replace("\"amount_due\":9900", "\"amount_due\":9900.5");
    let header = signature::sign(secret, body.as_bytes(), Timestamp::now().as_second());
    match samples::post(address, &body, &header).await {
        Ok(answer) if answer.status == 200 => {}
        Ok(answer) => tracing::warn!(status = answer.status, "a sample event was refused"),
        Err(error) => tracing::warn!(%error, "a sample event could not be sent"),
    }
}
