//! The service, started as `serve` starts it, on a port of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use valuecanvas_billing::app::{self, Database, Service, StartError};
use valuecanvas_billing::catalogue::Catalogue;
use valuecanvas_billing::config::{
    MailConfig, OutboundConfig, ServeConfig, StripeApi, StripeConfig, SurfaceConfig, UsageConfig,
};
use valuecanvas_billing::projection::UnknownCustomers;
use valuecanvas_billing::stripe::signature::SigningSecret;
use valuecanvas_billing::tenancy::auth::{Permission, Role};
use valuecanvas_billing::tenancy::organizations::{self, NewOrganization};
use valuecanvas_billing::webhooks::worker::Processor;

use super::TestDatabase;
use super::events::{SECRET, sign_with};

pub const WEBHOOKS: &str = "/api/billing/webhooks/stripe";

pub struct TestService {
    pub db: Arc<TestDatabase>,
    pub client: Client,
    pub base: String,
    pub secrets: Vec<&'static str>,
    service: Option<Service>,
    _data_dir: tempfile::TempDir,
}

/// What a test may want otherwise.
pub struct Options {
    pub workers: u32,
    pub max_retries: u32,
    pub key_is_live: Option<bool>,
    pub secrets: Vec<&'static str>,
    pub surface: SurfaceConfig,
    pub stripe_api: Option<StripeApi>,
    pub plans_file: Option<PathBuf>,
    pub usage: UsageConfig,
    pub outbound: OutboundConfig,
    /// Proxies whose word on addresses is taken.
    pub trusted_proxies: u32,
    pub mail: Option<MailConfig>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 2,
            max_retries: 20,
            key_is_live: None,
            secrets: vec![SECRET],
            surface: SurfaceConfig::default(),
            stripe_api: None,
            plans_file: None,
            usage: UsageConfig::default(),
            outbound: OutboundConfig::default(),
            trusted_proxies: 0,
            mail: None,
        }
    }
}

impl TestService {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// Takes events and leaves them: the test processes them itself.
    pub async fn intake_only() -> Self {
        Self::with(Options {
            workers: 0,
            ..Options::default()
        })
        .await
    }

    pub async fn with(options: Options) -> Self {
        Self::on(Arc::new(TestDatabase::new().await), options).await
    }

    /// Another replica of `other`.
    pub async fn beside(other: &Self) -> Self {
        let options = Options {
            workers: 0,
            ..Options::default()
        };
        Self::on(other.db.clone(), options).await
    }

    /// Another replica of `other`, which differs in something.
    pub async fn beside_with(other: &Self, options: Options) -> Self {
        Self::on(other.db.clone(), options).await
    }

    /// On a database that is there already.
    pub async fn on(db: Arc<TestDatabase>, options: Options) -> Self {
        let started = Self::try_on(db, options).await;
        started.expect("the service starts")
    }

    /// The same, where it may be refused.
    pub async fn try_on(db: Arc<TestDatabase>, options: Options) -> Result<Self, StartError> {
        let data_dir = tempfile::tempdir().unwrap();
        let serve = ServeConfig {
            listen_addr: "127.0.0.1:0".parse().unwrap(),
            metrics_addr: None,
            worker_concurrency: options.workers,
            tolerance_secs: 300,
            trusted_proxies: options.trusted_proxies,
            usage: options.usage,
            outbound: options.outbound,
            mail: options.mail,
            retention: Default::default(),
            surface: options.surface,
        };
        let stripe = StripeConfig {
            api: options.stripe_api,
            key_is_live: options.key_is_live,
            webhook_secrets: Some(
                options
                    .secrets
                    .iter()
                    .copied()
                    .map(SigningSecret::new)
                    .collect(),
            ),
            plans_file: options.plans_file,
            max_retries: options.max_retries,
            unknown_customers: UnknownCustomers::Retry,
        };
        let database = Database::external(db.service(), db.options("postgres"));
        let service = app::start(&database, &serve, &stripe, data_dir.path()).await?;
        // A second service of this process finds the provider installed.
        let client = valuecanvas_billing::http_client::direct_client().unwrap();
        let base = format!("http://{}", service.address);
        Ok(Self {
            db,
            client,
            base,
            secrets: options.secrets,
            service: Some(service),
            _data_dir: data_dir,
        })
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.base))
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.base))
    }

    /// An organization that Stripe does not know yet.
    pub async fn organization(&self, name: &str) -> Uuid {
        organization(&self.db, name).await
    }

    /// A token of a new user of `organization`, for `Authorization: Bearer`.
    pub async fn token(&self, organization: Uuid, role: Role) -> String {
        token(&self.db, organization, role).await
    }

    /// An API key of `organization`.
    pub async fn api_key(&self, organization: Uuid, scopes: &[Permission]) -> String {
        api_key(&self.db, organization, scopes).await
    }

    /// A service key, which is no organization's.
    pub async fn service_key(&self, scopes: &[Permission]) -> String {
        service_key(&self.db, scopes).await
    }

    /// A key of the operators' own.
    pub async fn operator_key(&self, role: Role) -> String {
        let key = format!("vco_{}", random_digits());
        let digest = hex::encode(Sha256::digest(key.as_bytes()));
        self.db
            .execute(&format!(
                "INSERT INTO operator_api_keys (id, name, prefix, key_hash, reads_only)
                 VALUES (gen_random_uuid(), 'test', '{}', '\\x{digest}', {})",
                &key[..12],
                role == Role::OperatorRead
            ))
            .await;
        key
    }

    /// Posts `body` with `signature`.
    pub async fn deliver_raw(&self, body: impl Into<Vec<u8>>, signature: &str) -> Response {
        let request = self
            .post(WEBHOOKS)
            .header("stripe-signature", signature)
            .body(body.into());
        request.send().await.expect("the service answers")
    }

    /// Delivers a signed event, which must be stored.
    pub async fn deliver(&self, event: &Value) -> Value {
        let body = event.to_string();
        let signature = sign_with(self.secrets[0], body.as_bytes());
        let response = self.deliver_raw(body, &signature).await;
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        response.json().await.unwrap()
    }

    /// Waits until every event is processed or waits for its retry.
    pub async fn settle(&self) {
        for _ in 0..2_000 {
            let open = self
                .db
                .count("webhook_events WHERE NOT processed AND (retry_count = 0 OR next_retry_at <= now())")
                .await;
            if open == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("events stayed unprocessed: {}", self.db.value(
            "SELECT string_agg(stripe_event_id || ' ' || event_type || ' ' || coalesce(error_message, ''), E'\\n')
               FROM webhook_events WHERE NOT processed").await);
    }

    /// The value of a series in `/metrics`.
    pub async fn metric(&self, series: &str) -> Option<i64> {
        let text = self
            .get("/metrics")
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    /// What `serve` watches.
    pub fn service(&mut self) -> &mut Service {
        self.service.as_mut().expect("it runs")
    }

    pub async fn stop(&mut self) {
        if let Some(service) = self.service.take() {
            service.drain().await;
        }
    }

    /// Ends it as `serve` ends a service of which a part has failed.
    pub async fn abandon(&mut self) {
        if let Some(service) = self.service.take() {
            service.abandon(Duration::from_millis(300)).await;
        }
    }
}

/// A token of a new user of `organization`, for `Authorization: Bearer`.
pub async fn token(db: &TestDatabase, organization: Uuid, role: Role) -> String {
    let (user, token) = (Uuid::now_v7(), format!("vcs_{}", random_digits()));
    let digest = hex::encode(Sha256::digest(token.as_bytes()));
    let (reads, operator) = (role == Role::OperatorRead, role.is_operator());
    let role = role.as_str();
    let of = if operator {
        "null".to_owned()
    } else {
        format!("'{organization}'")
    };
    db.execute(&format!(
        "INSERT INTO users (id, email, operator, operator_reads)
               VALUES ('{user}', '{user}@example.com', {operator} AND NOT {reads}, {reads});
             INSERT INTO organization_members (organization_id, user_id, role)
               SELECT '{organization}', '{user}', '{role}' WHERE NOT {operator};
             INSERT INTO user_sessions (token_hash, user_id, for_organization_id, expires_at)
               VALUES ('\\x{digest}', '{user}', {of}, now() + interval '1 hour')"
    ))
    .await;
    token
}

/// An API key of `organization`.
pub async fn api_key(db: &TestDatabase, organization: Uuid, scopes: &[Permission]) -> String {
    let key = format!("vck_{}", random_digits());
    let digest = hex::encode(Sha256::digest(key.as_bytes()));
    let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    db.execute(&format!(
        "INSERT INTO api_keys (organization_id, id, name, prefix, key_hash, scopes)
         VALUES ('{organization}', gen_random_uuid(), 'test', '{}', '\\x{digest}', '{{{}}}')",
        &key[..12],
        scopes.join(",")
    ))
    .await;
    key
}

/// A service key, which is no organization's.
pub async fn service_key(db: &TestDatabase, scopes: &[Permission]) -> String {
    let key = format!("vcp_{}", random_digits());
    let digest = hex::encode(Sha256::digest(key.as_bytes()));
    let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    db.execute(&format!(
        "INSERT INTO service_api_keys (id, name, prefix, key_hash, scopes)
         VALUES (gen_random_uuid(), 'test', '{}', '\\x{digest}', '{{{}}}')",
        &key[..12],
        scopes.join(",")
    ))
    .await;
    key
}

/// An organization that Stripe does not know yet.
pub async fn organization(db: &TestDatabase, name: &str) -> Uuid {
    let new = NewOrganization {
        name: name.to_owned(),
        plan_tier: "free".to_owned(),
        stripe_customer_id: None,
    };
    let catalogue = Catalogue::load(None).unwrap();
    let pool = db.service_pool();
    let made = organizations::create(&pool, &catalogue, new).await;
    made.unwrap().id
}

fn random_digits() -> String {
    [Uuid::new_v4(), Uuid::new_v4()]
        .map(|id| id.simple().to_string())
        .concat()
}

/// Processing as `serve` and the jobs do it, called by hand.
pub fn processor(db: &TestDatabase) -> Processor {
    let stripe = StripeConfig {
        max_retries: 20,
        ..StripeConfig::default()
    };
    let catalogue = Catalogue::load(None).unwrap();
    Processor::new(db.service_pool(), catalogue, &stripe, None)
}
