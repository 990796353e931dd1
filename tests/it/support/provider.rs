//! An identity provider that answers what a test says, the truth or not. Its tokens are made by
//! `jose`.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use serde_json::{Value, json};
use valuecanvas_billing::config::{OidcConfig, OperatorConfig, SurfaceConfig};

use super::issuer::{SigningKey, sign, wanted, with};

pub const CLIENT: &str = "billing";
pub const SECRET: &str = "a secret of: the client/";

#[derive(Default)]
struct Said {
    /// Instead of the discovery that is true.
    discovery: Option<Value>,
    keys: Vec<Value>,
    tokens: Value,
    userinfo: Value,
    /// Nothing is answered at all.
    silent: bool,
    /// The last form that came to the token endpoint, and its credentials.
    asked: Option<(String, String)>,
}

#[derive(Clone)]
pub struct Provider {
    pub issuer: String,
    said: Arc<Mutex<Said>>,
}

async fn answer(
    State(provider): State<Provider>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if provider.said.lock().unwrap().silent {
        std::future::pending::<()>().await;
    }
    let mut said = provider.said.lock().unwrap();
    match uri.path() {
        "/.well-known/openid-configuration" => {
            let discovery = said.discovery.clone();
            Json(discovery.unwrap_or_else(|| provider.discovery())).into_response()
        }
        "/jwks" => Json(json!({"keys": said.keys})).into_response(),
        "/token" => {
            let credentials = headers.get("authorization");
            let credentials = credentials.map(|value| value.to_str().unwrap().to_owned());
            let form = String::from_utf8(body.to_vec()).unwrap();
            said.asked = Some((form, credentials.unwrap_or_default()));
            let refused = said.tokens.get("error").is_some();
            let status = if refused {
                StatusCode::BAD_REQUEST
            } else {
                StatusCode::OK
            };
            (status, Json(said.tokens.clone())).into_response()
        }
        "/me" if headers["authorization"] == "Bearer opaque" => {
            Json(said.userinfo.clone()).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

impl Provider {
    pub async fn start(keys: &[&SigningKey]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Self {
            issuer: format!("http://{}", listener.local_addr().unwrap()),
            said: Arc::default(),
        };
        provider.publish(keys);
        let router = Router::new().fallback(answer).with_state(provider.clone());
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
        provider
    }

    pub fn discovery(&self) -> Value {
        let at = |path: &str| format!("{}{path}", self.issuer);
        json!({
            "issuer": self.issuer, "authorization_endpoint": at("/auth"),
            "token_endpoint": at("/token"), "jwks_uri": at("/jwks"),
            "userinfo_endpoint": at("/me"),
        })
    }

    pub fn publish(&self, keys: &[&SigningKey]) {
        let keys = keys.iter().map(|key| key.public.clone());
        self.said.lock().unwrap().keys = keys.collect();
    }

    pub fn discovers(&self, discovery: Value) {
        self.said.lock().unwrap().discovery = Some(discovery);
    }

    pub fn answers(&self, tokens: Value) {
        self.said.lock().unwrap().tokens = tokens;
    }

    pub fn tells(&self, userinfo: Value) {
        self.said.lock().unwrap().userinfo = userinfo;
    }

    pub fn is_silent(&self) {
        self.said.lock().unwrap().silent = true;
    }

    /// The last form of the token endpoint, and the credentials with it.
    pub fn asked(&self) -> (String, String) {
        self.said.lock().unwrap().asked.clone().unwrap()
    }

    /// The claims of a good ID token.
    pub fn claims(&self, nonce: &str, groups: &[&str]) -> Value {
        let now = jiff::Timestamp::now().as_second();
        json!({"iss": self.issuer, "aud": CLIENT, "sub": "ada", "nonce": nonce, "iat": now,
               "exp": now + 600, "email": "ada@example.com", "groups": groups})
    }

    /// Answers the next code with an ID token of these claims.
    pub async fn signs(&self, key: &SigningKey, claims: &Value, changes: Value) {
        let wanted = wanted(key, &with(claims, changes));
        let made = tokio::task::spawn_blocking(move || sign(&[wanted]).remove(0));
        let token = made.await.unwrap();
        self.answers(json!({"id_token": token, "access_token": "opaque", "token_type": "Bearer"}));
    }

    /// A service whose operators sign in by it.
    pub fn surface(&self) -> SurfaceConfig {
        SurfaceConfig {
            operators: OperatorConfig {
                oidc: Some(self.config()),
                ..OperatorConfig::default()
            },
            ..SurfaceConfig::default()
        }
    }

    pub fn config(&self) -> OidcConfig {
        OidcConfig {
            issuer: self.issuer.clone(),
            client_id: CLIENT.to_owned(),
            client_secret: Some(SECRET.to_owned()),
            operator_group: Some("billing-operators".to_owned()),
            readonly_group: Some("billing-support".to_owned()),
            groups_claim: "groups".to_owned(),
            scopes: "openid profile email".to_owned(),
            allow_passwords: false,
        }
    }
}
