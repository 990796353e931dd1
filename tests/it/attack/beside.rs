//! Who is not to notice: a customer's checks and reads, and Stripe's deliveries. They go on
//! at their own pace, on a thread of their own, whatever becomes of the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;
use valuecanvas_billing::http_client;

use super::world::Tenant;
use crate::support::service::WEBHOOKS;

/// Deliveries of the control, by their ids.
pub const PREFIX: &str = "evt_beside_";
/// Who is answered later is not answered.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is refused while the database is gone is sent again for as long.
const AGAIN_FOR: Duration = Duration::from_secs(10);

type Outcome = Result<Duration, String>;

/// One kind of request: how long each answer took from when it was due, and
/// what was not answered as it should be.
#[derive(Debug, Default, Clone)]
pub struct Series {
    pub took: Vec<Duration>,
    pub failures: Vec<String>,
}

impl Series {
    pub fn sent(&self) -> usize {
        self.took.len() + self.failures.len()
    }

    pub fn extend(&mut self, other: &Self) {
        self.took.extend(&other.took);
        self.failures.extend(other.failures.iter().cloned());
    }

    /// The percentile in microseconds; what failed took for ever.
    pub fn micros(&self, percent: usize) -> Option<u128> {
        let mut took = self.took.clone();
        took.sort_unstable();
        let at = (self.sent() * percent).div_ceil(100).max(1) - 1;
        took.get(at).map(Duration::as_micros)
    }

    async fn collect(mut outcomes: JoinSet<Outcome>) -> Self {
        let mut series = Self::default();
        while let Some(outcome) = outcomes.join_next().await {
            series.take(outcome.expect("callers do not panic"));
        }
        series
    }

    fn take(&mut self, outcome: Outcome) {
        match outcome {
            Ok(took) => self.took.push(took),
            Err(failure) => self.failures.push(failure),
        }
    }
}

/// What was seen of each.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub checks: Series,
    pub reads: Series,
    pub deliveries: Series,
}

impl Seen {
    pub fn extend(&mut self, other: &Self) {
        self.checks.extend(&other.checks);
        self.reads.extend(&other.reads);
        self.deliveries.extend(&other.deliveries);
    }
}

/// A customer and Stripe, until they are stopped.
pub struct Beside {
    stop: Arc<AtomicBool>,
    seen: oneshot::Receiver<Seen>,
}

#[derive(Clone)]
struct Caller {
    base: String,
    client: Client,
    tenant: Tenant,
    sent_again: bool,
}

impl Beside {
    pub fn start(base: &str, tenant: &Tenant, pace: Duration, sent_again: bool) -> Self {
        let caller = Caller {
            base: base.to_owned(),
            client: http_client::direct_client().unwrap(),
            tenant: tenant.clone(),
            sent_again,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (told, (tell, seen)) = (stop.clone(), oneshot::channel());
        std::thread::spawn(move || {
            let mut building = tokio::runtime::Builder::new_current_thread();
            let runtime = building.enable_all().build().unwrap();
            let _ = tell.send(runtime.block_on(go_on(&caller, pace, &told)));
        });
        Self { stop, seen }
    }

    /// Stops them, and waits for what is under way.
    pub async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.seen.await.expect("they see what is answered")
    }
}

async fn go_on(caller: &Caller, pace: Duration, stop: &AtomicBool) -> Seen {
    let run = Uuid::new_v4().simple().to_string();
    let (mut checks, mut reads, mut deliveries) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    let mut due = Instant::now();
    for number in 0_u32.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tokio::time::sleep_until(due).await;
        let name = format!("{run}_{number}");
        let (client, id) = (caller.clone(), name.clone());
        checks.spawn(async move { client.check(&id, due).await });
        let second = due + pace / 3;
        tokio::time::sleep_until(second).await;
        let client = caller.clone();
        reads.spawn(async move { client.read(second).await });
        let third = due + 2 * pace / 3;
        tokio::time::sleep_until(third).await;
        let client = caller.clone();
        deliveries.spawn(async move { client.deliver(&name, third).await });
        due += pace;
    }
    Seen {
        checks: Series::collect(checks).await,
        reads: Series::collect(reads).await,
        deliveries: Series::collect(deliveries).await,
    }
}

impl Caller {
    /// A use, on connections that stay open. One that the service closed while
    /// nothing was under way is no failure: the use is sent again, by its id.
    async fn check(&self, id: &str, due: Instant) -> Outcome {
        let body = json!({"id": id, "metric": "api_calls", "quantity": 1, "consume": true});
        self.until_answered(due, 1, || {
            let url = format!("{}/api/billing/usage/check", self.base);
            let request = self.client.post(url).bearer_auth(&self.tenant.key);
            request.json(&body)
        })
        .await
    }

    /// What its owner looks at.
    async fn read(&self, due: Instant) -> Outcome {
        self.until_answered(due, 1, || {
            let request = self.client.get(format!("{}/api/billing/usage", self.base));
            request.bearer_auth(self.tenant.token(0))
        })
        .await
    }

    /// A signed event, on a connection of its own.
    async fn deliver(&self, name: &str, due: Instant) -> Outcome {
        let id = format!("{PREFIX}{name}");
        let (body, signature) = self.tenant.delivery(&id, "standard");
        self.until_answered(due, 0, || {
            let request = self.client.post(format!("{}{WEBHOOKS}", self.base));
            let request = request.header("stripe-signature", &signature);
            request.header("connection", "close").body(body.clone())
        })
        .await
    }

    /// How long it took from `due` until 200, with `resets` connections lost.
    async fn until_answered(
        &self,
        due: Instant,
        resets: u32,
        request: impl Fn() -> RequestBuilder,
    ) -> Outcome {
        let mut lost = 0;
        loop {
            let sent = request().timeout(PATIENCE).send().await;
            let failure = match sent {
                Ok(answer) if answer.status() == 200 => return Ok(due.elapsed()),
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let text = answer.text().await.unwrap_or_default();
                    let problem: serde_json::Value =
                        serde_json::from_str(&text).unwrap_or_default();
                    let code = problem["code"].as_str().unwrap_or("?").to_owned();
                    let failure = format!("{status} {code}");
                    if !(self.sent_again && status == 503) {
                        return Err(failure);
                    }
                    failure
                }
                Err(error) if !error.is_timeout() && (lost < resets || self.sent_again) => {
                    lost += 1;
                    http_client::reason(error)
                }
                Err(error) => return Err(http_client::reason(error)),
            };
            if due.elapsed() > AGAIN_FOR {
                return Err(failure);
            }
            if self.sent_again {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
