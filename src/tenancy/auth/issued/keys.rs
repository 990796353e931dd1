//! The public keys of an issuer, of a JSON Web Key Set.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::form::{LONGEST_NAME, algorithm};

/// Keys of a set at most.
const MOST: usize = 100;
/// Characters of base64url of the shortest modulus that is accepted, of 2048 bits.
const SHORTEST_MODULUS: usize = 342;

/// A public key, and the algorithms that it is for.
pub struct Key {
    id: String,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

impl Key {
    pub fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }
}

#[derive(Default)]
pub struct KeySet(Vec<Arc<Key>>);

impl KeySet {
    /// The keys of a set with which tokens can be checked; others are left out, as sets
    /// may have them. An error says why there is none.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let set: Value =
            serde_json::from_slice(body).map_err(|_| "what it answers is not JSON".to_owned())?;
        let Some(keys) = set["keys"].as_array() else {
            return Err("what it answers is no JSON Web Key Set: it has no list `keys`".to_owned());
        };
        if keys.len() > MOST {
            return Err(format!("it has more than {MOST} keys"));
        }
        let usable: Vec<Arc<Key>> = keys.iter().filter_map(key).map(Arc::new).collect();
        if usable.is_empty() {
            return Err(
                "none of its keys can be used: a kid, use sig, and RSA of 2048 bits or more, P-256, \
                 P-384 or Ed25519 are needed"
                    .to_owned(),
            );
        }
        Ok(Self(usable))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The key of this name that is for this algorithm.
    pub fn find(&self, id: &str, algorithm: Algorithm) -> Option<Arc<Key>> {
        let mut named = self.0.iter().filter(|key| key.id == id);
        named
            .find(|key| key.algorithms.contains(&algorithm))
            .cloned()
    }
}

fn key(value: &Value) -> Option<Key> {
    let text = |name: &str| value[name].as_str();
    let id = text("kid").filter(|id| !id.is_empty() && id.len() <= LONGEST_NAME)?;
    let signs = value.get("use").is_none_or(|purpose| purpose == "sig");
    let verifies = value.get("key_ops").is_none_or(|operations| {
        let listed = operations.as_array().into_iter().flatten();
        listed.into_iter().any(|operation| operation == "verify")
    });
    if !signs || !verifies {
        return None;
    }
    let (mut algorithms, decoding) = match (text("kty")?, text("crv")) {
        ("RSA", None) => {
            let (n, e) = (text("n")?, text("e")?);
            let long = n.len() >= SHORTEST_MODULUS;
            let key = long.then(|| DecodingKey::from_rsa_components(n, e));
            let named = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
            (named.into_iter().filter_map(algorithm).collect(), key?)
        }
        ("EC", Some("P-256")) => (vec![Algorithm::ES256], of_curve(value)?),
        ("EC", Some("P-384")) => (vec![Algorithm::ES384], of_curve(value)?),
        ("OKP", Some("Ed25519")) => {
            let key = DecodingKey::from_ed_components(text("x")?);
            (vec![Algorithm::EdDSA], key)
        }
        _ => return None,
    };
    if let Some(named) = value.get("alg") {
        let only = algorithm(named.as_str()?)?;
        algorithms.retain(|one: &Algorithm| *one == only);
    }
    let decoding = decoding.ok().filter(|_| !algorithms.is_empty())?;
    Some(Key {
        id: id.to_owned(),
        algorithms,
        decoding,
    })
}

fn of_curve(value: &Value) -> Option<Result<DecodingKey, jsonwebtoken::errors::Error>> {
    let (x, y) = (value["x"].as_str()?, value["y"].as_str()?);
    Some(DecodingKey::from_ec_components(x, y))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rsa(change: Value) -> Value {
        let mut key =
            json!({"kty": "RSA", "kid": "r", "n": format!("{}Q", "u".repeat(341)), "e": "AQAB"});
        for (name, value) in change.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    }

    fn parse(keys: &[Value]) -> Result<KeySet, String> {
        KeySet::parse(json!({"keys": keys}).to_string().as_bytes())
    }

    #[test]
    fn a_key_is_for_what_it_says() {
        let any = parse(&[rsa(json!({}))]).unwrap();
        assert!(any.find("r", Algorithm::PS512).is_some());
        assert!(any.find("r", Algorithm::ES256).is_none());
        assert!(any.find("s", Algorithm::RS256).is_none());
        let one = parse(&[rsa(
            json!({"alg": "RS256", "use": "sig", "key_ops": ["verify"]}),
        )]);
        let one = one.unwrap();
        assert!(one.find("r", Algorithm::RS256).is_some());
        assert!(one.find("r", Algorithm::PS256).is_none());
    }

    #[test]
    fn keys_of_other_uses_are_left_out() {
        for other in [
            json!({"use": "enc"}),
            json!({"use": null}),
            json!({"key_ops": ["encrypt"]}),
            json!({"alg": "HS256"}),
            json!({"alg": "ES256"}),
            json!({"alg": "RSA-OAEP"}),
            json!({"kid": ""}),
            json!({"kid": 1}),
            json!({"kty": "oct", "k": "c2VjcmV0"}),
            json!({"n": "u".repeat(341)}),
            json!({"n": "*".repeat(342)}),
            json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}),
        ] {
            assert!(parse(&[rsa(other.clone())]).is_err(), "{other}");
            assert_eq!(parse(&[rsa(other), rsa(json!({}))]).unwrap().len(), 1);
        }
        assert!(parse(&[]).is_err());
        let many: Vec<Value> = (0..=MOST).map(|_| rsa(json!({}))).collect();
        assert!(parse(&many).is_err());
        for body in ["", "[]", "{}", r#"{"keys": {}}"#, "null"] {
            assert!(KeySet::parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
