//! The service and the stand-in, whose webhooks are delivered late, twice and
//! in any order.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use valuecanvas_billing::catalogue::{self, Catalogue};
use valuecanvas_billing::metering::reports::{self, Report};
use valuecanvas_billing::stripe::client::Client;
use valuecanvas_billing::stripe::signature::{self, SigningSecret};

use crate::subscriptions::world::{KEY, Stripe, World, text};
use crate::support::TestService;
use crate::support::dice::Dice;
use crate::support::service::Options;

pub struct Stage {
    pub world: World,
    pub catalogue: Catalogue,
    client: Client,
    http: reqwest::Client,
    seen: HashSet<String>,
    /// Webhooks that are under way, and for how many more rounds.
    held: Vec<(usize, Value)>,
}

fn plans_file() -> PathBuf {
    [
        env!("CARGO_MANIFEST_DIR"),
        "tests/it/metering/histories/plans.toml",
    ]
    .iter()
    .collect()
}

impl Stage {
    pub async fn set() -> Self {
        let stripe = Stripe::start().await;
        let api = stripe.api();
        let client = Client::new(api.base, api.key, api.patience).unwrap();
        let catalogue = Catalogue::load(Some(&plans_file())).unwrap();
        catalogue::sync(&client, &catalogue, false).await.unwrap();
        let options = Options {
            plans_file: Some(plans_file()),
            ..Options::default()
        };
        let world = World::with(stripe, options).await;
        world.deliver_nothing().await;
        Self {
            world,
            catalogue,
            client,
            http: valuecanvas_billing::http_client::direct_client().unwrap(),
            seen: HashSet::new(),
            held: Vec::new(),
        }
    }

    /// Calls the stand-in as the dashboard does; it may refuse.
    pub async fn try_stripe(
        &self,
        method: Method,
        path: &str,
        fields: &[(String, String)],
    ) -> (u16, Value) {
        let url = format!("{}{path}", self.world.stripe.sandbox.url());
        let request = self.http.request(method.clone(), url).bearer_auth(KEY);
        let request = match method {
            Method::POST => request.form(fields),
            _ => request.query(fields),
        };
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        assert!(status < 500, "{path}");
        (status, response.json().await.unwrap_or_default())
    }

    /// Delivers what is due of what happened: shuffled, and some of it twice. Of a
    /// customer all may be late by a round or two, or a single webhook.
    pub async fn deliver(&mut self, dice: &mut Dice) {
        let mut due = Vec::new();
        for (rounds, event) in std::mem::take(&mut self.held) {
            match rounds {
                0 => due.push(event),
                _ => self.held.push((rounds - 1, event)),
            }
        }
        let mut slow = HashMap::new();
        loop {
            let mut new = self.collect().await;
            // The order of a page does not depend on what else happened.
            new.sort_by_key(|event| text(event, "id"));
            for event in new {
                let object = &event["data"]["object"];
                let customer = object["customer"].as_str().unwrap_or_default().to_owned();
                let slow = *slow.entry(customer).or_insert_with(|| match dice.below(3) {
                    0 => 1 + dice.below(2),
                    _ => 0,
                });
                let rounds = match dice.below(6) {
                    0 => slow + dice.below(3),
                    _ => slow,
                };
                match rounds {
                    0 => due.push(event),
                    _ => self.held.push((rounds - 1, event)),
                }
            }
            if due.is_empty() {
                return;
            }
            self.send(dice, std::mem::take(&mut due)).await;
        }
    }

    /// Delivers all that is left.
    pub async fn deliver_all(&mut self, dice: &mut Dice) {
        loop {
            let held = std::mem::take(&mut self.held);
            let mut due: Vec<Value> = held.into_iter().map(|(_, event)| event).collect();
            due.extend(self.collect().await);
            if due.is_empty() {
                return;
            }
            self.send(dice, due).await;
        }
    }

    async fn send(&self, dice: &mut Dice, mut due: Vec<Value>) {
        let again: Vec<Value> = due.iter().filter(|_| dice.one_in(6)).cloned().collect();
        due.extend(again);
        dice.shuffle(&mut due);
        let service = &self.world.service;
        let secret = SigningSecret::new(service.secrets[0]);
        for event in &due {
            let body = event.to_string();
            let at = Timestamp::now().as_second();
            let signature = signature::sign(&secret, body.as_bytes(), at);
            let response = service.deliver_raw(body, &signature).await;
            assert_eq!(response.status(), 200);
        }
        service.settle().await;
    }

    /// What happened since it was asked last.
    async fn collect(&mut self) -> Vec<Value> {
        let mut new = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut fields = vec![("limit", "100")];
            if let Some(after) = &after {
                fields.push(("starting_after", after));
            }
            let page = self.world.stripe.get("/v1/events", &fields).await;
            let page = page["data"].as_array().unwrap().clone();
            let count = page.len();
            let mut known = false;
            for event in page {
                let id = text(&event, "id");
                after = Some(id.clone());
                if self.seen.insert(id) {
                    new.push(event);
                } else {
                    known = true;
                }
            }
            if known || count < 100 {
                return new;
            }
        }
    }

    pub async fn report(&self) -> Report {
        let pool = self.world.service.db.service_pool();
        let now = Timestamp::now();
        let report = reports::report(&pool, &self.client, &self.catalogue, now, |_, _| {})
            .await
            .unwrap();
        assert_eq!((report.failed, report.doubtful), (0, 0));
        report
    }

    pub async fn restart(&mut self) {
        let service = &mut self.world.service;
        service.stop().await;
        let options = Options {
            plans_file: Some(plans_file()),
            secrets: service.secrets.clone(),
            stripe_api: Some(self.world.stripe.api()),
            ..Options::default()
        };
        *service = TestService::on(service.db.clone(), options).await;
    }

    /// The rows of a query, as JSON.
    pub async fn rows(&self, sql: &str) -> Vec<Value> {
        let sql = format!("SELECT coalesce(json_agg(r), '[]') FROM ({sql}) r");
        let text = self.world.service.db.value(&sql).await;
        let rows: Value = serde_json::from_str(&text).unwrap_or(json!([]));
        rows.as_array().unwrap().clone()
    }
}

/// Waits until the next second has begun.
pub async fn next_second() -> i64 {
    let next = Timestamp::now().as_second() + 1;
    while Timestamp::now().as_second() < next {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    next
}
