//! What the identity provider says of itself, read when it is needed and again when it is old.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Failure;
use crate::config::{self, OidcConfig};
use crate::http_client;
use crate::tenancy::auth::issued::jwks::Jwks;

/// How long what it says is used. Its keys are read again with it.
const OLD_AFTER: Duration = Duration::from_secs(300);
/// After a failure, it is not asked again at once, however many want to sign in.
const ASKED_EVERY: Duration = Duration::from_secs(2);
/// How long one call may take.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer at most.
const LARGEST: usize = 256 * 1024;

/// What the provider says of itself.
pub struct Provider {
    pub authorization: Url,
    pub token: Url,
    /// Where it tells more of who signed in.
    pub userinfo: Option<Url>,
    /// Whether it takes the client's secret in the body alone.
    pub secret_in_body: bool,
    pub keys: Arc<Jwks>,
}

pub struct Discovery {
    client: Client,
    address: Url,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    provider: Option<(Arc<Provider>, Instant)>,
    failed: Option<(Failure, Instant)>,
}

impl Discovery {
    pub fn new(config: &OidcConfig) -> Result<Self, reqwest::Error> {
        let issuer = config.issuer.trim_end_matches('/');
        let address = format!("{issuer}/.well-known/openid-configuration");
        let address = Url::parse(&address).expect("an issuer that was checked");
        Ok(Self {
            client: client(&address)?,
            address,
            held: Mutex::default(),
        })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What it says now, or said a moment ago.
    pub async fn provider(&self, config: &OidcConfig) -> Result<Arc<Provider>, Failure> {
        let mut held = self.held.lock().await;
        if let Some((provider, at)) = &held.provider
            && at.elapsed() < OLD_AFTER
        {
            return Ok(provider.clone());
        }
        if let Some((failure, at)) = &held.failed
            && at.elapsed() < ASKED_EVERY
        {
            return Err(failure.clone());
        }
        match self.read(config).await {
            Ok(provider) => {
                let provider = Arc::new(provider);
                held.provider = Some((provider.clone(), Instant::now()));
                held.failed = None;
                Ok(provider)
            }
            Err(failure) => {
                held.failed = Some((failure.clone(), Instant::now()));
                Err(failure)
            }
        }
    }

    async fn read(&self, config: &OidcConfig) -> Result<Provider, Failure> {
        let request = self.client.get(self.address.clone());
        let (status, said): (_, Value) = answer(request).await?;
        if status != 200 {
            return Err(Failure::Unavailable(format!(
                "its discovery answers {status}"
            )));
        }
        parse(&said, config)
    }
}

fn parse(said: &Value, config: &OidcConfig) -> Result<Provider, Failure> {
    // Another issuer's tokens would be taken for this one's.
    if said["issuer"].as_str() != Some(&config.issuer) {
        return Err(Failure::lies(
            "its discovery is another issuer's than OIDC_ISSUER",
        ));
    }
    let address = |name: &str| {
        let url = said[name].as_str().and_then(|text| Url::parse(text).ok());
        let url = url.filter(|url| url.scheme() == "https" || config::is_loopback(url));
        url.ok_or_else(|| Failure::Lies(format!("its discovery has no {name} by https")))
    };
    let methods = said["token_endpoint_auth_methods_supported"].as_array();
    let takes = |name: &str| methods.is_some_and(|methods| methods.iter().any(|one| one == name));
    let keys = Jwks::new(address("jwks_uri")?, "the operators' identity provider");
    Ok(Provider {
        authorization: address("authorization_endpoint")?,
        token: address("token_endpoint")?,
        userinfo: match said.get("userinfo_endpoint") {
            None | Some(Value::Null) => None,
            Some(_) => Some(address("userinfo_endpoint")?),
        },
        secret_in_body: takes("client_secret_post") && !takes("client_secret_basic"),
        keys: Arc::new(keys.map_err(|error| Failure::Unavailable(error.to_string()))?),
    })
}

fn client(url: &Url) -> Result<Client, reqwest::Error> {
    if config::is_loopback(url) {
        http_client::direct_client()
    } else {
        http_client::http_client()
    }
}

/// A JSON answer of the provider's, which may neither take long nor be large.
pub async fn answer<T: DeserializeOwned>(
    request: reqwest::RequestBuilder,
) -> Result<(u16, T), Failure> {
    let unavailable = |error| Failure::Unavailable(http_client::reason(error));
    let request = request
        .timeout(TIMEOUT)
        .header("accept", "application/json");
    let mut answer = request.send().await.map_err(unavailable)?;
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(unavailable)? {
        if body.len() + piece.len() > LARGEST {
            return Err(Failure::Lies(format!(
                "what it answers is longer than {LARGEST} bytes"
            )));
        }
        body.extend_from_slice(&piece);
    }
    if status >= 500 {
        return Err(Failure::Unavailable(format!("it answers {status}")));
    }
    let said = serde_json::from_slice(&body);
    let said =
        said.map_err(|_| Failure::lies("what it answers is not the JSON of the protocol"))?;
    Ok((status, said))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config() -> OidcConfig {
        OidcConfig {
            issuer: "https://id.example.com".to_owned(),
            client_id: "billing".to_owned(),
            client_secret: None,
            operator_group: Some("ops".to_owned()),
            readonly_group: None,
            groups_claim: "groups".to_owned(),
            scopes: "openid".to_owned(),
            allow_passwords: false,
        }
    }

    #[test]
    fn it_is_the_issuers_own_and_by_https() {
        let whole = json!({
            "issuer": "https://id.example.com",
            "authorization_endpoint": "https://id.example.com/auth",
            "token_endpoint": "https://id.example.com/token",
            "jwks_uri": "https://keys.example.com/jwks",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        });
        let found = parse(&whole, &config()).unwrap();
        assert!(found.secret_in_body && found.userinfo.is_none());
        for (member, value) in [
            ("issuer", json!("https://id.example.com/")),
            ("issuer", json!("https://evil.example.com")),
            ("issuer", json!(null)),
            (
                "authorization_endpoint",
                json!("http://id.example.com/auth"),
            ),
            ("token_endpoint", json!("javascript:alert(1)")),
            ("jwks_uri", json!(null)),
            ("userinfo_endpoint", json!("http://id.example.com/me")),
        ] {
            let mut wrong = whole.clone();
            wrong[member] = value.clone();
            assert!(parse(&wrong, &config()).is_err(), "{member} {value}");
        }
    }
}
