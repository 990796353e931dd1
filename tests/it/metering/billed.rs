//! An organization on the standard plan, billed by a stand-in for Stripe that
//! has the whole catalogue.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::catalogue::{self, Catalogue};
use valuecanvas_billing::metering::reports::{self, Report};
use valuecanvas_billing::stripe::client::Client;
use valuecanvas_billing::tenancy::auth::Permission;

use super::tenant::{EVENTS, Tenant};
use crate::subscriptions::world::{VISA, World, text};
use crate::support::TestService;

pub struct Billed {
    pub world: World,
    pub tenant: Tenant,
    pub client: Client,
    pub catalogue: Arc<Catalogue>,
    pub customer: String,
    /// The clock that the customer lives by.
    pub clock: Option<String>,
}

impl Billed {
    /// On the plan since now.
    pub async fn start() -> Self {
        let billed = Self::without_subscription(None).await;
        billed.world.create("standard").await.ok();
        billed.world.settle().await;
        billed
    }

    /// Without a subscription yet; `at`: the customer's clock.
    pub async fn without_subscription(at: Option<i64>) -> Self {
        Self::on(World::start().await, at).await
    }

    /// The same, beside this stand-in.
    pub async fn on(world: World, at: Option<i64>) -> Self {
        let api = world.stripe.api();
        let client = Client::new(api.base, api.key, api.patience).unwrap();
        let catalogue = Catalogue::load(None).unwrap();
        catalogue::sync(&client, &catalogue, false).await.unwrap();
        let clock = match at {
            Some(at) => Some(world.stripe.clock(at).await),
            None => None,
        };
        let customer = world.stripe.customer(VISA, clock.as_deref()).await;
        world.adopt(&customer).await;
        let organization: Uuid = world.organization;
        let key = world.service.api_key(organization, &Permission::ALL).await;
        Self {
            world,
            tenant: Tenant { organization, key },
            client,
            catalogue: Arc::new(catalogue),
            customer,
            clock,
        }
    }

    pub fn service(&self) -> &TestService {
        &self.world.service
    }

    pub async fn record(&self, id: &str, metric: &str, quantity: &str) {
        let body = json!({"id": id, "metric": metric, "quantity": quantity});
        self.tenant.post(self.service(), EVENTS, &body).await.ok();
    }

    pub async fn report(&self, now: Timestamp) -> Report {
        let pool = self.service().db.service_pool();
        reports::report(&pool, &self.client, &self.catalogue, now, |_, _| {})
            .await
            .unwrap()
    }

    /// The newest subscription, as Stripe shows it.
    pub async fn subscription(&self) -> Value {
        self.world
            .stripe
            .subscriptions(&self.customer)
            .await
            .remove(0)
    }

    /// Changes the subscription in Stripe, as its dashboard does.
    pub async fn in_dashboard(&self, fields: &[(&str, &str)]) {
        let id = text(&self.subscription().await, "id");
        let path = format!("/v1/subscriptions/{id}");
        self.world.stripe.post(&path, fields).await;
    }

    /// Lets the customer's clock go to this second, which has begun for us.
    pub async fn catch_up(&self) -> i64 {
        let next = Timestamp::now().as_second() + 1;
        while Timestamp::now().as_second() < next {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if let Some(clock) = &self.clock {
            self.world.stripe.advance(clock, next).await;
        }
        next
    }

    /// The units of a metric that Stripe's meter has of a time; its bounds are
    /// whole minutes there, so each event is looked at.
    pub async fn told(&self, metric: &str, from: i64, to: i64) -> String {
        let sql = format!(
            "SELECT coalesce(sum(units), 0) FROM usage_reports
              WHERE metric = '{metric}' AND sent_at IS NOT NULL
                AND at >= to_timestamp({from}) AND at < to_timestamp({to})"
        );
        self.service().db.value(&sql).await
    }

    /// What Stripe has of a metric, over a day.
    pub async fn in_stripe(&self, metric: &str) -> Value {
        let meters = self.world.stripe.get("/v1/billing/meters", &[]).await;
        let name = catalogue::meter_event_name(metric);
        let meters = meters["data"].as_array().unwrap();
        let meter = meters
            .iter()
            .find(|meter| meter["event_name"] == name.as_str());
        let path = format!(
            "/v1/billing/meters/{}/event_summaries",
            meter.unwrap()["id"].as_str().unwrap()
        );
        let now = Timestamp::now().as_second() / 60 * 60;
        let (from, to) = ((now - 86_400).to_string(), (now + 3_600).to_string());
        let fields = [
            ("customer", &*self.customer),
            ("start_time", &from),
            ("end_time", &to),
        ];
        let summaries = self.world.stripe.get(&path, &fields).await;
        summaries["data"][0]["aggregated_value"].clone()
    }
}
