//! Operators sign in by their identity provider: OpenID Connect, the authorization code with
//! PKCE. What the provider says is believed once its signature, issuer, audience, nonce and time
//! are checked; its groups give the role, at each sign-in anew.

mod admission;
mod claims;
mod discovery;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgPool;
use subtle::ConstantTimeEq as _;

use super::issued::{self, form, jwks};
use super::second_factor::sealed;
use super::sessions::Way;
use super::sign_in::{self, Session};
use super::store::oidc::{self as store, Known};
use super::{By, Role, store as auth_store};
use crate::audit::{self, Client};
use crate::config::OidcConfig;
use crate::db::WorkerTx;
use crate::server::signing::SharedSigningKey;
use crate::telemetry::metrics::operators;
use admission::Admission;
use claims::Identity;
use discovery::{Discovery, Provider, answer};

/// Where the provider leads back to.
pub const CALLBACK: &str = "/console/sign-in/oidc/callback";
const PURPOSE: &str = "oidc sign-in";
/// The audit action of a role that the provider's groups gave, or took.
pub const ROLE_SET: &str = "operator_role_set";

/// Why somebody is not signed in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("it cannot be reached: {0}")]
    Unavailable(String),
    #[error("it does not keep to the protocol: {0}")]
    Lies(String),
    /// With its word for why.
    #[error("it refused: {0}")]
    Refused(String),
    #[error("the sign-in was begun elsewhere, or too long ago")]
    BeginAgain,
    #[error("too many sign-ins at once, or from one address")]
    Busy,
    #[error("none of the groups is an operator's")]
    NoRole,
    #[error("the operator is disabled here")]
    Disabled,
    #[error("the database: {0}")]
    Database(String),
}

impl Failure {
    fn lies(detail: &str) -> Self {
        Self::Lies(detail.to_owned())
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.to_string())
    }
}

/// What the browser keeps, sealed, until the provider leads it back.
#[derive(Serialize, Deserialize)]
struct Flow {
    state: String,
    nonce: String,
    verifier: String,
    next: String,
}

/// What the provider leads back with.
#[derive(Debug, Default, Deserialize)]
pub struct Answered {
    pub code: Option<String>,
    pub state: Option<String>,
    pub iss: Option<String>,
    pub error: Option<String>,
}

/// The operators' identity provider.
#[derive(Clone)]
pub struct SingleSignOn(Arc<Inner>);

struct Inner {
    config: OidcConfig,
    discovery: Discovery,
    admission: Admission,
    /// Where this service is reached from outside.
    callback: String,
    pool: PgPool,
    sealing: SharedSigningKey,
}

fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

impl SingleSignOn {
    /// `pool` is that of logins.
    pub fn new(config: OidcConfig, public_url: &str, pool: PgPool) -> Result<Self, reqwest::Error> {
        issued::install();
        Ok(Self(Arc::new(Inner {
            discovery: Discovery::new(&config)?,
            admission: Admission::default(),
            callback: format!("{public_url}{CALLBACK}"),
            sealing: SharedSigningKey::new(pool.clone(), "operators' sign-in"),
            config,
            pool,
        })))
    }

    /// Where the provider is.
    pub fn host(&self) -> String {
        let url = Url::parse(&self.0.config.issuer).ok();
        let host = url.and_then(|url| url.host_str().map(str::to_owned));
        host.unwrap_or_default()
    }

    pub fn allows_passwords(&self) -> bool {
        self.0.config.allow_passwords
    }

    /// Where to send a browser, and what it keeps meanwhile.
    pub async fn begin(&self, next: &str) -> Result<(Url, String), Failure> {
        let begun = self.try_begin(next).await;
        if let Err(failure) = &begun {
            failed(failure);
        }
        begun
    }

    async fn try_begin(&self, next: &str) -> Result<(Url, String), Failure> {
        let config = &self.0.config;
        let provider = self.0.discovery.provider(config).await?;
        let flow = Flow {
            state: random(),
            nonce: random(),
            verifier: random(),
            next: next.to_owned(),
        };
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&flow.verifier));
        let mut url = provider.authorization.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &config.client_id)
            .append_pair("redirect_uri", &self.0.callback)
            .append_pair("scope", &config.scopes)
            .append_pair("state", &flow.state)
            .append_pair("nonce", &flow.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        let key = self.0.sealing.get().await?;
        Ok((url, sealed::seal(key, PURPOSE, &flow, Timestamp::now())))
    }

    /// Signs in whom the provider leads back: the session, and the page to go on to.
    pub async fn finish(
        &self,
        kept: &str,
        answered: Answered,
        client: &Client,
    ) -> Result<(Session, String), Failure> {
        let finished = self.try_finish(kept, answered, client).await;
        match &finished {
            Ok(_) => operators::oidc_sign_in("succeeded"),
            Err(failure) => failed(failure),
        }
        finished
    }

    async fn try_finish(
        &self,
        kept: &str,
        answered: Answered,
        client: &Client,
    ) -> Result<(Session, String), Failure> {
        let key = self.0.sealing.get().await?;
        let flow: Option<Flow> = sealed::open(key, PURPOSE, kept, Timestamp::now());
        let flow = flow.ok_or(Failure::BeginAgain)?;
        let state = answered.state.unwrap_or_default();
        if !bool::from(state.as_bytes().ct_eq(flow.state.as_bytes())) {
            return Err(Failure::BeginAgain);
        }
        // Whose answer it is, where the provider says so (RFC 9207).
        if answered.iss.is_some_and(|iss| iss != self.0.config.issuer) {
            return Err(Failure::lies("the answer is another issuer's (iss)"));
        }
        if let Some(error) = answered.error {
            return Err(Failure::Refused(error.chars().take(100).collect()));
        }
        let code = answered
            .code
            .filter(|code| !code.is_empty() && code.len() <= 4_096);
        let code = code.ok_or_else(|| Failure::lies("the answer has no code"))?;
        // Anybody can begin, and make a code up.
        let _admitted = self.0.admission.admit(client)?;
        let provider = self.0.discovery.provider(&self.0.config).await?;
        let tokens = self.tokens(&provider, &code, &flow.verifier).await?;
        let identity = self.identity(&provider, &tokens, &flow.nonce).await?;
        let session = self.enter(identity, client).await?;
        Ok((session, flow.next))
    }

    /// Changes the code for tokens.
    async fn tokens(
        &self,
        provider: &Provider,
        code: &str,
        verifier: &str,
    ) -> Result<Value, Failure> {
        let config = &self.0.config;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &*self.0.callback),
            ("code_verifier", verifier),
        ];
        let mut request = self.0.discovery.client().post(provider.token.clone());
        match &config.client_secret {
            Some(secret) if provider.secret_in_body => {
                form.extend([("client_id", &*config.client_id), ("client_secret", secret)]);
            }
            Some(secret) => {
                // As forms write them (RFC 6749, 2.3.1).
                let part = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
                request = request.basic_auth(part(&config.client_id), Some(part(secret)));
            }
            None => form.push(("client_id", &config.client_id)),
        }
        let (status, said): (_, Value) = answer(request.form(&form)).await?;
        match said["error"].as_str() {
            Some(error) => Err(Failure::Refused(error.chars().take(100).collect())),
            None if status == 200 => Ok(said),
            None => Err(Failure::Lies(format!(
                "its token endpoint answers {status}"
            ))),
        }
    }

    /// Who signed in, by the ID token, and by what else the provider tells where that does not
    /// name the groups.
    async fn identity(
        &self,
        provider: &Provider,
        tokens: &Value,
        nonce: &str,
    ) -> Result<Identity, Failure> {
        let token = tokens["id_token"].as_str();
        let token = token.ok_or_else(|| Failure::lies("it answers no ID token"))?;
        let head = form::head(token).map_err(|refusal| match refusal {
            issued::Refusal::Invalid(detail) => Failure::Lies(format!("its ID token: {detail}")),
            _ => Failure::lies("its ID token cannot be read"),
        })?;
        let key = provider
            .keys
            .find_named_by_issuer(&head.key_id, head.algorithm)
            .await;
        let key = key.map_err(|missing| match missing {
            jwks::Missing::Unknown => {
                Failure::lies("its ID token is signed with a key that it does not publish")
            }
            jwks::Missing::NoKeys => Failure::Unavailable("its keys cannot be read".to_owned()),
        })?;
        let (token, config) = (token.to_owned(), self.0.config.clone());
        let nonce = nonce.to_owned();
        let checking = tokio::task::spawn_blocking(move || {
            let now = Timestamp::now();
            claims::check(&token, head.algorithm, &key, &config, &nonce, now)
        });
        let checked = checking.await;
        let mut identity = checked.map_err(|error| Failure::Unavailable(error.to_string()))??;
        if identity.groups.is_none() || identity.email.is_none() {
            self.ask_more(provider, tokens, &mut identity).await?;
        }
        Ok(identity)
    }

    async fn ask_more(
        &self,
        provider: &Provider,
        tokens: &Value,
        identity: &mut Identity,
    ) -> Result<(), Failure> {
        let access = tokens["access_token"].as_str();
        let (Some(userinfo), Some(access)) = (&provider.userinfo, access) else {
            return Ok(());
        };
        let request = self.0.discovery.client().get(userinfo.clone());
        let (status, said): (_, Map<String, Value>) = answer(request.bearer_auth(access)).await?;
        if status != 200 {
            return Err(Failure::Lies(format!(
                "its userinfo endpoint answers {status}"
            )));
        }
        // It could be somebody else's.
        if said.get("sub").and_then(Value::as_str) != Some(&identity.subject) {
            return Err(Failure::lies("its userinfo is about another user (sub)"));
        }
        if identity.groups.is_none() {
            identity.groups = claims::groups(&said, &self.0.config);
        }
        if identity.email.is_none() {
            identity.email = claims::email(&said);
        }
        Ok(())
    }

    /// Gives the operator the role of their groups, and a session; takes both from who has none.
    async fn enter(&self, identity: Identity, client: &Client) -> Result<Session, Failure> {
        let config = &self.0.config;
        let role = claims::role(identity.groups.as_deref().unwrap_or_default(), config);
        let id = issued::user_id(&config.issuer, &identity.subject);
        let by = By::user(id, client);
        let mut tx = WorkerTx::begin(&self.0.pool).await?;
        let chains = audit::lock_chains(tx.conn(), &[audit::OPERATORS]).await?;
        let known = store::lock(tx.conn(), id).await?;
        if known.as_ref().is_some_and(|known| known.disabled) {
            return Err(Failure::Disabled);
        }
        let mut entries = Vec::new();
        let mut set = |before: Option<Role>| {
            let name = |role: Option<Role>| json!({"role": role.map(Role::as_str)});
            let before = Some(name(before));
            entries.push(by.entry(audit::OPERATORS, ROLE_SET, ("user", id), before, name(role)));
        };
        match (&known, role) {
            (None, None) => return Err(Failure::NoRole),
            (None, Some(role)) => {
                let address = store::free_address(tx.conn(), id, identity.email.as_deref());
                let address = address.await?;
                let subject = (&*config.issuer, &*identity.subject);
                store::insert(tx.conn(), id, &address, role, subject).await?;
                set(None);
            }
            (Some(Known { role: before, .. }), role) => {
                if *before != role {
                    store::set_role(tx.conn(), id, role).await?;
                    set(*before);
                }
                if role.is_none() {
                    auth_store::revoke_sessions_of(tx.conn(), id, None).await?;
                }
            }
        }
        audit::record(&mut tx, &chains, &entries).await?;
        let Some(role) = role else {
            tx.commit().await?;
            return Err(Failure::NoRole);
        };
        let account = auth_store::Account::operator(id, role);
        let way = Way::provider(&config.issuer);
        let session = sign_in::start_session(&mut tx, &account, role, way, client).await?;
        sign_in::enter_sign_in(&mut tx, &session, id, way, client).await?;
        tx.commit().await?;
        Ok(session)
    }
}

fn failed(failure: &Failure) {
    let outcome = match failure {
        Failure::Unavailable(_) | Failure::Lies(_) | Failure::Database(_) => {
            tracing::warn!(error = %failure, "Operators cannot sign in by their identity provider");
            "unavailable"
        }
        Failure::Refused(_)
        | Failure::BeginAgain
        | Failure::Busy
        | Failure::NoRole
        | Failure::Disabled => "refused",
    };
    operators::oidc_sign_in(outcome);
}

/// Asks the provider for its description once, for `doctor`.
pub async fn reach(config: &OidcConfig) -> Result<(), Failure> {
    let discovery = Discovery::new(config);
    let discovery = discovery.map_err(|error| Failure::Unavailable(error.to_string()))?;
    let provider = discovery.provider(config).await?;
    let keys = provider.keys.refresh_if_due().await;
    keys.map_err(Failure::Unavailable)
}
