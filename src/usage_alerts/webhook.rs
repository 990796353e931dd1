//! What the application is sent: a CloudEvent, signed as Standard Webhooks
//! says (<https://github.com/standard-webhooks/standard-webhooks>).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use super::store::Due;

const TYPE: &str = "com.valuecanvas.billing.usage_alert";

/// The key that the application checks signatures with: `whsec_` and base64 of
/// 24 to 64 bytes.
#[derive(Clone)]
pub struct WebhookSecret(Vec<u8>);

impl std::fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("whsec_…")
    }
}

impl WebhookSecret {
    /// None: it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix("whsec_").unwrap_or(text);
        let bytes = STANDARD.decode(encoded).ok()?;
        (24..=64).contains(&bytes.len()).then_some(Self(bytes))
    }

    /// `webhook-signature` of a message.
    pub fn sign(&self, id: &str, timestamp_secs: i64, body: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any key will do");
        mac.update(format!("{id}.{timestamp_secs}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The body of an alert's message: the same each time it is sent.
pub fn body(alert: &Due) -> Value {
    json!({
        "specversion": "1.0",
        "id": alert.id,
        "source": "/valuecanvas-billing",
        "type": TYPE,
        "subject": alert.organization_id,
        "time": alert.raised_at,
        "datacontenttype": "application/json",
        "data": {
            "organizationId": alert.organization_id,
            "metric": alert.metric,
            "threshold": alert.threshold,
            "usage": alert.usage.normalize().to_string(),
            "quota": alert.quota.normalize().to_string(),
            "periodStart": alert.period_start,
            "periodEnd": alert.period_end,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_at_least_24_bytes() {
        assert!(WebhookSecret::parse(&format!("whsec_{}", STANDARD.encode([7; 24]))).is_some());
        assert!(WebhookSecret::parse(&format!("whsec_{}", STANDARD.encode([7; 23]))).is_none());
        assert!(WebhookSecret::parse("whsec_no base64").is_none());
    }
}
