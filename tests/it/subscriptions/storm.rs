//! Many random operations, while Stripe fails in every way and the program is
//! killed in the middle of them: in the end Stripe's state and ours are equal,
//! and nothing was made twice or left out of the audit log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use stripe_sandbox::Config;
use uuid::Uuid;
use valuecanvas_billing::projection::HANDLED_TYPES;
use valuecanvas_billing::tenancy::auth::Role;

use super::world::{KEY, PREVIEW, REACTIVATE, START, SUBSCRIPTION, Stripe, VISA, text};
use crate::support::TestDatabase;
use crate::support::dice::Dice;
use crate::support::program::{program_with_stripe, run_beside};
use crate::support::service::{WEBHOOKS, organization, token};
use crate::support::serving::{Serving, serve_on};
use crate::webhooks::workbench::verify_audit;

const FAULTS: [&str; 7] = [
    "rate_limit",
    "lock_timeout",
    "server_error",
    "server_error_after_acting",
    "drop",
    "drop_after_acting",
    "timeout",
];
/// What only the service calls, and not the test.
const PATHS: [&str; 4] = [
    "/v1/subscriptions*",
    "/v1/customers",
    "/v1/prices",
    "/v1/invoices/create_preview",
];

struct Tenant {
    id: Uuid,
    token: String,
    /// Without one, the service makes the customer itself.
    clock: Option<(String, i64)>,
}

struct Storm {
    db: TestDatabase,
    stripe: Stripe,
    endpoint: Value,
    serving: Option<Serving>,
    client: reqwest::Client,
    tenants: Vec<Tenant>,
    dice: Dice,
    kills: u32,
}

impl Storm {
    async fn brew(seed: u64) -> Self {
        let db = TestDatabase::new().await;
        let stripe = Stripe::with(Config {
            webhook_retry_delays: vec![Duration::from_millis(100); 300],
            timeout_fault: Duration::from_millis(400),
            ..Config::default()
        })
        .await;
        let mut fields = vec![("url", "http://127.0.0.1:1/later")];
        fields.extend(HANDLED_TYPES.map(|handled| ("enabled_events[]", handled)));
        let endpoint = stripe.post("/v1/webhook_endpoints", &fields).await;
        let mut tenants = Vec::new();
        for n in 0..4 {
            let id = organization(&db, &format!("Tenant {n}")).await;
            let mut clock = None;
            if n % 2 == 1 {
                let made = stripe.clock(START).await;
                let customer = stripe.customer(VISA, Some(&made)).await;
                db.execute(&format!(
                    "INSERT INTO billing_customers (stripe_customer_id, organization_id) VALUES ('{customer}', '{id}')"
                ))
                .await;
                clock = Some((made, START));
            }
            tenants.push(Tenant {
                id,
                token: token(&db, id, Role::Owner).await,
                clock,
            });
        }
        let mut storm = Self {
            db,
            stripe,
            endpoint,
            serving: None,
            client: valuecanvas_billing::http_client::direct_client().unwrap(),
            tenants,
            dice: Dice::new(seed),
            kills: 0,
        };
        storm.start().await;
        storm
    }

    /// Starts the program, and lets Stripe know where it listens.
    async fn start(&mut self) {
        let mut command = serve_on(&self.db);
        command
            .env("STRIPE_WEBHOOK_SECRET", text(&self.endpoint, "secret"))
            .env("STRIPE_SECRET_KEY", KEY)
            .env("STRIPE_API_BASE", self.stripe.sandbox.url());
        let serving = Serving::start(&mut command);
        let path = format!("/v1/webhook_endpoints/{}", text(&self.endpoint, "id"));
        let url = format!("{}{WEBHOOKS}", serving.base);
        self.stripe.post(&path, &[("url", &url)]).await;
        self.serving = Some(serving);
    }

    async fn kill(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.signal(Signal::KILL);
        serving.ended().await;
        self.kills += 1;
        self.start().await;
    }

    fn request(
        &self,
        tenant: usize,
        method: Method,
        path: &str,
        body: &Value,
    ) -> reqwest::RequestBuilder {
        let base = &self.serving.as_ref().unwrap().base;
        let request = self.client.request(method, format!("{base}{path}"));
        let request = request
            .bearer_auth(&self.tenants[tenant].token)
            .timeout(Duration::from_secs(60));
        if body.is_null() {
            request
        } else {
            request.json(body)
        }
    }

    /// The answer, or none where the service died.
    async fn call(
        &self,
        tenant: usize,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Option<(u16, Value)> {
        let response = self.request(tenant, method, path, body).send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().await.ok()?))
    }

    /// Something that a customer may want.
    async fn wish(&mut self, tenant: usize) -> (Method, String, Value) {
        let tier = self.dice.pick(&["standard", "enterprise"]);
        match self.dice.below(10) {
            0..=2 => (
                Method::POST,
                SUBSCRIPTION.to_owned(),
                json!({"planTier": tier}),
            ),
            3..=4 => (
                Method::PUT,
                SUBSCRIPTION.to_owned(),
                json!({"planTier": tier}),
            ),
            5..=6 => {
                let tier = self.dice.pick(&["standard", "enterprise", "free"]);
                let body = json!({"planTier": tier});
                let shown = self.call(tenant, Method::POST, PREVIEW, &body).await;
                let token = shown.map(|(_, shown)| shown["previewToken"].clone());
                let body = json!({"planTier": tier, "previewToken": token.unwrap_or_default()});
                (Method::PUT, SUBSCRIPTION.to_owned(), body)
            }
            7 => (
                Method::DELETE,
                format!("{SUBSCRIPTION}?immediately=true"),
                Value::Null,
            ),
            8 => (Method::DELETE, SUBSCRIPTION.to_owned(), Value::Null),
            _ => (Method::POST, REACTIVATE.to_owned(), Value::Null),
        }
    }

    async fn operate(&mut self) {
        if self.dice.one_in(6) {
            self.change_weather().await;
        }
        let tenant = self.dice.below(self.tenants.len());
        self.let_time_pass(tenant).await;
        if self.dice.one_in(8) {
            self.meddle(tenant).await;
        }
        let (method, path, body) = self.wish(tenant).await;
        if self.dice.one_in(10) {
            self.kill_in_the_middle(tenant, method, &path, &body).await;
            return;
        }
        // A client repeats what failed, or does not care any more.
        for _ in 0..3 {
            let answer = self.call(tenant, method.clone(), &path, &body).await;
            let (status, answer) = answer.expect("the service answers");
            let code = answer["code"].as_str().unwrap_or_default();
            assert_ne!(status, 500, "{answer}");
            if status < 500 && code != "change_in_progress" {
                break;
            }
        }
        if self.dice.one_in(3) {
            self.let_open_requests_age().await;
        }
        self.give_cards().await;
    }

    /// Other faults from now on, or none.
    async fn change_weather(&mut self) {
        self.stripe.clear_faults().await;
        for _ in 0..self.dice.below(3) {
            let every = (2 + self.dice.below(5)).to_string();
            let (fault, path) = (self.dice.pick(&FAULTS), self.dice.pick(&PATHS));
            let mut fields = vec![("fault", fault), ("path", path), ("every", &every)];
            if fault == "rate_limit" {
                fields.push(("retry_after", "0"));
            }
            // The test lists them itself.
            if path == "/v1/customers" {
                fields.push(("method", "POST"));
            }
            self.stripe.fault(&fields).await;
        }
    }

    async fn let_time_pass(&mut self, tenant: usize) {
        let Some((clock, now)) = &mut self.tenants[tenant].clock else {
            return;
        };
        if self.dice.one_in(3) {
            *now += 1 + i64::try_from(self.dice.below(20 * 86_400)).unwrap();
            self.stripe.advance(clock, *now).await;
        }
    }

    /// Somebody changes a subscription in Stripe's dashboard, perhaps within
    /// the second of a change of ours.
    async fn meddle(&mut self, tenant: usize) {
        self.stripe.clear_faults().await;
        let running = format!(
            "SELECT stripe_subscription_id FROM billing_subscriptions
              WHERE organization_id = '{}' AND status <> 'canceled' LIMIT 1",
            self.tenants[tenant].id
        );
        let id = self.db.value(&running).await;
        let path = format!("/v1/subscriptions/{id}");
        if id.is_empty() || self.stripe.get(&path, &[]).await["status"] == "canceled" {
            return;
        }
        let ends = self.dice.pick(&["true", "false"]);
        self.stripe
            .post(&path, &[("cancel_at_period_end", ends)])
            .await;
    }

    /// Stripe acts and has not answered yet: then the program dies.
    async fn kill_in_the_middle(
        &mut self,
        tenant: usize,
        method: Method,
        path: &str,
        body: &Value,
    ) {
        self.stripe.clear_faults().await;
        let fields = [
            ("fault", "timeout"),
            ("path", "/v1/subscriptions*"),
            ("every", "1"),
        ];
        self.stripe.fault(&fields).await;
        let asking = tokio::spawn(self.request(tenant, method, path, body).send());
        for _ in 0..100 {
            let faults = self.stripe.get("/_sandbox/faults", &[]).await;
            if faults["data"][0]["struck"] != json!(0) || asking.is_finished() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.kill().await;
        let _ = asking.await;
        self.stripe.clear_faults().await;
    }

    /// What is open is old enough to be given up.
    async fn let_open_requests_age(&self) {
        self.db
            .execute(
                "UPDATE billing_stripe_requests SET created_at = created_at - interval '1 hour',
                        called_at = called_at - interval '1 hour'
                  WHERE state = 'open' AND created_at > now() - interval '1 hour'",
            )
            .await;
    }

    /// Customers that the service made have no card.
    async fn give_cards(&self) {
        for customer in self.stripe.list("/v1/customers", &[]).await {
            if customer["invoice_settings"]["default_payment_method"].is_null() {
                self.stripe.use_card(&text(&customer, "id"), VISA).await;
            }
        }
    }

    /// Lets everything arrive and be settled.
    async fn calm(&mut self) {
        self.stripe.clear_faults().await;
        for _ in 0..600 {
            self.let_open_requests_age().await;
            self.stripe.sandbox.deliveries_settled().await;
            let unsettled = self
                .db
                .count("billing_stripe_requests WHERE state = 'open'")
                .await
                + self
                    .db
                    .count("billing_subscriptions WHERE ask_again_since IS NOT NULL")
                    .await
                + self.db.count("webhook_events WHERE NOT processed").await;
            if unsettled == 0 {
                return;
            }
            self.db.execute(crate::webhooks::workbench::PASS_TIME).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!(
            "it does not calm down: {}",
            self.serving.as_ref().unwrap().log()
        );
    }
}

/// What must be equal of a subscription.
pub fn state_in_stripe(subscription: &Value) -> Value {
    let item = &subscription["items"]["data"][0];
    json!({
        "status": subscription["status"],
        "price": item["price"]["lookup_key"],
        "ends": subscription["cancel_at_period_end"],
        "periodEnd": item["current_period_end"],
        "change": subscription["metadata"]["billing_change_id"],
    })
}

pub const OUR_STATE: &str =
    "SELECT coalesce(jsonb_object_agg(s.stripe_subscription_id, jsonb_build_object(
          'status', s.status, 'price', i.lookup_key, 'ends', s.cancel_at_period_end,
          'periodEnd', extract(epoch FROM i.current_period_end)::bigint,
          'change', s.metadata ->> 'billing_change_id')), '{}')
     FROM billing_subscriptions s
     JOIN billing_subscription_items i USING (organization_id, stripe_subscription_id)
    WHERE s.organization_id = ";

async fn compare(storm: &Storm) {
    let mut made = BTreeSet::new();
    for tenant in &storm.tenants {
        let id = tenant.id;
        let customers = format!("billing_customers WHERE organization_id = '{id}'");
        assert!(storm.db.count(&customers).await <= 1);
        let customer = storm
            .db
            .value(&format!(
                "SELECT stripe_customer_id FROM billing_customers WHERE organization_id = '{id}'"
            ))
            .await;
        if customer.is_empty() {
            continue;
        }
        let subscriptions = storm.stripe.subscriptions(&customer).await;
        let theirs: BTreeMap<String, Value> = subscriptions
            .iter()
            .map(|one| (text(one, "id"), state_in_stripe(one)))
            .collect();
        let ours = storm.db.value(&format!("{OUR_STATE} '{id}'")).await;
        let ours: BTreeMap<String, Value> = serde_json::from_str(&ours).unwrap();
        assert_eq!(ours, theirs);
        let running: Vec<&Value> = theirs
            .values()
            .filter(|one| one["status"] != "canceled")
            .collect();
        assert!(running.len() <= 1, "two subscriptions: {running:#?}");
        let tier = match running.first().map(|one| one["price"].as_str().unwrap()) {
            None => "free",
            Some("valuecanvas_standard_monthly") => "standard",
            Some(_) => "enterprise",
        };
        let plans = format!(
            "SELECT plan_tier || ' ' || (SELECT string_agg(DISTINCT plan_tier, ',') FROM usage_quotas WHERE organization_id = o.id)
               FROM organizations o WHERE id = '{id}'"
        );
        assert_eq!(storm.db.value(&plans).await, format!("{tier} {tier}"));
        made.extend(marks(storm, &customer).await);
    }
    let all = storm.stripe.list("/v1/customers", &[]).await;
    let ours: BTreeSet<String> = all
        .iter()
        .filter_map(|customer| {
            customer["metadata"]["organization_id"]
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    let with_owner = all
        .iter()
        .filter(|customer| customer["metadata"]["organization_id"].is_string());
    assert_eq!(with_owner.count(), ours.len(), "a second customer");
    audited(storm, made).await;
}

/// The marks of all changes that Stripe ever made.
async fn marks(storm: &Storm, customer: &str) -> Vec<String> {
    let events = storm
        .stripe
        .list("/v1/events", &[("type", "customer.subscription.*")])
        .await;
    let mark = |event: &Value| {
        let object = &event["data"]["object"];
        let ours = object["customer"] == customer;
        object["metadata"]["billing_change_id"]
            .as_str()
            .filter(|_| ours)
            .map(str::to_owned)
    };
    events.iter().filter_map(mark).collect()
}

/// Each change that Stripe made has its one entry, and there are no others.
async fn audited(storm: &Storm, made: BTreeSet<String>) {
    let entries = "SELECT coalesce(string_agg(metadata ->> 'change_id', ',' ORDER BY sequence), '') FROM billing_audit_log
          WHERE actor_type = 'user' AND resource_type = 'subscription' AND action <> 'subscription_canceled'";
    let entries = storm.db.value(entries).await;
    let entries: Vec<&str> = entries.split(',').filter(|id| !id.is_empty()).collect();
    let distinct: BTreeSet<String> = entries.iter().map(|id| (*id).to_owned()).collect();
    assert_eq!(entries.len(), distinct.len(), "a change was entered twice");
    assert_eq!(distinct, made, "changes in the audit log, and in Stripe");
    // What is cancelled at once takes no mark.
    let deleted = storm
        .stripe
        .list("/v1/events", &[("type", "customer.subscription.deleted")])
        .await;
    let at_once = deleted
        .iter()
        .filter(|event| event["request"]["id"].is_string());
    let cancelled =
        "billing_audit_log WHERE action = 'subscription_canceled' AND actor_type = 'user'";
    assert_eq!(storm.db.count(cancelled).await, at_once.count() as i64);
    verify_audit(&storm.db).await;
}

/// `subscriptions reconcile` finds no drift either.
async fn reconciled(storm: &Storm) {
    let command = program_with_stripe(
        &storm.db,
        &storm.stripe.sandbox.url(),
        &["subscriptions", "reconcile", "--json"],
    );
    let ran = run_beside(command).await;
    assert_eq!(
        (ran.status, &ran.json()["drift"]),
        (0, &json!([])),
        "{}",
        ran.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_and_faults_lose_nothing_and_double_nothing() {
    let operations: u32 =
        std::env::var("VCB_OPERATIONS").map_or(70, |count| count.parse().unwrap());
    let seed: u64 = std::env::var("VCB_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut storm = Storm::brew(seed).await;
    for n in 1..=operations {
        storm.operate().await;
        if n % 50 == 0 {
            storm.calm().await;
            compare(&storm).await;
            println!("{n} operations, {} kills", storm.kills);
        }
    }
    storm.calm().await;
    compare(&storm).await;
    reconciled(&storm).await;
    assert!(storm.kills > 0);
}
