//! Secrets as types of their own: none appears in logs, errors or `Debug`
//! output.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A secret key of Stripe's API. Only the client writes it, into requests.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(Arc<str>);

impl SecretKey {
    pub fn new(key: &str) -> Self {
        Self(key.into())
    }

    /// The key itself, for the `Authorization` header.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The prefix says the mode and is not secret.
        let prefix = self.0.match_indices('_').nth(1).map_or(0, |(at, _)| at + 1);
        write!(f, "{}…", &self.0[..prefix])
    }
}

/// A signing secret of a Stripe webhook endpoint. The key is the whole string
/// that Stripe shows, `whsec_` included.
#[derive(Clone)]
pub struct SigningSecret(String);

impl SigningSecret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for signing and for files that only the owner reads.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

/// The key that signs webhooks to the application: `whsec_` and base64 of 24 to
/// 64 bytes, as Standard Webhooks has it.
#[derive(Clone)]
pub struct WebhookSecret(Vec<u8>);

impl WebhookSecret {
    /// `None` if `text` does not have that format.
    pub fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix("whsec_").unwrap_or(text);
        let bytes = STANDARD.decode(encoded).ok()?;
        (24..=64).contains(&bytes.len()).then_some(Self(bytes))
    }

    /// The decoded key, for signing.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_does_not_show_a_key() {
        assert_eq!(
            format!("{:?}", SecretKey::new("sk_test_abc123")),
            "sk_test_…"
        );
        assert_eq!(format!("{:?}", SecretKey::new("rk_live_x")), "rk_live_…");
        assert_eq!(format!("{:?}", SecretKey::new("secret")), "…");
        let signing = SigningSecret::new("whsec_abc123");
        assert!(!format!("{signing:?}").contains("abc"));
    }

    #[test]
    fn a_webhook_secret_has_at_least_24_bytes() {
        let of = |bytes: &[u8]| WebhookSecret::parse(&format!("whsec_{}", STANDARD.encode(bytes)));
        assert!(of(&[7; 24]).is_some());
        assert!(of(&[7; 23]).is_none());
        assert!(WebhookSecret::parse("whsec_no base64").is_none());
    }
}
