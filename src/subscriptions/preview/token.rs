//! The preview token: a sealed quote that binds the change to its price. No
//! token is stored; every replica can check one with the shared key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::catalogue::{Interval, When};
use crate::metering::charges::UsageCharge;
use crate::server::signing::{SharedSigningKey, SigningKey};
use crate::subscriptions::selection::AskedAddons;

/// The longest validity of a quote.
pub const LIFETIME: SignedDuration = SignedDuration::from_mins(15);

/// What a preview has shown, and the state that it was computed for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    pub organization_id: Uuid,
    pub plan_tier: String,
    #[serde(default)]
    pub interval: Option<Interval>,
    /// The seats.
    #[serde(default)]
    pub quantity: Option<u64>,
    /// The add-ons.
    #[serde(default)]
    pub addons: Option<AskedAddons>,
    /// When the change takes effect; `None` if there is no choice.
    #[serde(default)]
    pub when: Option<When>,
    /// The promotion code that was typed.
    #[serde(default)]
    pub promotion_code: Option<String>,
    /// The subscription's fingerprint, if there was one.
    pub subscription: Option<String>,
    pub catalogue: String,
    /// The start of proration, on the customer's clock.
    pub effective_at: Timestamp,
    pub currency: String,
    /// This and the following amounts are in minor units.
    pub prorated_amount: i64,
    pub due_now_amount: i64,
    pub next_invoice_amount: i64,
    /// Usage over the quota that the change charges.
    #[serde(default)]
    pub usage: Vec<UsageCharge>,
    pub expires_at: Timestamp,
}

/// Seals and opens quotes with a key that all replicas share.
#[derive(Clone)]
pub struct Sealer(SharedSigningKey);

impl Sealer {
    pub fn new(pool: PgPool) -> Self {
        Self(SharedSigningKey::new(pool, "preview tokens"))
    }

    pub async fn seal(&self, quote: &Quote) -> Result<String, sqlx::Error> {
        Ok(seal(self.0.get().await?, quote))
    }

    /// The quote in `token`, if it was sealed with this key.
    pub async fn open(&self, token: &str) -> Result<Option<Quote>, sqlx::Error> {
        Ok(open(self.0.get().await?, token))
    }
}

fn keyed(key: &SigningKey) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key may have any length")
}

fn seal(key: &SigningKey, quote: &Quote) -> String {
    let content = serde_json::to_vec(quote).expect("a quote is plain data");
    let mut mac = keyed(key);
    mac.update(&content);
    let seal = mac.finalize().into_bytes();
    format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(content),
        URL_SAFE_NO_PAD.encode(seal)
    )
}

fn open(key: &SigningKey, token: &str) -> Option<Quote> {
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

    fn quote() -> Quote {
        Quote {
            organization_id: Uuid::from_u128(1),
            plan_tier: "standard".to_owned(),
            interval: Some(Interval::Year),
            quantity: Some(5),
            addons: Some(AskedAddons::from([("extra".to_owned(), 2)])),
            when: Some(When::Now),
            promotion_code: Some("SPRING25".to_owned()),
            subscription: None,
            catalogue: "c1".to_owned(),
            effective_at: Timestamp::from_second(1_760_000_000).unwrap(),
            currency: "usd".to_owned(),
            prorated_amount: -4_550,
            due_now_amount: 0,
            next_invoice_amount: 9_900,
            usage: Vec::new(),
            expires_at: Timestamp::from_second(1_760_000_900).unwrap(),
        }
    }

    #[test]
    fn a_sealed_quote_opens_unchanged() {
        let token = seal(&[1; 32], &quote());
        assert_eq!(open(&[1; 32], &token), Some(quote()));
        assert_eq!(open(&[2; 32], &token), None);
    }

    #[test]
    fn a_token_changed_anywhere_does_not_open() {
        let token = seal(&[1; 32], &quote());
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
