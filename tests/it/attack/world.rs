//! What attackers know and have.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::{Permission, Role};

use super::sizes::Sizes;
use crate::metering::fairness::lane_of;
use crate::support::TestDatabase;
use crate::support::events::{event, sign, subscription};
use crate::support::service::{WEBHOOKS, api_key, organization, service_key, token};

/// An organization with a Stripe customer, its users' tokens and a key.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub organization: Uuid,
    pub customer: String,
    tokens: Vec<String>,
    pub key: String,
}

impl Tenant {
    /// Its usage is counted by the same writer as `beside`'s.
    pub async fn make(db: &TestDatabase, name: &str, users: usize, beside: Option<Uuid>) -> Self {
        for number in 0.. {
            let customer = format!("cus_{name}_{number}");
            let organization = db.organization(&customer).await;
            if beside.is_none_or(|other| lane_of(other) == lane_of(organization)) {
                let mut tokens = Vec::new();
                for _ in 0..users {
                    tokens.push(token(db, organization, Role::Owner).await);
                }
                return Self {
                    organization,
                    customer,
                    tokens,
                    key: api_key(db, organization, &Permission::ALL).await,
                };
            }
        }
        unreachable!("there are few lanes")
    }

    /// Of one of its users: limits of a credential are not limits of an organization.
    pub fn token(&self, number: usize) -> &str {
        &self.tokens[number % self.tokens.len()]
    }

    /// A signed change of its subscription: the event, and its signature.
    pub fn delivery(&self, id: &str, tier: &str) -> (String, String) {
        let number = Uuid::now_v7().as_u128() % 1_000_000;
        let created = 1_770_000_000 + i64::try_from(number).unwrap();
        let name = format!("sub_{}", self.customer);
        let object = subscription(&name, &self.customer, "active", tier);
        let body = event(id, "customer.subscription.updated", created, object).to_string();
        let signature = sign(body.as_bytes());
        (body, signature)
    }
}

/// A client that comes from an attacker's address, where this host has it.
pub fn hostile_client() -> Client {
    let local = std::net::IpAddr::from([127, 0, 0, 2]);
    let there = std::net::TcpListener::bind((local, 0)).is_ok();
    let _ = valuecanvas_billing::http_client::direct_client();
    let building = Client::builder().no_proxy();
    building
        .local_address(there.then_some(local))
        .build()
        .unwrap()
}

/// Who else's credentials some attackers have: the product's, and an operator's.
pub struct Others {
    pub service_key: String,
    /// A token, which a browser has as a cookie.
    pub operator: String,
    /// An organization without a subscription.
    pub buyer: Uuid,
    /// An endpoint for events, once an attack has made it.
    pub endpoint: OnceLock<String>,
}

impl Others {
    pub async fn make(db: &TestDatabase) -> Self {
        Self {
            service_key: service_key(db, &Permission::OF_SERVICE).await,
            operator: token(db, Uuid::nil(), Role::Operator).await,
            buyer: organization(db, "Buyer").await,
            endpoint: OnceLock::new(),
        }
    }
}

pub struct World {
    pub db: Arc<TestDatabase>,
    pub address: SocketAddr,
    pub client: Client,
    /// Whose credentials the attackers have.
    pub tenant: Tenant,
    pub others: Arc<Others>,
    pub sizes: Sizes,
    /// Connections opened and requests sent.
    pub hits: AtomicUsize,
}

impl World {
    pub fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// One of four, with a port that is free.
    pub fn attackers_address(&self) -> SocketAddr {
        let hits = self.hits.load(Ordering::Relaxed);
        let last = u8::try_from(2 + hits % 4).unwrap();
        SocketAddr::from(([127, 0, 0, last], 0))
    }

    fn url(&self, path: &str) -> String {
        self.hit();
        format!("http://{}{path}", self.address)
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// With the tenant's key.
    pub fn send(&self, path: &str, body: &Value) -> RequestBuilder {
        self.post(path).bearer_auth(&self.tenant.key).json(body)
    }

    /// A use with an id of its own.
    pub fn consume(&self, quantity: i64) -> RequestBuilder {
        let id = Uuid::new_v4().to_string();
        let body = json!({"id": id, "metric": "api_calls", "quantity": quantity, "consume": true});
        self.send("/api/billing/usage/check", &body)
    }

    /// As Stripe sends it.
    pub fn deliver(&self, body: String, signature: &str) -> RequestBuilder {
        let request = self.post(WEBHOOKS).header("stripe-signature", signature);
        request.body(body)
    }
}
