//! One customer in several tabs, which reach several replicas: checkouts, changes, cards and
//! cancels at random and at once, while Stripe fails, acts without answering, and the program
//! is killed. In the end there is one customer and one subscription, Stripe's state is ours,
//! nothing was charged twice, and every charge has its audit entry.

mod acts;
mod compare;

use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::Value;
use stripe_sandbox::Config;
use uuid::Uuid;
use valuecanvas_billing::projection::HANDLED_TYPES;
use valuecanvas_billing::tenancy::auth::Role;

use super::world::{DAY, KEY, START, Stripe, text};
use crate::support::TestDatabase;
use crate::support::dice::Dice;
use crate::support::service::{WEBHOOKS, organization, token};
use crate::support::serving::{Serving, serve_on};
use crate::webhooks::workbench::PASS_TIME;

const APPLICATION: &str = "https://app.example.com/billing";
const REPLICAS: usize = 2;
const FAULTS: [&str; 8] = [
    "rate_limit",
    "lock_timeout",
    "server_error",
    "server_error_after_acting",
    "drop",
    "drop_after_acting",
    "timeout",
    "slow",
];
/// What only the service calls while the faults are there.
const PATHS: [&str; 9] = [
    "/v1/*",
    "/v1/subscriptions*",
    "/v1/customers*",
    "/v1/checkout/sessions*",
    "/v1/payment_methods*",
    "/v1/prices",
    "/v1/invoices*",
    "/v1/refunds",
    "/v1/setup_intents",
];

/// An organization whose people have several tabs open.
struct Tenant {
    id: Uuid,
    token: String,
    /// Its customer's time, if that is Stripe's to move.
    clock: Option<(String, i64)>,
}

struct Storm {
    seed: u64,
    db: TestDatabase,
    stripe: Stripe,
    endpoint: Value,
    replicas: Vec<Serving>,
    client: reqwest::Client,
    tenants: Vec<Tenant>,
    dice: Dice,
    kills: u32,
}

impl Storm {
    async fn brew(seed: u64) -> Self {
        let db = TestDatabase::new().await;
        let stripe = Stripe::with(Config {
            webhook_retry_delays: vec![Duration::from_millis(100); 600],
            timeout_fault: Duration::from_millis(400),
            ..Config::default()
        })
        .await;
        let mut fields = vec![("url", "http://127.0.0.1:1/later")];
        fields.extend(HANDLED_TYPES.map(|handled| ("enabled_events[]", handled)));
        let endpoint = stripe.post("/v1/webhook_endpoints", &fields).await;
        let mut tenants = Vec::new();
        for n in 0..3 {
            let id = organization(&db, &format!("Tenant {n}")).await;
            let mut clock = None;
            if n == 2 {
                let made = stripe.clock(START).await;
                let owner = id.to_string();
                let fields = [
                    ("test_clock", &*made),
                    ("metadata[organization_id]", &owner),
                ];
                let customer = text(&stripe.post("/v1/customers", &fields).await, "id");
                db.execute(&format!(
                    "INSERT INTO billing_customers (stripe_customer_id, organization_id)
                     VALUES ('{customer}', '{id}')"
                ))
                .await;
                clock = Some((made, START));
            }
            let token = token(&db, id, Role::Owner).await;
            tenants.push(Tenant { id, token, clock });
        }
        let mut storm = Self {
            seed,
            db,
            stripe,
            endpoint,
            replicas: Vec::new(),
            client: valuecanvas_billing::http_client::direct_client().unwrap(),
            tenants,
            dice: Dice::new(seed),
            kills: 0,
        };
        for _ in 0..REPLICAS {
            storm.replicas.push(storm.replica());
        }
        storm.deliver().await;
        storm
    }

    fn replica(&self) -> Serving {
        let mut command = serve_on(&self.db);
        command
            .env("STRIPE_WEBHOOK_SECRET", text(&self.endpoint, "secret"))
            .env("STRIPE_SECRET_KEY", KEY)
            .env("STRIPE_API_BASE", self.stripe.sandbox.url())
            .env("APPLICATION_URL", APPLICATION);
        Serving::start(&mut command)
    }

    /// Webhooks go to the first replica.
    async fn deliver(&self) {
        let path = format!("/v1/webhook_endpoints/{}", text(&self.endpoint, "id"));
        let url = format!("{}{WEBHOOKS}", self.replicas[0].base);
        self.stripe.post(&path, &[("url", &url)]).await;
    }

    async fn kill(&mut self, which: usize) {
        let killed = self.replicas.remove(which);
        killed.signal(Signal::KILL);
        killed.ended().await;
        self.kills += 1;
        let replica = self.replica();
        self.replicas.insert(which, replica);
        self.deliver().await;
    }

    /// Several tabs act at once, and perhaps a replica dies in the middle.
    async fn round(&mut self) {
        if self.dice.one_in(2) {
            self.change_weather().await;
        }
        let tenant = self.dice.below(self.tenants.len());
        let tabs = 1 + self.dice.below(4);
        let victim = self.dice.one_in(4).then(|| self.dice.below(REPLICAS));
        let patience = Duration::from_millis(self.dice.number() % 400);
        let tabs: Vec<acts::Tab> = (0..tabs)
            .map(|_| {
                let (replica, seed) = (self.dice.below(REPLICAS), self.dice.number());
                acts::Tab::open(self, tenant, replica, seed)
            })
            .collect();
        let acting = tokio::spawn(join_all(tabs.into_iter().map(acts::Tab::act)));
        if let Some(victim) = victim {
            // Whatever is under way by then is cut off.
            tokio::time::sleep(patience).await;
            self.stripe.clear_faults().await;
            self.kill(victim).await;
        }
        for outcome in acting.await.unwrap() {
            assert_eq!(outcome, Ok(()), "seed {}", self.seed);
        }
        if self.dice.one_in(3) {
            self.let_time_pass(tenant).await;
        }
        if self.dice.one_in(3) {
            self.let_open_requests_age().await;
        }
    }

    /// Other faults from now on, or none.
    async fn change_weather(&mut self) {
        self.stripe.clear_faults().await;
        for _ in 0..self.dice.below(3) {
            let every = (2 + self.dice.below(6)).to_string();
            let (fault, path) = (self.dice.pick(&FAULTS), self.dice.pick(&PATHS));
            let mut fields = vec![("fault", fault), ("path", path), ("every", &*every)];
            if fault == "rate_limit" {
                fields.push(("retry_after", "0"));
            }
            self.stripe.fault(&fields).await;
        }
        if self.dice.one_in(4) {
            self.stripe
                .fault(&[("fault", "decline"), ("every", "3")])
                .await;
        }
    }

    /// Renewals come due.
    async fn let_time_pass(&mut self, tenant: usize) {
        let Some((clock, now)) = &mut self.tenants[tenant].clock else {
            return;
        };
        *now += 1 + i64::try_from(self.dice.below(20)).unwrap() * DAY;
        self.stripe.clear_faults().await;
        self.stripe.advance(clock, *now).await;
    }

    /// What is open is old enough to be looked after.
    async fn let_open_requests_age(&self) {
        self.db
            .execute(
                "UPDATE billing_stripe_requests SET created_at = created_at - interval '1 hour',
                        called_at = called_at - interval '1 hour'
                  WHERE state = 'open' AND created_at > now() - interval '1 hour';
                 UPDATE checkout_sessions SET created_at = created_at - interval '1 hour',
                        called_at = called_at - interval '1 hour', next_look_at = now()
                  WHERE state IN ('creating', 'open', 'processing')",
            )
            .await;
    }

    /// Lets everything arrive and be settled.
    async fn calm(&mut self) {
        self.stripe.clear_faults().await;
        let mut quiet = 0;
        for _ in 0..600 {
            self.let_open_requests_age().await;
            self.stripe.sandbox.deliveries_settled().await;
            let mut unsettled = self.unpaid_pages().await;
            for what in [
                "billing_stripe_requests WHERE state = 'open'",
                "billing_subscriptions WHERE ask_again_since IS NOT NULL",
                "webhook_events WHERE NOT processed",
                "checkout_sessions WHERE state IN ('creating', 'processing')",
            ] {
                unsettled += self.db.count(what).await;
            }
            // What has just been settled may have made events.
            quiet = if unsettled == 0 { quiet + 1 } else { 0 };
            if quiet == 2 {
                return;
            }
            self.db.execute(PASS_TIME).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log: Vec<String> = self.replicas.iter().map(Serving::log).collect();
        panic!("seed {} does not calm down: {}", self.seed, log.join("\n"));
    }

    /// Pages that are over in Stripe, and open here.
    async fn unpaid_pages(&self) -> i64 {
        let here = "SELECT coalesce(jsonb_agg(stripe_checkout_session_id), '[]')
                      FROM checkout_sessions WHERE state = 'open'";
        let here: Vec<String> = serde_json::from_str(&self.db.value(here).await).unwrap();
        let all = self.stripe.list("/v1/checkout/sessions", &[]).await;
        let over = all.iter().filter(|page| page["status"] != "open");
        let over = over.filter(|page| here.contains(&text(page, "id")));
        i64::try_from(over.count()).unwrap()
    }
}

fn parameter(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tabs_on_two_replicas_in_a_storm_buy_everything_once() {
    let first = parameter("VCB_SEED", 1);
    let rounds = parameter("VCB_TAB_ROUNDS", 14);
    let (mut kills, mut charges) = (0, 0);
    for seed in first..first + parameter("VCB_TAB_STORMS", 2) {
        let mut storm = Storm::brew(seed).await;
        for _ in 0..rounds {
            storm.round().await;
        }
        storm.calm().await;
        charges += compare::all(&storm).await;
        kills += storm.kills;
    }
    // A storm in which nothing happens shows nothing.
    assert!(kills > 0 && charges > 0, "{kills} kills, {charges} charges");
}
