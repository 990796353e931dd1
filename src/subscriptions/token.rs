//! The preview token: what was shown, sealed, so that a change can be held to
//! it. Nothing is stored; whoever holds the key can check it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

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

/// Seals and opens promises.
#[derive(Clone)]
pub struct Sealer(Hmac<Sha256>);

impl Sealer {
    /// A key that all replicas derive alike from a secret they share.
    pub fn derived_from(secret: &[u8]) -> Self {
        let mut derivation = Self::keyed(secret);
        derivation.0.update(b"valuecanvas-billing preview token 1");
        Self::keyed(&derivation.0.finalize().into_bytes())
    }

    fn keyed(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("a key may have any length"))
    }

    pub fn seal(&self, promise: &Promise) -> String {
        let content = serde_json::to_vec(promise).expect("a promise is plain data");
        let mut mac = self.0.clone();
        mac.update(&content);
        let seal = mac.finalize().into_bytes();
        format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(content),
            URL_SAFE_NO_PAD.encode(seal)
        )
    }

    /// The promise in `token`, if it was sealed with this key.
    pub fn open(&self, token: &str) -> Option<Promise> {
        let (content, seal) = token.split_once('.')?;
        let content = URL_SAFE_NO_PAD.decode(content).ok()?;
        let mut mac = self.0.clone();
        mac.update(&content);
        mac.verify_slice(&URL_SAFE_NO_PAD.decode(seal).ok()?).ok()?;
        serde_json::from_slice(&content).ok()
    }
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
        let sealer = Sealer::derived_from(b"sk_test_1");
        let token = sealer.seal(&promise());
        assert_eq!(sealer.open(&token), Some(promise()));
        assert_eq!(Sealer::derived_from(b"sk_test_2").open(&token), None);
    }

    #[test]
    fn a_token_changed_anywhere_does_not_open() {
        let sealer = Sealer::derived_from(b"sk_test_1");
        let token = sealer.seal(&promise());
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last character has bits that no byte needs.
            if changed != token && at + 1 < token.len() {
                assert_eq!(sealer.open(&changed), None, "at {at}");
            }
        }
        for wrong in ["", ".", "a.b", &token[..token.len() - 2]] {
            assert_eq!(sealer.open(wrong), None, "{wrong}");
        }
    }
}
