//! The issuer of a product's tokens: its keys are served on this host, and its tokens
//! made by `jose`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::sync::Notify;
use valuecanvas_billing::config::{IssuerConfig, SurfaceConfig};

use super::libraries::ask;

const SCRIPT: &str = "tokens";
pub const ISSUER: &str = "https://id.example.com/";
pub const AUDIENCE: &str = "billing";

/// What the host of the keys answers.
#[derive(Clone)]
pub enum Answers {
    With(StatusCode, String),
    /// Only after this.
    Late(Arc<Notify>),
}

struct Host {
    answers: Mutex<Answers>,
    reads: AtomicUsize,
}

/// A key of the issuer's: both halves of it, and what its tokens' headers say.
#[derive(Clone)]
pub struct SigningKey {
    pub public: Value,
    pub private: Value,
    pub header: Value,
}

pub struct Issuer {
    pub url: String,
    host: Arc<Host>,
}

async fn answer(State(host): State<Arc<Host>>) -> Response {
    host.reads.fetch_add(1, Ordering::SeqCst);
    let answers = host.answers.lock().unwrap().clone();
    match answers {
        Answers::With(status, body) => (status, body).into_response(),
        Answers::Late(enough) => {
            enough.notified().await;
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

impl Issuer {
    /// Publishes these keys.
    pub async fn start(keys: &[&SigningKey]) -> Self {
        let host = Arc::new(Host {
            answers: Mutex::new(Answers::With(StatusCode::NOT_FOUND, String::new())),
            reads: AtomicUsize::new(0),
        });
        let router = Router::new().fallback(answer).with_state(host.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper_util::service::TowerToHyperService::new(router.clone());
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service),
                );
            }
        });
        let issuer = Self { url, host };
        issuer.publish(keys);
        issuer
    }

    pub fn publish(&self, keys: &[&SigningKey]) {
        let keys: Vec<&Value> = keys.iter().map(|key| &key.public).collect();
        self.answer(StatusCode::OK, json!({ "keys": keys }).to_string());
    }

    pub fn answer(&self, status: StatusCode, body: String) {
        self.answers(Answers::With(status, body));
    }

    pub fn answers(&self, answers: Answers) {
        *self.host.answers.lock().unwrap() = answers;
    }

    /// How often the keys were read.
    pub fn reads(&self) -> usize {
        self.host.reads.load(Ordering::SeqCst)
    }

    /// A service that accepts its tokens.
    pub fn surface(&self, roles: &[(&str, &str)]) -> SurfaceConfig {
        let roles = roles.iter();
        let roles: BTreeMap<String, String> = roles
            .map(|(theirs, ours)| ((*theirs).to_owned(), (*ours).to_owned()))
            .collect();
        SurfaceConfig {
            issuer: Some(IssuerConfig {
                jwks_url: self.url.parse().unwrap(),
                issuer: ISSUER.to_owned(),
                audience: AUDIENCE.to_owned(),
                organization_claim: "org_id".to_owned(),
                role_claim: "role".to_owned(),
                roles,
            }),
            ..SurfaceConfig::default()
        }
    }
}

/// New keys for these algorithms, named `key-0` and so on.
pub fn keys(algorithms: &[&str]) -> Vec<SigningKey> {
    let made = ask("node", SCRIPT, &json!({ "keys": algorithms })).expect("it makes keys");
    let made: Vec<Value> = serde_json::from_str(&made).unwrap();
    let named = made.iter().zip(algorithms).enumerate();
    let keys = named.map(|(number, (pair, algorithm))| {
        let id = format!("key-{number}");
        let mut public = pair["public"].clone();
        public["kid"] = json!(id);
        public["use"] = json!("sig");
        public["alg"] = json!(algorithm);
        SigningKey {
            public,
            private: pair["private"].clone(),
            header: json!({"alg": algorithm, "kid": id, "typ": "JWT"}),
        }
    });
    keys.collect()
}

/// `base` with some members replaced; null removes one.
pub fn with(base: &Value, changes: Value) -> Value {
    let mut changed = base.clone();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            changed.as_object_mut().unwrap().remove(name);
        } else {
            changed[name] = value.clone();
        }
    }
    changed
}

/// The claims of a good token for an organization.
pub fn claims(organization: &str, role: &str) -> Value {
    let now = jiff::Timestamp::now().as_second();
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "auth0|ada", "iat": now, "exp": now + 600,
           "org_id": organization, "role": role})
}

/// What `jose` is to sign.
pub fn wanted(key: &SigningKey, claims: &Value) -> Value {
    json!({"key": key.private, "header": key.header, "payload": claims.to_string()})
}

/// Signs each.
pub fn sign(wanted: &[Value]) -> Vec<String> {
    let made = ask("node", SCRIPT, &json!({ "tokens": wanted })).expect("it signs");
    serde_json::from_str(&made).unwrap()
}

/// One good token.
pub fn token(key: &SigningKey, claims: &Value) -> String {
    sign(&[wanted(key, claims)]).remove(0)
}
