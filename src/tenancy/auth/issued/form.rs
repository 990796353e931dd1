//! A token's form and its header, which say with what it is to be checked.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::Value;

use super::Refusal;
use super::strict::Strict;

/// Bytes of a token at most.
const LONGEST: usize = 8 * 1024;
/// Bytes at most of the name of a key, or of a user.
pub const LONGEST_NAME: usize = 255;

/// The algorithms that are accepted: the issuer alone can sign with them.
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// An algorithm that is accepted, by its name.
pub fn algorithm(name: &str) -> Option<Algorithm> {
    let mut all = ALGORITHMS.into_iter();
    all.find_map(|(known, algorithm)| (known == name).then_some(algorithm))
}

/// Whether a credential is a JWT by its look. None of our own has a dot.
pub fn has_form(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// What a token's header says.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub algorithm: Algorithm,
    pub key_id: String,
}

/// Reads the header of a token, of which nothing is believed yet.
pub fn head(token: &str) -> Result<Head, Refusal> {
    if token.len() > LONGEST {
        return Err(Refusal::Invalid(format!(
            "the token is longer than {LONGEST} bytes"
        )));
    }
    let malformed = || {
        Refusal::invalid(
            "the token's header is not JSON with each name once, in base64url without padding",
        )
    };
    let encoded = token.split('.').next().unwrap_or_default();
    let header = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| malformed())?;
    let Ok(Strict(Value::Object(header))) = serde_json::from_slice(&header) else {
        return Err(malformed());
    };
    let text = |name: &str| header.get(name).and_then(Value::as_str);
    // What must be understood to be checked is not.
    if header.contains_key("crit") || header.contains_key("b64") {
        return Err(Refusal::invalid(
            "the token's header has crit or b64, which are not understood here",
        ));
    }
    let kind = header.get("typ").map(|kind| kind.as_str().unwrap_or(""));
    if kind.is_some_and(|kind| !is_access_token(kind)) {
        return Err(Refusal::invalid(
            "the token is of another kind: its typ is neither JWT nor at+jwt",
        ));
    }
    let algorithm = text("alg").and_then(algorithm).ok_or_else(|| {
        let known: Vec<&str> = ALGORITHMS.map(|(name, _)| name).to_vec();
        Refusal::Invalid(format!("the token's alg is none of {}", known.join(", ")))
    })?;
    let key_id = text("kid").filter(|id| !id.is_empty() && id.len() <= LONGEST_NAME);
    let key_id = key_id.ok_or_else(|| {
        Refusal::invalid("the token does not name its key (kid), in 1 to 255 bytes")
    })?;
    Ok(Head {
        algorithm,
        key_id: key_id.to_owned(),
    })
}

/// Tokens for logging out, or about events, are signed with the same keys.
fn is_access_token(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    let kind = kind.strip_prefix("application/").unwrap_or(&kind);
    matches!(kind, "jwt" | "at+jwt")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str) -> String {
        format!("{}.e30.c2ln", URL_SAFE_NO_PAD.encode(header))
    }

    #[test]
    fn a_header_names_an_algorithm_and_a_key() {
        let good =
            token(r#"{"alg": "ES256", "kid": "k", "typ": "application/AT+JWT", "jku": "x"}"#);
        let read = Head {
            algorithm: Algorithm::ES256,
            key_id: "k".to_owned(),
        };
        assert_eq!(head(&good), Ok(read));
        let long = format!(r#"{{"alg": "ES256", "kid": "{}"}}"#, "k".repeat(256));
        for wrong in [
            r#"{"alg": "none", "kid": "k"}"#,
            r#"{"alg": "None", "kid": "k"}"#,
            r#"{"alg": "HS256", "kid": "k"}"#,
            r#"{"alg": "es256", "kid": "k"}"#,
            r#"{"kid": "k"}"#,
            r#"{"alg": "ES256"}"#,
            r#"{"alg": "ES256", "kid": ""}"#,
            r#"{"alg": "ES256", "kid": 7}"#,
            r#"{"alg": "ES256", "kid": "k", "crit": ["exp"], "exp": 1}"#,
            r#"{"alg": "ES256", "kid": "k", "crit": []}"#,
            r#"{"alg": "ES256", "kid": "k", "b64": true}"#,
            r#"{"alg": "ES256", "kid": "k", "typ": "logout+jwt"}"#,
            r#"{"alg": "ES256", "kid": "k", "typ": 1}"#,
            r#"{"alg": "none", "alg": "ES256", "kid": "k"}"#,
            r#"["ES256", "k"]"#,
            "no JSON",
            &long,
        ] {
            assert!(head(&token(wrong)).is_err(), "{wrong}");
        }
        for wrong in [
            format!("{good}{}", "x".repeat(LONGEST)),
            "é.e30.x".to_owned(),
        ] {
            assert!(head(&wrong).is_err());
        }
        assert!(has_form(&good) && !has_form("vck_ab") && !has_form("a.b.c.d"));
    }
}
