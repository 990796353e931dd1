//! Webhook signatures, which prove the origin of an event.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The `Stripe-Signature` header: HMAC-SHA256 over the timestamp, a dot and the
/// raw body. The key is the whole secret, including `whsec_`.
#[must_use]
pub fn header(secret: &str, at_secs: i64, body: &[u8]) -> String {
    // Cannot fail, since HMAC accepts keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        return String::new();
    };
    mac.update(at_secs.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    format!(
        "t={at_secs},v1={}",
        hex::encode(mac.finalize().into_bytes())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_covers_time_and_body() {
        let signed = header("whsec_test", 1_700_000_000, b"{}");
        assert!(signed.starts_with("t=1700000000,v1="));
        assert_eq!(signed.len(), "t=1700000000,v1=".len() + 64);
        assert_ne!(signed, header("whsec_test", 1_700_000_000, b"{ }"));
        assert_ne!(signed, header("whsec_other", 1_700_000_000, b"{}"));
    }
}
