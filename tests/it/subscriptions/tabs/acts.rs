//! What somebody does in one tab: a request or a few, each repeated as a browser's user would,
//! and Stripe's pages.

use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::Storm;
use crate::subscriptions::later::PENDING;
use crate::subscriptions::world::{PREVIEW, REACTIVATE, SUBSCRIPTION};
use crate::support::dice::Dice;

const CHECKOUT: &str = "/api/billing/checkout";
const CARDS: &str = "/api/billing/payment-methods";
const GOOD: &str = "4242424242424242";
const ASKS_ITS_HOLDER: &str = "4000002760003184";
const FAILS_LATER: &str = "4000000000000341";
const DECLINED: &str = "4000000000000002";

/// A tab, which knows its organization and the replica that it reaches.
pub struct Tab {
    client: Client,
    base: String,
    token: String,
    dice: Dice,
}

/// What went wrong; an answer that is none is nothing wrong in a storm.
pub type Outcome = Result<(), String>;

impl Tab {
    pub fn open(storm: &Storm, tenant: usize, replica: usize, seed: u64) -> Self {
        Self {
            client: storm.client.clone(),
            base: storm.replicas[replica].base.clone(),
            token: storm.tenants[tenant].token.clone(),
            dice: Dice::new(seed),
        }
    }

    pub async fn act(mut self) -> Outcome {
        match self.dice.below(12) {
            0..=3 => self.check_out().await,
            4 => {
                let body = json!({"planTier": self.tier()});
                let answer = self.send(Method::POST, SUBSCRIPTION, &body).await?;
                self.pay(&answer).await
            }
            5..=7 => self.change().await,
            8 => self.add_card().await,
            9 => self.choose_card().await,
            10 => self.cancel().await,
            _ if self.dice.one_in(2) => {
                let kept = self.send(Method::POST, REACTIVATE, &Value::Null);
                kept.await.map(drop)
            }
            _ => {
                let called_off = self.send(Method::DELETE, PENDING, &Value::Null);
                called_off.await.map(drop)
            }
        }
    }

    fn tier(&mut self) -> &'static str {
        self.dice.pick(&["standard", "enterprise"])
    }

    fn card(&mut self) -> &'static str {
        self.dice.pick(&[
            GOOD,
            GOOD,
            GOOD,
            ASKS_ITS_HOLDER,
            ASKS_ITS_HOLDER,
            FAILS_LATER,
            DECLINED,
        ])
    }

    /// The answer of the last try; null where the service died. Who is told to try again
    /// does so, or does not care any more.
    async fn send(&mut self, method: Method, path: &str, body: &Value) -> Result<Value, String> {
        let mut last = Value::Null;
        for _ in 0..=self.dice.below(3) {
            let url = format!("{}{path}", self.base);
            let mut request = self
                .client
                .request(method.clone(), url)
                .bearer_auth(&self.token)
                .timeout(Duration::from_secs(60));
            if !body.is_null() {
                request = request.json(body);
            }
            let Ok(response) = request.send().await else {
                return Ok(Value::Null);
            };
            let status = response.status().as_u16();
            last = response.json().await.unwrap_or_default();
            if status == 500 {
                return Err(format!("{method} {path} {body}: {last}"));
            }
            let is_busy = last["code"] == "change_in_progress";
            if status < 500 && !is_busy {
                break;
            }
        }
        Ok(last)
    }

    /// Submits a form of one of Stripe's pages.
    async fn submit(&self, url: &str, fields: &[(&str, &str)]) {
        // A page that is gone or closed is none of the service's business.
        let _ = self.client.post(url).form(fields).send().await;
    }

    async fn check_out(&mut self) -> Outcome {
        let body = json!({"planTier": self.tier(), "confirm": self.dice.one_in(4)});
        let begun = self.send(Method::POST, CHECKOUT, &body).await?;
        let Some(url) = begun["url"].as_str() else {
            return Ok(());
        };
        if self.dice.one_in(6) {
            return Ok(());
        }
        let card = self.card();
        self.submit(url, &[("action", "pay"), ("number", card)])
            .await;
        if card == ASKS_ITS_HOLDER {
            let answer = self.dice.pick(&["confirm", "confirm", "refuse"]);
            self.submit(url, &[("action", answer)]).await;
        }
        match begun["id"].as_str() {
            Some(id) if !self.dice.one_in(3) => {
                let path = format!("{CHECKOUT}/{id}/complete");
                self.send(Method::POST, &path, &Value::Null).await.map(drop)
            }
            // They never return.
            _ => Ok(()),
        }
    }

    async fn change(&mut self) -> Outcome {
        let tier = self.dice.pick(&["standard", "enterprise", "free"]);
        let mut body = json!({"planTier": tier});
        if self.dice.one_in(4) && tier != "free" {
            body["when"] = json!("period_end");
        }
        if self.dice.one_in(2) {
            let shown = self.send(Method::POST, PREVIEW, &body).await?;
            if shown["previewToken"].is_string() {
                body = json!({"planTier": tier, "previewToken": shown["previewToken"]});
            }
        }
        let answer = self.send(Method::PUT, SUBSCRIPTION, &body).await?;
        self.pay(&answer).await
    }

    /// Where a bank asks, its cardholder answers, pays with another card, or goes away.
    async fn pay(&mut self, answer: &Value) -> Outcome {
        let Some(url) = answer["nextAction"]["hostedInvoiceUrl"].as_str() else {
            return Ok(());
        };
        let fields: &[(&str, &str)] = match self.dice.below(5) {
            0 | 1 => &[("action", "confirm")],
            2 => &[("action", "refuse")],
            3 => &[("action", "pay"), ("number", GOOD)],
            _ => return Ok(()),
        };
        self.submit(url, fields).await;
        Ok(())
    }

    async fn add_card(&mut self) -> Outcome {
        let path = format!("{CARDS}/setup");
        let page = self
            .send(Method::POST, &path, &json!({"mode": "page"}))
            .await?;
        if let Some(url) = page["url"].as_str() {
            let card = self.card();
            self.submit(url, &[("action", "pay"), ("number", card)])
                .await;
            self.submit(url, &[("action", "confirm")]).await;
        }
        Ok(())
    }

    async fn choose_card(&mut self) -> Outcome {
        let list = self.send(Method::GET, CARDS, &Value::Null).await?;
        let ids: Vec<&str> = list["data"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|card| card["id"].as_str())
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = self.dice.pick(&ids);
        let (method, path) = match self.dice.one_in(3) {
            true => (Method::DELETE, format!("{CARDS}/{id}")),
            false => (Method::PUT, format!("{CARDS}/{id}/default")),
        };
        self.send(method, &path, &Value::Null).await.map(drop)
    }

    async fn cancel(&mut self) -> Outcome {
        let at_once = self.dice.one_in(2);
        let path = format!("{SUBSCRIPTION}?immediately={at_once}");
        self.send(Method::DELETE, &path, &Value::Null)
            .await
            .map(drop)
    }
}
