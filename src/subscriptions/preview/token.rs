//! The preview token: what was shown, sealed, so that a change can be held to
//! it. Nothing is stored; whoever holds the key can check it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::tenancy::signing::{Key, ServiceKey};

/// How long a preview holds at most.
pub const LIFETIME: SignedDuration = SignedDuration::from_mins(15);

/// What a preview promised, and in which state of things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub organization_id: Uuid,
    pub plan_tier: String,
    /// Fingerprint of the subscription; none where there was none.
    pub subscription: Option<String>,
    pub catalogue: String,
    /// The time that proration counts from, on the customer's clock.
    pub effective_at: Timestamp,
    pub currency: String,
    /// All in minor units.
    pub prorated_amount: i64,
    pub due_now_amount: i64,
    pub next_invoice_amount: i64,
    pub expires_at: Timestamp,
}

/// Seals and opens promises, with a key that all replicas share.
#[derive(Clone)]
pub struct Sealer(ServiceKey);

impl Sealer {
    pub fn new(pool: PgPool) -> Self {
        Self(ServiceKey::new(pool, "preview tokens"))
    }

    pub async fn seal(&self, promise: &Promise) -> Result<String, sqlx::Error> {
        Ok(seal(self.0.get().await?, promise))
    }

    /// The promise in `token`, if it was sealed with this key.
    pub async fn open(&self, token: &str) -> Result<Option<Promise>, sqlx::Error> {
        Ok(open(self.0.get().await?, token))
    }
}

fn keyed(key: &Key) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key may have any length")
}

fn seal(key: &Key, promise: &Promise) -> String {
    let content = serde_json::to_vec(promise).expect("a promise is plain data");
    let mut mac = keyed(key);
    mac.update(&content);
    let seal = mac.finalize().into_bytes();
    format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(content),
        URL_SAFE_NO_PAD.encode(seal)
    )
}

fn open(key: &Key, token: &str) -> Option<Promise> {
    let (content, seal) = token.split_once('.')?;
    let content = URL_SAFE_NO_PAD.decode(content).ok()?;
    let mut mac = keyed(key);
    mac.update(&content);
    mac.verify_slice(&URL_SAFE_NO_PAD.decode(seal).ok()?).ok()?;
    serde_json::from_slice(&content).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise() -> Promise {
        Promise {
            organization_id: Uuid::from_u128(1),
            plan_tier: "standard".to_owned(),
            subscription: None,
            catalogue: "c1".to_owned(),
            effective_at: Timestamp::from_second(1_760_000_000).unwrap(),
            currency: "usd".to_owned(),
            prorated_amount: -4_550,
            due_now_amount: 0,
            next_invoice_amount: 9_900,
            expires_at: Timestamp::from_second(1_760_000_900).unwrap(),
        }
    }

    #[test]
    fn a_sealed_promise_opens_as_it_was() {
        let token = seal(&[1; 32], &promise());
        assert_eq!(open(&[1; 32], &token), Some(promise()));
        assert_eq!(open(&[2; 32], &token), None);
    }

    #[test]
    fn a_token_changed_anywhere_does_not_open() {
        let token = seal(&[1; 32], &promise());
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last character has bits that no byte needs.
            if changed != token && at + 1 < token.len() {
                assert_eq!(open(&[1; 32], &changed), None, "at {at}");
            }
        }
        for wrong in ["", ".", "a.b", &token[..token.len() - 2]] {
            assert_eq!(open(&[1; 32], wrong), None, "{wrong}");
        }
    }
}
