//! What happens in the demo: through the API, customers subscribe, upgrade, fail
//! to pay, pay again and leave, and use what they have. The stand-in for Stripe
//! sends the events.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
use crate::telemetry::terminal::counted;

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

/// What has happened since the last look.
#[derive(Default)]
pub struct Counts {
    changes: AtomicU64,
    refused: AtomicU64,
    uses: AtomicU64,
}

/// [`Counts`], taken.
pub struct Taken {
    changes: u64,
    refused: u64,
    uses: u64,
}

impl Counts {
    /// Starts again at zero.
    pub fn take(&self) -> Taken {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        Taken {
            changes: take(&self.changes),
            refused: take(&self.refused),
            uses: take(&self.uses),
        }
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", counted(self.changes, "subscription change"))?;
        if self.refused > 0 {
            write!(f, " ({} refused)", self.refused)?;
        }
        write!(f, ", {}", counted(self.uses, "use"))
    }
}

fn count(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// The story, and the organizations that it is told for.
pub struct Traffic {
    pub address: SocketAddr,
    pub stripe: Client,
    pub secret: SigningSecret,
    pub tenants: Vec<Tenant>,
    pub counts: Arc<Counts>,
}

impl Traffic {
    /// Tells the story for each organization, again and again, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.tell()).await;
    }

    async fn tell(&self) {
        // One event that no handler can apply, for the dead letters.
        if let Some(tenant) = self.tenants.first() {
            self.send_unreadable(tenant).await;
        }
        loop {
            for tenant in &self.tenants {
                for step in &STORY {
                    self.act(tenant, step).await;
                    if let Err(error) = self.consume(tenant).await {
                        tracing::warn!(%error, "a sample use could not be made");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn act(&self, tenant: &Tenant, step: &Step) {
        match step {
            Step::Card(card) => {
                if let Err(error) = use_card(&self.stripe, &tenant.customer, card).await {
                    tracing::warn!(%error, "a sample card could not be used");
                }
            }
            Step::Call(method, plan) => {
                if let Err(error) = self.call(tenant, method.clone(), *plan).await {
                    tracing::warn!(%error, "a sample call could not be made");
                }
            }
        }
    }

    /// Uses agents, now and then more than the free plan includes.
    async fn consume(&self, tenant: &Tenant) -> Result<(), reqwest::Error> {
        let quantity = rand::random_range(1..=20);
        let used = json!({"metric": METRIC, "quantity": quantity, "consume": true});
        let response = http_client::direct_client()?
            .post(format!("http://{}{CHECK}", self.address))
            .bearer_auth(&tenant.api_key)
            .json(&used)
            .send()
            .await?;
        let status = response.status().as_u16();
        let grace = response.headers().contains_key("x-grace-period-expires");
        let organization_id = tenant.organization_id;
        count(&self.counts.uses);
        tracing::info!(%organization_id, metric = METRIC, quantity, status, grace, "Sample use");
        Ok(())
    }

    async fn call(
        &self,
        tenant: &Tenant,
        method: Method,
        plan: Option<&str>,
    ) -> Result<(), reqwest::Error> {
        let now = if method == Method::DELETE {
            "?immediately=true"
        } else {
            ""
        };
        let url = format!("http://{}{SUBSCRIPTION}{now}", self.address);
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
        if method != Method::GET {
            count(&self.counts.changes);
        }
        match body["code"].as_str() {
            None => tracing::info!(%organization_id, %method, plan, status, "Sample change"),
            Some(code) => {
                count(&self.counts.refused);
                tracing::info!(%organization_id, %method, plan, status, code, "Sample change refused")
            }
        }
        Ok(())
    }

    /// Sends an invoice over half a cent.
    async fn send_unreadable(&self, tenant: &Tenant) {
        let sample = Sample::new(tenant.organization_id, Some(&tenant.customer));
        let event = sample.event("invoice.updated", Timestamp::now(), false);
        let body = event
            .body
            .replace("\"amount_due\":9900", "\"amount_due\":9900.5");
        let header = signature::sign(&self.secret, body.as_bytes(), Timestamp::now().as_second());
        match samples::post(self.address, &body, &header).await {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => tracing::warn!(status = answer.status, "a sample event was refused"),
            Err(error) => tracing::warn!(%error, "a sample event could not be sent"),
        }
    }
}
