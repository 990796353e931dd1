//! What an ID token says, and which role its groups give. Pure, but for the signature's library.

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;

use super::Failure;
use crate::config::OidcConfig;
use crate::tenancy::auth::Role;
use crate::tenancy::auth::issued::keys::Key;
use crate::tenancy::auth::issued::strict::Strict;
use crate::tenancy::auth::users::is_address;

/// How far the provider's clock may be from ours.
const SKEW_SECS: u64 = 60;
const LONGEST_SUBJECT: usize = 255;

/// Who signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub subject: String,
    pub email: Option<String>,
    /// None: the token says nothing of groups.
    pub groups: Option<Vec<String>>,
}

/// Checks the signature of an ID token, whose it is, and that it answers what was asked.
pub fn check(
    token: &str,
    algorithm: Algorithm,
    key: &Key,
    config: &OidcConfig,
    nonce: &str,
    now: Timestamp,
) -> Result<Identity, Failure> {
    let mut wanted = Validation::new(algorithm);
    wanted.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    wanted.set_issuer(&[&config.issuer]);
    wanted.set_audience(&[&config.client_id]);
    wanted.validate_nbf = true;
    wanted.leeway = SKEW_SECS;
    let decoded = jsonwebtoken::decode::<Strict>(token, key.decoding(), &wanted);
    let decoded = decoded.map_err(|error| Failure::Lies(format!("its ID token: {error}")))?;
    match decoded.claims {
        Strict(Value::Object(claims)) => read(&claims, config, nonce, now),
        Strict(_) => Err(Failure::lies("its ID token's claims are no JSON object")),
    }
}

fn read(
    claims: &Map<String, Value>,
    config: &OidcConfig,
    nonce: &str,
    now: Timestamp,
) -> Result<Identity, Failure> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(&config.issuer) {
        return Err(Failure::lies("its ID token is another issuer's"));
    }
    let several = claims.get("aud").and_then(Value::as_array);
    let several = several.is_some_and(|all| all.len() > 1);
    if (several || claims.contains_key("azp")) && text("azp") != Some(&config.client_id) {
        return Err(Failure::lies(
            "its ID token was made for another client (azp)",
        ));
    }
    // A token of another sign-in is not taken for this one's.
    let said = text("nonce").unwrap_or_default();
    if said.is_empty() || !bool::from(said.as_bytes().ct_eq(nonce.as_bytes())) {
        return Err(Failure::lies(
            "its ID token answers another sign-in (nonce)",
        ));
    }
    let latest = now.as_second().saturating_add(SKEW_SECS.cast_signed());
    let issued = claims.get("iat").and_then(Value::as_i64);
    if issued.is_none_or(|at| at > latest) {
        return Err(Failure::lies(
            "its ID token was issued in the future (iat): compare the clocks",
        ));
    }
    let subject = text("sub").filter(|sub| !sub.is_empty() && sub.len() <= LONGEST_SUBJECT);
    Ok(Identity {
        subject: subject
            .ok_or_else(|| Failure::lies("its ID token's sub is not the id of a user"))?
            .to_owned(),
        email: email(claims),
        groups: groups(claims, config),
    })
}

/// The address, where it is one.
pub fn email(claims: &Map<String, Value>) -> Option<String> {
    let email = claims.get("email")?.as_str()?;
    is_address(email).then(|| email.to_owned())
}

/// The groups of the claim: a list of names, or one.
pub fn groups(claims: &Map<String, Value>, config: &OidcConfig) -> Option<Vec<String>> {
    match claims.get(&config.groups_claim)? {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(all) => {
            let names = all.iter().filter_map(Value::as_str);
            Some(names.map(str::to_owned).collect())
        }
        _ => Some(Vec::new()),
    }
}

/// The role that groups give: the one that may do more; none for groups that are not named.
pub fn role(groups: &[String], config: &OidcConfig) -> Option<Role> {
    let has = |group: &Option<String>| group.as_ref().is_some_and(|name| groups.contains(name));
    if has(&config.operator_group) {
        Some(Role::Operator)
    } else if has(&config.readonly_group) {
        Some(Role::OperatorRead)
    } else {
        None
    }
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
            readonly_group: Some("support".to_owned()),
            groups_claim: "groups".to_owned(),
            scopes: "openid".to_owned(),
            allow_passwords: false,
        }
    }

    #[test]
    fn only_named_groups_give_a_role() {
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            role(&names, &config())
        };
        assert_eq!(of(&["a", "ops"]), Some(Role::Operator));
        assert_eq!(of(&["support"]), Some(Role::OperatorRead));
        assert_eq!(of(&["support", "ops"]), Some(Role::Operator));
        for none in [&[][..], &["Ops"], &["operator"], &["ops "], &["opsx"]] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }

    #[test]
    fn claims_are_read_strictly() {
        let now = Timestamp::now();
        let whole = json!({"iss": "https://id.example.com", "aud": "billing", "sub": "u",
                           "nonce": "n", "iat": now.as_second() + 59, "groups": ["ops", 1],
                           "email": "jo@example.com"});
        let of = |member: &str, value: Value| {
            let mut claims = whole.as_object().unwrap().clone();
            claims.insert(member.to_owned(), value);
            read(&claims, &config(), "n", now)
        };
        let found = of("x", json!(1)).unwrap();
        assert_eq!(found.groups, Some(vec!["ops".to_owned()]));
        assert_eq!(found.email.as_deref(), Some("jo@example.com"));
        assert!(of("azp", json!("billing")).is_ok());
        assert_eq!(
            of("groups", json!("ops")).unwrap().groups,
            Some(vec!["ops".to_owned()])
        );
        assert_eq!(
            of("groups", json!({"ops": true})).unwrap().groups,
            Some(Vec::new())
        );
        assert_eq!(of("email", json!("no address")).unwrap().email, None);
        for (member, value) in [
            ("iss", json!("https://id.example.com/")),
            ("nonce", json!("m")),
            ("nonce", json!("")),
            ("nonce", json!(null)),
            ("azp", json!("another")),
            ("aud", json!(["billing", "another"])),
            ("iat", json!(now.as_second() + 62)),
            ("iat", json!("now")),
            ("sub", json!("")),
            ("sub", json!("x".repeat(256))),
        ] {
            assert!(of(member, value.clone()).is_err(), "{member} {value}");
        }
    }
}
