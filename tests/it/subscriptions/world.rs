//! The service beside the stand-in for Stripe, which delivers its webhooks.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Method, Url};
use serde_json::{Value, json};
use stripe_sandbox::{Config, Sandbox};
use uuid::Uuid;
use valuecanvas_billing::config::StripeApi;
use valuecanvas_billing::projection::HANDLED_TYPES;
use valuecanvas_billing::stripe::client::{Patience, SecretKey};
use valuecanvas_billing::tenancy::auth::Role;

use crate::support::TestService;
use crate::support::service::{Options, WEBHOOKS};

pub const KEY: &str = "sk_test_world";
pub const SUBSCRIPTION: &str = "/api/billing/subscription";
pub const PREVIEW: &str = "/api/billing/subscription/preview";
pub const REACTIVATE: &str = "/api/billing/subscription/reactivate";
pub const UPCOMING: &str = "/api/billing/invoices/upcoming";
pub const VISA: &str = "pm_card_visa";
pub const DAY: i64 = 86_400;
/// 2026-01-31T10:00:00Z: the last day of a long month.
pub const START: i64 = 1_769_853_600;

/// A stand-in for Stripe with the catalogue's prices in it.
pub struct Stripe {
    pub sandbox: Sandbox,
    http: reqwest::Client,
}

/// An answer of the service: its status and body.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The body of an answer that is expected to be 2xx.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{self:#?}");
        self.body
    }

    /// Status and code of a problem.
    pub fn problem(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }
}

impl Stripe {
    pub async fn start() -> Self {
        Self::with(Config {
            webhook_retry_delays: vec![Duration::from_millis(50); 20],
            timeout_fault: Duration::from_millis(700),
            ..Config::default()
        })
        .await
    }

    pub async fn with(config: Config) -> Self {
        let stripe = Self {
            sandbox: Sandbox::start(config).await.unwrap(),
            http: valuecanvas_billing::http_client::direct_client().unwrap(),
        };
        for (tier, amount) in [("standard", "9900"), ("enterprise", "49900")] {
            stripe.price(tier, amount).await;
        }
        stripe
    }

    /// A price with the lookup key that the catalogue has for `tier`.
    pub async fn price(&self, tier: &str, amount: &str) -> Value {
        let key = format!("valuecanvas_{tier}_monthly");
        self.post(
            "/v1/prices",
            &[
                ("currency", "usd"),
                ("unit_amount", amount),
                ("recurring[interval]", "month"),
                ("product_data[name]", tier),
                ("lookup_key", &key),
                ("transfer_lookup_key", "true"),
            ],
        )
        .await
    }

    pub fn api(&self) -> StripeApi {
        StripeApi {
            base: Url::parse(&self.sandbox.url()).unwrap(),
            key: SecretKey::new(KEY),
            patience: Patience {
                attempt: Duration::from_millis(600),
                total: Duration::from_secs(10),
                attempts: 3,
                pause: Duration::from_millis(10),
                counting: Duration::from_secs(2),
            },
        }
    }

    pub async fn send(&self, method: Method, path: &str, fields: &[(&str, &str)]) -> Value {
        let url = format!("{}{path}", self.sandbox.url());
        let request = self.http.request(method.clone(), url).bearer_auth(KEY);
        let request = match method {
            Method::POST => request.form(fields),
            _ => request.query(fields),
        };
        let response = request.send().await.unwrap();
        let (status, body) = (response.status(), response.json::<Value>().await.unwrap());
        assert!(status.is_success(), "{path} {fields:?}: {body:#}");
        body
    }

    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Value {
        self.send(Method::POST, path, fields).await
    }

    pub async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Value {
        self.send(Method::GET, path, fields).await
    }

    /// Makes things go wrong.
    pub async fn fault(&self, fields: &[(&str, &str)]) {
        self.post("/_sandbox/faults", fields).await;
    }

    /// How often the faults struck.
    pub async fn struck(&self) -> u64 {
        let faults = self.get("/_sandbox/faults", &[]).await;
        let faults = faults["data"].as_array().unwrap();
        faults
            .iter()
            .map(|fault| fault["struck"].as_u64().unwrap())
            .sum()
    }

    pub async fn clear_faults(&self) {
        self.send(Method::DELETE, "/_sandbox/faults", &[]).await;
    }

    /// A customer with a card, on a clock if one is named.
    pub async fn customer(&self, card: &str, clock: Option<&str>) -> String {
        let mut fields = vec![
            ("payment_method", card),
            ("invoice_settings[default_payment_method]", card),
        ];
        if let Some(clock) = clock {
            fields.push(("test_clock", clock));
        }
        text(&self.post("/v1/customers", &fields).await, "id")
    }

    /// Charges go to this card from now on.
    pub async fn use_card(&self, customer: &str, card: &str) {
        let method = self
            .post(
                &format!("/v1/payment_methods/{card}/attach"),
                &[("customer", customer)],
            )
            .await;
        let fields = [(
            "invoice_settings[default_payment_method]",
            &*text(&method, "id"),
        )];
        self.post(&format!("/v1/customers/{customer}"), &fields)
            .await;
    }

    pub async fn clock(&self, at: i64) -> String {
        let at = at.to_string();
        let fields = [("frozen_time", at.as_str())];
        text(
            &self.post("/v1/test_helpers/test_clocks", &fields).await,
            "id",
        )
    }

    pub async fn advance(&self, clock: &str, to: i64) {
        let to = to.to_string();
        let path = format!("/v1/test_helpers/test_clocks/{clock}/advance");
        self.post(&path, &[("frozen_time", &to)]).await;
    }

    /// All objects of a list, newest first.
    pub async fn list(&self, path: &str, fields: &[(&str, &str)]) -> Vec<Value> {
        let mut found: Vec<Value> = Vec::new();
        loop {
            let last = found.last().map(|object| text(object, "id"));
            let mut fields = fields.to_vec();
            fields.push(("limit", "100"));
            if let Some(last) = &last {
                fields.push(("starting_after", last));
            }
            let page = self.get(path, &fields).await;
            found.extend(page["data"].as_array().unwrap().iter().cloned());
            if page["has_more"] == json!(false) {
                return found;
            }
        }
    }

    /// All subscriptions of a customer, those that ended included.
    pub async fn subscriptions(&self, customer: &str) -> Vec<Value> {
        let fields = [("customer", customer), ("status", "all")];
        self.list("/v1/subscriptions", &fields).await
    }

    /// The invoices of a customer, oldest first.
    pub async fn invoices(&self, customer: &str) -> Vec<Value> {
        let mut invoices = self.list("/v1/invoices", &[("customer", customer)]).await;
        invoices.reverse();
        invoices
    }
}

/// The service, the stand-in, and one organization whose owner calls.
pub struct World {
    pub stripe: Stripe,
    pub service: TestService,
    pub organization: Uuid,
    pub token: String,
    endpoint: String,
}

impl World {
    /// An organization without a customer, and webhooks that arrive.
    pub async fn start() -> Self {
        Self::with(Stripe::start().await, Options::default()).await
    }

    pub async fn with(stripe: Stripe, options: Options) -> Self {
        let mut fields = vec![("url", "http://127.0.0.1:1/later")];
        fields.extend(HANDLED_TYPES.map(|handled| ("enabled_events[]", handled)));
        let endpoint = stripe.post("/v1/webhook_endpoints", &fields).await;
        let service = TestService::with(Options {
            secrets: vec![text(&endpoint, "secret").leak()],
            stripe_api: Some(stripe.api()),
            ..options
        })
        .await;
        let organization = service.organization("Northwind").await;
        let token = service.token(organization, Role::Owner).await;
        let world = Self {
            stripe,
            service,
            organization,
            token,
            endpoint: text(&endpoint, "id"),
        };
        world
            .deliver_to(&format!("{}{WEBHOOKS}", world.service.base))
            .await;
        world
    }

    /// Another replica of the service.
    pub async fn beside(&self) -> TestService {
        TestService::beside_with(
            &self.service,
            Options {
                workers: 0,
                secrets: self.service.secrets.clone(),
                stripe_api: Some(self.stripe.api()),
                ..Options::default()
            },
        )
        .await
    }

    /// The same, with a customer who has a card and lives on a clock.
    pub async fn on_clock(at: i64) -> (Self, String, String) {
        let world = Self::start().await;
        let clock = world.stripe.clock(at).await;
        let customer = world.stripe.customer(VISA, Some(&clock)).await;
        world.adopt(&customer).await;
        (world, clock, customer)
    }

    /// Another organization calls from now on: one with a customer who has a
    /// card and lives on a clock.
    pub async fn newcomer(&mut self, clock: &str) -> String {
        self.organization = self.service.organization("Newcomer").await;
        self.token = self.service.token(self.organization, Role::Owner).await;
        let customer = self.stripe.customer(VISA, Some(clock)).await;
        self.adopt(&customer).await;
        customer
    }

    /// Where webhooks go from now on.
    pub async fn deliver_to(&self, url: &str) {
        let path = format!("/v1/webhook_endpoints/{}", self.endpoint);
        self.stripe.post(&path, &[("url", url)]).await;
    }

    /// Webhooks are made and go nowhere.
    pub async fn deliver_nothing(&self) {
        let path = format!("/v1/webhook_endpoints/{}", self.endpoint);
        self.stripe.post(&path, &[("disabled", "true")]).await;
    }

    /// Webhooks arrive again.
    pub async fn deliver_again(&self) {
        let path = format!("/v1/webhook_endpoints/{}", self.endpoint);
        self.stripe.post(&path, &[("disabled", "false")]).await;
    }

    /// Makes a customer of Stripe's the organization's.
    pub async fn adopt(&self, customer: &str) {
        self.service
            .db
            .execute(&format!(
                "INSERT INTO billing_customers (stripe_customer_id, organization_id)
                 VALUES ('{customer}', '{}')",
                self.organization
            ))
            .await;
    }

    /// Gives the organization a customer with this card.
    pub async fn customer(&self, card: &str) -> String {
        let customer = self.stripe.customer(card, None).await;
        self.adopt(&customer).await;
        customer
    }

    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.call_with(method, path, body, None).await
    }

    /// With an `Idempotency-Key`.
    pub async fn call_with(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        key: Option<&str>,
    ) -> Answer {
        let url = format!("{}{path}", self.service.base);
        let mut request = self
            .service
            .client
            .request(method, url)
            .bearer_auth(&self.token)
            .timeout(Duration::from_secs(60));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("the service answers");
        Answer {
            status: response.status().as_u16(),
            body: response.json().await.unwrap_or_default(),
        }
    }

    pub async fn current(&self) -> Value {
        self.call(Method::GET, SUBSCRIPTION, None).await.ok()
    }

    pub async fn create(&self, tier: &str) -> Answer {
        let body = json!({"planTier": tier});
        self.call(Method::POST, SUBSCRIPTION, Some(body)).await
    }

    pub async fn change(&self, tier: &str) -> Answer {
        let body = json!({"planTier": tier});
        self.call(Method::PUT, SUBSCRIPTION, Some(body)).await
    }

    pub async fn change_as(&self, preview: &Value) -> Answer {
        let body = json!({"planTier": preview["newPlan"], "previewToken": preview["previewToken"]});
        self.call(Method::PUT, SUBSCRIPTION, Some(body)).await
    }

    pub async fn preview(&self, tier: &str) -> Answer {
        let body = json!({"planTier": tier});
        self.call(Method::POST, PREVIEW, Some(body)).await
    }

    pub async fn cancel(&self, immediately: bool) -> Answer {
        let path = format!("{SUBSCRIPTION}?immediately={immediately}");
        self.call(Method::DELETE, &path, None).await
    }

    pub async fn reactivate(&self) -> Answer {
        self.call(Method::POST, REACTIVATE, None).await
    }

    /// Waits until nothing is left open or in doubt.
    pub async fn settled_in_the_background(&self) {
        for _ in 0..1_000 {
            let db = &self.service.db;
            let open = db
                .count("billing_stripe_requests WHERE state = 'open'")
                .await;
            let doubts = db
                .count("billing_subscriptions WHERE ask_again_since IS NOT NULL")
                .await;
            let checkouts = db.count("checkout_sessions WHERE state = 'creating'").await;
            if open + doubts + checkouts == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("something stayed open or in doubt");
    }

    /// Waits until every webhook has arrived and is processed, those too that met a lock and
    /// are tried again. What fails each time is not waited for.
    pub async fn settle(&self) {
        self.stripe.sandbox.deliveries_settled().await;
        self.service.settle().await;
        for _ in 0..500 {
            let tried_again = "webhook_events WHERE NOT processed AND retry_count BETWEEN 1 AND 2";
            if self.service.db.count(tried_again).await == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The plan that is stored, and that of the quotas.
    pub async fn plan(&self) -> (String, String) {
        let id = self.organization;
        let plan = format!("SELECT plan_tier FROM organizations WHERE id = '{id}'");
        let quotas =
            format!("SELECT DISTINCT plan_tier FROM usage_quotas WHERE organization_id = '{id}'");
        (
            self.service.db.value(&plan).await,
            self.service.db.value(&quotas).await,
        )
    }

    /// Action and actor of every audit entry, oldest first.
    pub async fn audit(&self) -> Vec<String> {
        let entries =
            "SELECT coalesce(string_agg(action || ' ' || actor_type, ',' ORDER BY sequence), '')
               FROM billing_audit_log WHERE action <> 'organization_created'";
        let entries = self.service.db.value(entries).await;
        entries.split(',').map(str::to_owned).collect()
    }
}

/// A text that must be there.
#[track_caller]
pub fn text(value: &Value, key: &str) -> String {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no text {key} in {value:#}"))
        .to_owned()
}

pub fn seconds(value: &Value) -> i64 {
    let time: Timestamp = value.as_str().unwrap().parse().unwrap();
    time.as_second()
}
