//! An organization, and what it does.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use super::stage::Stage;
use crate::metering::tenant::{EVENTS, Tenant};
use crate::subscriptions::world::{DAY, REACTIVATE, SUBSCRIPTION, VISA, text};
use crate::support::dice::Dice;

const TIERS: [&str; 3] = ["small", "large", "annual"];

pub struct Party {
    pub seed: u64,
    pub tenant: Tenant,
    pub customer: String,
    pub clock: String,
    /// What it did, and what was answered.
    pub log: Vec<String>,
    /// The events that were accepted.
    pub accepted: Vec<Value>,
    /// What was wrong on the way.
    pub wrong: Vec<String>,
    dice: Dice,
    uses: usize,
    /// A boundary of its periods, around now.
    boundary: i64,
}

impl Party {
    /// Subscribes some time ago: a period of it ends around now.
    pub async fn join(stage: &Stage, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let service = &stage.world.service;
        let tenant = Tenant::of(service, &format!("Party {seed}")).await;
        let now = Timestamp::now().as_second();
        let boundary = now + dice.pick(&[3, 6, 9, -400, -1_500, -1_790, -10_000]);
        let trial = dice.one_in(3).then(|| dice.pick(&[7, 14, 30]));
        let start = match trial {
            Some(days) => boundary - days * DAY,
            None if dice.one_in(4) => now - dice.pick(&[30, 7_200, 20 * DAY]),
            None => months_before(boundary, dice.pick(&[1, 2])),
        };
        let clock = stage.world.stripe.clock(start).await;
        let customer = stage.world.stripe.customer(VISA, Some(&clock)).await;
        let sql = format!(
            "INSERT INTO billing_customers (stripe_customer_id, organization_id)
             VALUES ('{customer}', '{}')",
            tenant.organization
        );
        service.db.execute(&sql).await;
        let mut party = Self {
            seed,
            tenant,
            customer,
            clock,
            log: Vec::new(),
            accepted: Vec::new(),
            wrong: Vec::new(),
            dice,
            uses: 0,
            boundary,
        };
        let mut body = json!({"planTier": party.dice.pick(&["small", "large"])});
        if let Some(days) = trial {
            body["trialDays"] = json!(days);
        }
        party.note(&format!(
            "clock at {start}, boundary {boundary}, now {now}: {body}"
        ));
        let made = party.tenant.post(service, SUBSCRIPTION, &body).await;
        assert!(made.status < 300, "{made:#?}");
        party.tick(stage, now).await;
        party
    }

    fn note(&mut self, what: &str) {
        self.log.push(what.to_owned());
    }

    /// Its clock goes to `now`.
    pub async fn tick(&mut self, stage: &Stage, now: i64) {
        let path = format!("/v1/test_helpers/test_clocks/{}/advance", self.clock);
        loop {
            let at = now.to_string();
            let fields = [("frozen_time".to_owned(), at)];
            let (status, body) = stage.try_stripe(Method::POST, &path, &fields).await;
            if status == 200 {
                return;
            }
            // No farther at once than two intervals.
            let clock = format!("/v1/test_helpers/test_clocks/{}", self.clock);
            let clock = stage.world.stripe.get(&clock, &[]).await;
            let step = clock["frozen_time"].as_i64().unwrap() + 30 * DAY;
            assert!(step < now, "{body:#}");
            stage.world.stripe.advance(&self.clock, step).await;
        }
    }

    /// Tells of what it used before now.
    pub async fn remember(&mut self, stage: &Stage) {
        for _ in 0..self.dice.below(5) {
            self.use_late(stage).await;
        }
    }

    /// Does a few things at `now`.
    pub async fn live(&mut self, stage: &Stage, now: i64) {
        self.tick(stage, now).await;
        self.note(&format!("at {now}"));
        for _ in 0..=self.dice.below(3) {
            match self.dice.below(10) {
                0..=4 => self.use_now(stage).await,
                5 => self.use_late(stage).await,
                6 => self.repeat(stage).await,
                _ => self.change(stage, now).await,
            }
        }
    }

    async fn use_now(&mut self, stage: &Stage) {
        self.record(stage, None).await;
    }

    async fn use_late(&mut self, stage: &Stage) {
        let back = self.dice.pick(&[1, 2, 5, 60, 1_200, 1_799, 2_400]);
        let at = if self.dice.one_in(2) {
            let boundary = Timestamp::from_second(self.boundary).unwrap();
            boundary - SignedDuration::from_micros(self.dice.pick(&[0, 1, 1_000_000, 60_000_000]))
        } else {
            Timestamp::now() - SignedDuration::from_secs(back)
        };
        self.record(stage, Some(at)).await;
    }

    async fn record(&mut self, stage: &Stage, at: Option<Timestamp>) {
        self.uses += 1;
        let metric = self.dice.pick(&["api_calls", "api_calls", "storage_gb"]);
        let mut quantity = format!("{}", 1 + self.dice.below(25));
        if self.dice.one_in(4) {
            quantity += ".5";
        }
        let mut event =
            json!({"id": format!("u{}", self.uses), "metric": metric, "quantity": quantity});
        if let Some(at) = at {
            event["occurredAt"] = json!(at);
        }
        let answer = self.tenant.post(&stage.world.service, EVENTS, &event).await;
        self.note(&format!("use {event}: {}", answer.status));
        match answer.status {
            200 => self.accepted.push(event),
            422 => assert_eq!(answer.problem().1, "period_closed", "{answer:?}"),
            _ => panic!("{answer:#?}"),
        }
    }

    /// Sends an event again, which changes nothing.
    async fn repeat(&mut self, stage: &Stage) {
        if self.accepted.is_empty() {
            return;
        }
        let event = self.accepted[self.dice.below(self.accepted.len())].clone();
        let answer = self.tenant.post(&stage.world.service, EVENTS, &event).await;
        self.note(&format!("again {event}: {} {}", answer.status, answer.body));
        if answer.status != 200 {
            self.wrong.push(format!("{event} sent again: {answer:?}"));
        }
    }

    async fn change(&mut self, stage: &Stage, now: i64) {
        let of = [("customer", &*self.customer)];
        let live = stage.world.stripe.list("/v1/subscriptions", &of).await;
        let Some(subscription) = live.first() else {
            let tier = self.dice.pick(&TIERS);
            return self
                .ask(stage, Method::POST, SUBSCRIPTION, Some(tier))
                .await;
        };
        let id = text(subscription, "id");
        let days = self.dice.pick(&[3, 20]) * DAY;
        let field = |name: &str, value: String| vec![(name.to_owned(), value)];
        let fields = match self.dice.below(12) {
            0 => field("trial_end", (now + days).to_string()),
            1 => field("trial_end", "now".to_owned()),
            2 => field("billing_cycle_anchor", "now".to_owned()),
            3 => field(
                "cancel_at",
                (now + self.dice.pick(&[1, 3, 10 * DAY])).to_string(),
            ),
            4 => field("cancel_at", String::new()),
            5 => {
                let invoice_now = self.dice.one_in(2).to_string();
                let fields = field("invoice_now", invoice_now);
                return self.dashboard(stage, Method::DELETE, &id, fields).await;
            }
            6 => {
                let tier = self.dice.pick(&TIERS);
                let fields = swap(stage, subscription, tier).await;
                return self.dashboard(stage, Method::POST, &id, fields).await;
            }
            7 => {
                let path = format!("{SUBSCRIPTION}?immediately=true");
                return self.ask(stage, Method::DELETE, &path, None).await;
            }
            8 => return self.ask(stage, Method::DELETE, SUBSCRIPTION, None).await,
            9 => return self.ask(stage, Method::POST, REACTIVATE, None).await,
            _ => {
                let tier = self.dice.pick(&TIERS);
                return self.ask(stage, Method::PUT, SUBSCRIPTION, Some(tier)).await;
            }
        };
        self.dashboard(stage, Method::POST, &id, fields).await;
    }

    async fn dashboard(
        &mut self,
        stage: &Stage,
        method: Method,
        id: &str,
        fields: Vec<(String, String)>,
    ) {
        let path = format!("/v1/subscriptions/{id}");
        let (status, _) = stage.try_stripe(method.clone(), &path, &fields).await;
        self.note(&format!("in Stripe {method} {fields:?}: {status}"));
    }

    /// Asks our API, which may refuse.
    async fn ask(&mut self, stage: &Stage, method: Method, path: &str, tier: Option<&str>) {
        let body = tier.map(|tier| json!({"planTier": tier}));
        let service = &stage.world.service;
        let answer = self
            .tenant
            .send(service, method.clone(), path, body.as_ref())
            .await;
        self.note(&format!(
            "{method} {path} {tier:?}: {} {}",
            answer.status,
            answer.problem().1
        ));
        if answer.status >= 500 {
            self.wrong.push(format!("{answer:?}"));
        }
    }
}

/// The fields that change every price to that of another plan.
async fn swap(stage: &Stage, subscription: &Value, tier: &str) -> Vec<(String, String)> {
    let prices = stage.world.stripe.list("/v1/prices", &[]).await;
    let mut fields = vec![("billing_cycle_anchor".to_owned(), "now".to_owned())];
    let items = subscription["items"]["data"].as_array().unwrap();
    for (n, item) in items.iter().enumerate() {
        let key = text(&item["price"], "lookup_key");
        let kind = key.split_once('_').map_or("", |(_, kind)| kind);
        let wanted = if kind.is_empty() {
            tier.to_owned()
        } else {
            format!("{tier}_{kind}")
        };
        let price = prices.iter().find(|price| price["lookup_key"] == *wanted);
        fields.push((format!("items[{n}][id]"), text(item, "id")));
        fields.push((format!("items[{n}][price]"), text(price.unwrap(), "id")));
    }
    fields
}

fn months_before(secs: i64, months: i64) -> i64 {
    let at = Timestamp::from_second(secs).unwrap();
    let at = at.to_zoned(TimeZone::UTC);
    let before = at.checked_sub(Span::new().months(months)).unwrap();
    before.timestamp().as_second()
}
