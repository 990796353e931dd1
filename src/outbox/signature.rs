//! Signatures as Standard Webhooks has them
//! (<https://github.com/standard-webhooks/standard-webhooks>).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::config::WebhookSecret;

/// The `webhook-signature` header of a message: one signature for each secret.
pub fn sign(secrets: &[WebhookSecret], id: &str, timestamp_secs: i64, body: &str) -> String {
    let signed = format!("{id}.{timestamp_secs}.{body}");
    let signatures = secrets.iter().map(|secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose())
            .expect("HMAC takes a key of any length");
        mac.update(signed.as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

/// A new secret, as it is shown to its owner.
pub fn new_secret() -> String {
    let bytes: [u8; 32] = rand::random();
    format!("whsec_{}", STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specification() {
        let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = r#"{"test": 2432232314}"#;
        let signature = sign(
            std::slice::from_ref(&secret),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            body,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let both = sign(&[secret.clone(), secret], "a", 1, body);
        assert_eq!(both.split(' ').count(), 2);
    }

    #[test]
    fn a_new_secret_is_one_that_can_be_parsed() {
        let secret = new_secret();
        assert_eq!(WebhookSecret::parse(&secret).unwrap().expose().len(), 32);
        assert_ne!(secret, new_secret());
    }
}
