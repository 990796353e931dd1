//! A client that posts as Stripe does: again, until it is acknowledged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::events::{event, invoice, sign, subscription};
use crate::support::service::WEBHOOKS;

const SENDERS: usize = 8;
/// Far more than a restart takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Client {
    shared: Arc<Shared>,
    senders: Vec<JoinHandle<()>>,
}

struct Shared {
    http: reqwest::Client,
    url: String,
    stopping: AtomicBool,
    number: AtomicUsize,
    acknowledged: Mutex<BTreeSet<String>>,
    refused: AtomicUsize,
}

impl Client {
    pub fn start(base: &str) -> Self {
        let shared = Arc::new(Shared {
            http: valuecanvas_billing::http_client::http_client().unwrap(),
            url: format!("{base}{WEBHOOKS}"),
            stopping: AtomicBool::new(false),
            number: AtomicUsize::new(0),
            acknowledged: Mutex::default(),
            refused: AtomicUsize::new(0),
        });
        let senders = (0..SENDERS).map(|_| tokio::spawn(send(shared.clone())));
        Self {
            senders: senders.collect(),
            shared,
        }
    }

    /// Returns when `more` events were acknowledged.
    pub async fn until_acknowledged(&self, more: usize) {
        let count = || self.shared.acknowledged.lock().unwrap().len();
        until(count, more).await;
    }

    /// Returns when `more` deliveries were told to come back.
    pub async fn until_refused(&self, more: usize) {
        until(|| self.shared.refused.load(Ordering::Relaxed), more).await;
    }

    /// Stops, and returns the ids of the events that were acknowledged.
    pub async fn stop(self) -> BTreeSet<String> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for sender in self.senders {
            sender.await.unwrap();
        }
        std::mem::take(&mut self.shared.acknowledged.lock().unwrap())
    }
}

/// Returns when `count` has grown by `more`.
async fn until(count: impl Fn() -> usize, more: usize) {
    let enough = count() + more;
    let waiting = async {
        while count() < enough {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.expect("the service answers as it should");
}

async fn send(shared: Arc<Shared>) {
    while !shared.stopping.load(Ordering::Relaxed) {
        let number = shared.number.fetch_add(1, Ordering::Relaxed);
        let event = nth(number);
        let body = event.to_string();
        // One in four is sent again although it was acknowledged.
        let mut times = if number.is_multiple_of(4) { 2 } else { 1 };
        while times > 0 && !shared.stopping.load(Ordering::Relaxed) {
            if shared.post(&body).await {
                times -= 1;
                let id = event["id"].as_str().unwrap().to_owned();
                shared.acknowledged.lock().unwrap().insert(id);
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

impl Shared {
    async fn post(&self, body: &str) -> bool {
        let request = self
            .http
            .post(&self.url)
            .header("stripe-signature", sign(body.as_bytes()))
            .body(body.to_owned());
        match request.send().await {
            Ok(response) if response.status() == 200 => true,
            Ok(response) => {
                assert_eq!(response.status(), 503, "Stripe would give up");
                self.refused.fetch_add(1, Ordering::Relaxed);
                false
            }
            Err(_) => false,
        }
    }
}

/// Failed payments, changes of a few subscriptions, and events of a customer
/// that nobody ever makes known.
fn nth(number: usize) -> Value {
    let created = 1_760_000_000 + number as i64;
    let customer = ["cus_1", "cus_2"][number % 2];
    match number % 10 {
        0..=5 => {
            let mut object = invoice(&format!("in_{number}"), customer, "sub", "open");
            object["parent"] = Value::Null;
            let id = format!("evt_payment_{number}");
            event(&id, "invoice.payment_failed", created, object)
        }
        6..=8 => {
            let id = format!("sub_{}", number % 6);
            let object = subscription(&id, ["cus_1", "cus_2"][number % 2], "active", "standard");
            let id = format!("evt_subscription_{number}");
            event(&id, "customer.subscription.updated", created, object)
        }
        _ => {
            let object = subscription("sub_unknown", "cus_unknown", "active", "standard");
            let id = format!("evt_unknown_{number}");
            event(&id, "customer.subscription.updated", created, object)
        }
    }
}
