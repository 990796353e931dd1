//! A service that sells the plans of a file which changes: each change is synced with
//! Stripe and followed by a restart, as the guide says.

use std::path::PathBuf;

use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::app::StartError;
use valuecanvas_billing::catalogue::{self, Catalogue};
use valuecanvas_billing::metering::reports;
use valuecanvas_billing::stripe::client::Client;
use valuecanvas_billing::tenancy::auth::Permission;

use crate::metering::tenant::{EVENTS, Tenant};
use crate::subscriptions::world::{Stripe, VISA, World};
use crate::support::TestService;
use crate::support::service::{Options, WEBHOOKS};

pub struct Shop {
    pub world: World,
    client: Client,
    file: tempfile::TempDir,
    text: String,
}

impl Shop {
    /// Sells the plans that ship with the program, with these changes.
    pub async fn open(changes: &[(&str, &str)]) -> Self {
        let text = std::fs::read_to_string("config/plans.toml").unwrap();
        Self::selling(changed(text, changes)).await
    }

    /// Sells what this file says.
    pub async fn selling(text: String) -> Self {
        let stripe = Stripe::start().await;
        // Only what `plans sync` makes is for sale.
        for price in stripe.list("/v1/prices", &[]).await {
            let path = format!("/v1/prices/{}", price["id"].as_str().unwrap());
            stripe.post(&path, &[("active", "false")]).await;
        }
        let api = stripe.api();
        let client = Client::new(api.base, api.key, api.patience).unwrap();
        let file = tempfile::tempdir().unwrap();
        std::fs::write(file.path().join("plans.toml"), &text).unwrap();
        let plans = file.path().join("plans.toml");
        let catalogue = Catalogue::load(Some(&plans)).unwrap();
        let synced = catalogue::sync(&client, &catalogue, false).await.unwrap();
        let options = Options {
            plans_file: Some(plans),
            // With a key, Stripe is asked for what its events leave out.
            key_is_live: Some(false),
            ..Options::default()
        };
        let world = World::with(stripe, options).await;
        let pool = world.service.db.service_pool();
        catalogue::record(&pool, &catalogue, &synced).await.unwrap();
        Self {
            world,
            client,
            file,
            text,
        }
    }

    pub fn path(&self) -> PathBuf {
        self.file.path().join("plans.toml")
    }

    pub fn catalogue(&self) -> Catalogue {
        Catalogue::load(Some(&self.path())).unwrap()
    }

    /// Changes the file.
    pub fn edit(&mut self, changes: &[(&str, &str)]) {
        self.text = changed(std::mem::take(&mut self.text), changes);
        std::fs::write(self.path(), &self.text).unwrap();
    }

    /// Writes the file anew: as it ships, with these changes.
    pub fn rewrite(&mut self, changes: &[(&str, &str)]) {
        let text = std::fs::read_to_string("config/plans.toml").unwrap();
        self.text = changed(text, changes);
        std::fs::write(self.path(), &self.text).unwrap();
    }

    /// `plans sync`.
    pub async fn sync(&self) {
        let catalogue = self.catalogue();
        let synced = catalogue::sync(&self.client, &catalogue, false)
            .await
            .unwrap();
        let pool = self.world.service.db.service_pool();
        catalogue::record(&pool, &catalogue, &synced).await.unwrap();
    }

    /// Ends the service and starts another one, which reads the file.
    pub async fn restart(&mut self) {
        self.world.service.stop().await;
        let options = Options {
            secrets: self.world.service.secrets.clone(),
            stripe_api: Some(self.world.stripe.api()),
            plans_file: Some(self.path()),
            ..Options::default()
        };
        self.world.service = TestService::beside_with(&self.world.service, options).await;
        let webhooks = format!("{}{WEBHOOKS}", self.world.service.base);
        self.world.deliver_to(&webhooks).await;
    }

    /// Why a service with the file as it is does not start.
    pub async fn refused_start(&self) -> StartError {
        let options = Options {
            plans_file: Some(self.path()),
            ..Options::default()
        };
        let db = self.world.service.db.clone();
        match TestService::try_on(db, options).await {
            Ok(_) => panic!("the service started"),
            Err(error) => error,
        }
    }

    /// The file changes, is synced, and the service restarts.
    pub async fn change(&mut self, changes: &[(&str, &str)]) {
        self.edit(changes);
        self.sync().await;
        self.restart().await;
    }

    /// A new organization, which calls from now on, with a customer who has a card.
    pub async fn customer(&mut self) -> String {
        let world = &mut self.world;
        world.organization = world.service.organization("Newcomer").await;
        let owner = valuecanvas_billing::tenancy::auth::Role::Owner;
        world.token = world.service.token(world.organization, owner).await;
        let customer = world.stripe.customer(VISA, None).await;
        world.adopt(&customer).await;
        customer
    }

    /// The same, on a plan.
    pub async fn subscriber(&mut self, tier: &str) -> String {
        let customer = self.customer().await;
        self.world.create(tier).await.ok();
        self.world.settle().await;
        customer
    }

    /// Somebody edits the subscription in Stripe's dashboard, and its event arrives.
    pub async fn touch(&self, customer: &str) {
        let subscription = self.world.stripe.subscriptions(customer).await.remove(0);
        let id = subscription["id"].as_str().unwrap();
        let path = format!("/v1/subscriptions/{id}");
        let fields = [("metadata[touched]", "yes")];
        self.world.stripe.post(&path, &fields).await;
        self.world.settle().await;
        // Of events of one second, Stripe is asked for what is true.
        self.world.settled_in_the_background().await;
    }

    pub async fn uses(&self, metric: &str, quantity: &str) {
        let organization: Uuid = self.world.organization;
        let key = self
            .world
            .service
            .api_key(organization, &Permission::ALL)
            .await;
        let tenant = Tenant { organization, key };
        let id = Uuid::now_v7().to_string();
        let body = json!({"id": id, "metric": metric, "quantity": quantity});
        tenant.post(&self.world.service, EVENTS, &body).await.ok();
    }

    /// `usage report`.
    pub async fn report(&self) -> reports::Report {
        let pool = self.world.service.db.service_pool();
        let now = jiff::Timestamp::now();
        reports::report(&pool, &self.client, &self.catalogue(), now, |_, _| {})
            .await
            .unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        let request = self.world.service.get(path);
        let response = request.bearer_auth(&self.world.token).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {response:?}");
        response.json().await.unwrap()
    }

    /// Usage of a metric, as our API shows it.
    pub async fn usage(&self, metric: &str) -> Value {
        self.get(&format!("/api/billing/usage/{metric}")).await
    }

    /// The overage that our API shows, over all metrics.
    pub async fn overage(&self) -> i64 {
        let usage = self.get("/api/billing/usage").await;
        let usage = usage["data"].as_array().unwrap();
        let amounts = usage
            .iter()
            .map(|one| one["overageAmount"].as_i64().unwrap_or(0));
        amounts.sum()
    }

    /// The metered lines of Stripe's upcoming invoice.
    pub async fn metered_lines(&self, customer: &str) -> i64 {
        let subscription = self.world.stripe.subscriptions(customer).await.remove(0);
        let id = subscription["id"].as_str().unwrap();
        let fields = [("subscription", id)];
        let invoice = self
            .world
            .stripe
            .post("/v1/invoices/create_preview", &fields)
            .await;
        let items = subscription["items"]["data"].as_array().unwrap();
        let is_metered = |line: &&Value| {
            let item = &line["parent"]["subscription_item_details"]["subscription_item"];
            items.iter().any(|one| {
                one["id"] == *item && one["price"]["recurring"]["usage_type"] == "metered"
            })
        };
        // The invoice itself has the first ten only.
        let lines = format!("/v1/invoices/{}/lines", invoice["id"].as_str().unwrap());
        let lines = self.world.stripe.list(&lines, &[]).await;
        let lines = lines.iter().filter(is_metered);
        lines.map(|line| line["amount"].as_i64().unwrap()).sum()
    }

    /// A value of the organization's rows.
    pub async fn value(&self, sql: &str) -> String {
        let sql = sql.replace("$org", &format!("'{}'", self.world.organization));
        self.world.service.db.value(&sql).await
    }
}

fn changed(mut text: String, changes: &[(&str, &str)]) -> String {
    for (from, to) in changes {
        assert!(text.contains(from), "the file has no {from}");
        text = text.replacen(from, to, 1);
    }
    text
}
