//! Access tokens (JWTs) of the product's own users, signed by its issuer.
//!
//! Cheap before expensive: the form, the algorithm and the key's name come first, and only
//! a token that names a key of the issuer's has its signature checked, on a blocking
//! thread. Nothing in a token is believed before that.

pub(super) mod form;
pub(super) mod jwks;
pub(super) mod keys;
mod signatures;
pub(super) mod strict;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, TokenData, Validation};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::Role;
use super::principal::unauthenticated;
use crate::config::IssuerConfig;
use crate::limits;
use crate::server::problem::Problem;
use crate::telemetry::metrics;
use crate::tenancy::names;
pub use form::has_form;
use jwks::{Jwks, Missing};
pub use jwks::{POLL, fetch};
use keys::Key;
pub(super) use signatures::install;
use strict::Strict;

/// How far the issuer's clock may be from ours.
const SKEW_SECS: u64 = 60;

/// How long a token waits for a thread that checks its signature.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The user's id here: always the same for one issuer and `sub`.
    pub user_id: Uuid,
    /// What the token calls the organization.
    pub organization: Arc<str>,
    /// None: it has none that is one here.
    pub role: Option<Role>,
}

/// Checks tokens of one issuer.
#[derive(Clone)]
pub struct Issuer {
    config: Arc<IssuerConfig>,
    jwks: Arc<Jwks>,
    checking: Arc<Semaphore>,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Invalid(String),
    /// It cannot be told whether it is valid.
    NoKeys,
    Busy,
}

impl Refusal {
    fn invalid(detail: &str) -> Self {
        Self::Invalid(detail.to_owned())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(detail) => unauthenticated(&detail),
            Refusal::NoKeys => Self::unavailable(
                "signing_keys_unavailable",
                "the keys of the tokens' issuer cannot be read at the moment, so that no token can \
                 be checked; try again",
            ),
            Refusal::Busy => Self::unavailable(
                "token_checks_busy",
                "too many tokens are being checked at the moment; try again",
            ),
        }
    }
}

impl Issuer {
    pub fn new(config: IssuerConfig) -> Result<Self, reqwest::Error> {
        install();
        Ok(Self {
            jwks: Arc::new(Jwks::new(config.jwks_url.clone(), "AUTH_JWKS_URL")?),
            config: Arc::new(config),
            checking: Arc::new(Semaphore::new(limits::TOKEN_CHECKS)),
        })
    }

    /// Reads the issuer's keys again, if it is time to.
    pub async fn keep_keys(&self) -> Result<(), String> {
        self.jwks.refresh_if_due().await
    }

    /// What the token says, if it is valid now.
    pub async fn check(&self, token: Arc<str>) -> Result<Issued, Refusal> {
        let checked = self.try_check(token).await;
        metrics::issued_token(match &checked {
            Ok(_) => "accepted",
            Err(Refusal::Invalid(_)) => "refused",
            Err(Refusal::NoKeys | Refusal::Busy) => "unavailable",
        });
        checked
    }

    async fn try_check(&self, token: Arc<str>) -> Result<Issued, Refusal> {
        let head = form::head(&token)?;
        let found = self.jwks.find(&head.key_id, head.algorithm).await;
        let key = found.map_err(|missing| match missing {
            Missing::Unknown => Refusal::invalid(
                "the token names a key (kid) that its issuer does not publish for this algorithm; \
                 log in again",
            ),
            Missing::NoKeys => Refusal::NoKeys,
        })?;
        let turn = tokio::time::timeout(PATIENCE, self.checking.clone().acquire_owned());
        let turn = turn.await.map_err(|_| Refusal::Busy)?;
        let permit = turn.map_err(|_| Refusal::Busy)?;
        let config = self.config.clone();
        let checking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            check(&token, head.algorithm, &key, &config, Timestamp::now())
        });
        checking.await.map_err(|_| Refusal::Busy)?
    }
}

/// Checks the signature, and then what it is about.
fn check(
    token: &str,
    algorithm: Algorithm,
    key: &Key,
    config: &IssuerConfig,
    now: Timestamp,
) -> Result<Issued, Refusal> {
    let mut wanted = Validation::new(algorithm);
    wanted.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    wanted.set_issuer(&[&config.issuer]);
    wanted.set_audience(&[&config.audience]);
    wanted.validate_nbf = true;
    wanted.leeway = SKEW_SECS;
    let decoded = jsonwebtoken::decode::<Strict>(token, key.decoding(), &wanted);
    let TokenData { claims, .. } = decoded.map_err(|error| said(&error, config))?;
    let Strict(Value::Object(claims)) = claims else {
        return Err(Refusal::invalid("the token's claims are no JSON object"));
    };
    read(&claims, config, now)
}

fn read(
    claims: &Map<String, Value>,
    config: &IssuerConfig,
    now: Timestamp,
) -> Result<Issued, Refusal> {
    // A list with the issuer in it would do for the library.
    if claims.get("iss").and_then(Value::as_str) != Some(&config.issuer) {
        return Err(other_issuer());
    }
    let latest = now.as_second().saturating_add(SKEW_SECS.cast_signed());
    let in_time = match claims.get("iat") {
        None => true,
        Some(at) => at
            .as_f64()
            .is_some_and(|at| at.is_finite() && at as i64 <= latest),
    };
    if !in_time {
        return Err(Refusal::invalid(
            "the token was issued in the future (iat): compare the issuer's clock with this one",
        ));
    }
    let subject = claims.get("sub").and_then(Value::as_str);
    let subject = subject.filter(|sub| !sub.is_empty() && sub.len() <= form::LONGEST_NAME);
    let subject = subject.ok_or_else(|| {
        Refusal::invalid("the token's sub is not the id of a user: 1 to 255 bytes of text")
    })?;
    let organization = claim(claims, &config.organization_claim).and_then(Value::as_str);
    let organization = organization
        .filter(|name| names::is_external_id(name))
        .ok_or_else(|| {
            Refusal::Invalid(format!(
                "the token names no organization: its claim {} is to be the external id or id of one",
                config.organization_claim
            ))
        })?;
    Ok(Issued {
        user_id: user_id(&config.issuer, subject),
        organization: organization.into(),
        role: role(claim(claims, &config.role_claim), config),
    })
}

/// A claim by its name; behind a slash, by a JSON pointer.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let Some(pointer) = name.strip_prefix('/') else {
        return claims.get(name);
    };
    let plain = |part: &str| part.replace("~1", "/").replace("~0", "~");
    let mut parts = pointer.split('/').map(plain);
    let first = claims.get(&parts.next()?);
    parts.fold(first, |found, part| found?.as_object()?.get(&part))
}

/// The role of the claim: one name, or several, of which the one that may do most counts.
fn role(claim: Option<&Value>, config: &IssuerConfig) -> Option<Role> {
    let names: Vec<&str> = match claim? {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    let ours = |name: &&str| Role::named(config.roles.get(*name)?);
    let given: Vec<Role> = names.iter().filter_map(ours).collect();
    let falling = [Role::Owner, Role::BillingManager, Role::Member];
    falling.into_iter().find(|role| given.contains(role))
}

/// The same on every replica and for ever: a uuid of version 5 of the `sub`, in the
/// namespace of the issuer.
pub(super) fn user_id(issuer: &str, subject: &str) -> Uuid {
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, issuer.as_bytes());
    Uuid::new_v5(&namespace, subject.as_bytes())
}

fn other_issuer() -> Refusal {
    Refusal::invalid("the token is another issuer's: its iss is not AUTH_ISSUER")
}

fn said(error: &Error, config: &IssuerConfig) -> Refusal {
    match error.kind() {
        ErrorKind::ExpiredSignature => {
            Refusal::invalid("the token has expired (exp); refresh it or log in again")
        }
        ErrorKind::ImmatureSignature => Refusal::invalid("the token is not valid yet (nbf)"),
        ErrorKind::InvalidIssuer => other_issuer(),
        ErrorKind::InvalidAudience => Refusal::Invalid(format!(
            "the token is for another service: its aud does not have {}",
            config.audience
        )),
        ErrorKind::MissingRequiredClaim(claim) => {
            Refusal::Invalid(format!("the token has no usable {claim}"))
        }
        ErrorKind::InvalidClaimFormat(claim) => {
            Refusal::Invalid(format!("the token's {claim} is malformed"))
        }
        ErrorKind::InvalidSignature => {
            Refusal::invalid("the token's signature is not that of the key that it names")
        }
        ErrorKind::Json(_) | ErrorKind::Utf8(_) | ErrorKind::Base64(_) => Refusal::invalid(
            "the token's claims are not JSON with each name once, in base64url without padding",
        ),
        _ => Refusal::invalid("the token is malformed"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(roles: &[(&str, &str)]) -> IssuerConfig {
        let roles = roles.iter();
        IssuerConfig {
            jwks_url: "https://id.example.com/jwks".parse().unwrap(),
            issuer: "https://id.example.com/".to_owned(),
            audience: "billing".to_owned(),
            organization_claim: "org_id".to_owned(),
            role_claim: "role".to_owned(),
            roles: roles
                .map(|(theirs, ours)| ((*theirs).to_owned(), (*ours).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_claim_has_a_name_or_a_way_to_it() {
        let claims = json!({
            "https://acme.example/org": "a", "org.id": "b", "app": {"org/id": "c", "x": [{"id": "d"}]},
        });
        let claims = claims.as_object().unwrap();
        let found = |name| claim(claims, name).and_then(Value::as_str);
        assert_eq!(found("https://acme.example/org"), Some("a"));
        assert_eq!(found("org.id"), Some("b"));
        assert_eq!(found("/app/org~1id"), Some("c"));
        for none in ["app.x", "/app/org", "/app/x/0/id", "/org.id/x", "/", "id"] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    #[test]
    fn only_mapped_roles_give_anything() {
        let config = config(&[("admin", "owner"), ("finance", "billing_manager")]);
        let of = |claim: Value| role(Some(&claim), &config);
        assert_eq!(of(json!("admin")), Some(Role::Owner));
        assert_eq!(of(json!(["x", "finance"])), Some(Role::BillingManager));
        assert_eq!(of(json!(["finance", "admin"])), Some(Role::Owner));
        for none in [
            json!("owner"),
            json!("operator"),
            json!("Admin"),
            json!([]),
            json!({"admin": true}),
            json!(null),
        ] {
            assert_eq!(of(none.clone()), None, "{none}");
        }
        assert_eq!(role(None, &config), None);
        let operator = self::config(&[("admin", "operator")]);
        assert_eq!(role(Some(&json!("admin")), &operator), None);
    }

    #[test]
    fn a_user_has_one_id_with_one_issuer() {
        let id = user_id("https://id.example.com/", "auth0|1");
        assert_eq!(id, user_id("https://id.example.com/", "auth0|1"));
        assert_eq!(id.get_version_num(), 5);
        assert_ne!(id, user_id("https://id.example.com", "auth0|1"));
        assert_ne!(id, user_id("https://id.example.com/", "auth0|2"));
    }

    #[test]
    fn what_a_token_says_is_read_strictly() {
        let (config, now) = (config(&[("owner", "owner")]), Timestamp::now());
        let whole = json!({"iss": "https://id.example.com/", "sub": "u", "org_id": "acme",
                           "role": "owner", "iat": now.as_second() + 59});
        let of = |member: &str, value: Value| {
            let mut claims = whole.as_object().unwrap().clone();
            claims.insert(member.to_owned(), value);
            read(&claims, &config, now)
        };
        assert_eq!(of("x", json!(1)).unwrap().role, Some(Role::Owner));
        for (member, value) in [
            ("iss", json!(["https://id.example.com/"])),
            ("iss", json!("https://id.example.com")),
            ("iat", json!(now.as_second() + 62)),
            ("iat", json!("now")),
            ("iat", json!(1e300)),
            ("sub", json!("")),
            ("sub", json!(7)),
            ("sub", json!("x".repeat(256))),
            ("org_id", json!(null)),
            ("org_id", json!(["acme"])),
            ("org_id", json!(" acme")),
        ] {
            assert!(of(member, value.clone()).is_err(), "{member} {value}");
        }
    }
}
