//! The message sent to the application: a CloudEvent, signed as Standard
//! Webhooks specifies (<https://github.com/standard-webhooks/standard-webhooks>).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use serde::Serialize;
use sha2::Sha256;
use utoipa::ToSchema;
use uuid::Uuid;

use super::store::DueAlert;
use crate::config::WebhookSecret;
use crate::server::number::Number;

const TYPE: &str = "com.valuecanvas.billing.usage_alert";

/// The `webhook-signature` header of a message.
pub fn sign(secret: &WebhookSecret, id: &str, timestamp_secs: i64, body: &str) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.expose()).expect("HMAC takes a key of any length");
    mac.update(format!("{id}.{timestamp_secs}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// An alert as a CloudEvent, identical on every attempt.
#[derive(Serialize, ToSchema)]
#[schema(as = UsageAlertEvent)]
pub struct Message {
    #[schema(example = "1.0")]
    specversion: &'static str,
    /// The alert's id, also sent as `webhook-id`.
    id: Uuid,
    #[schema(example = "/valuecanvas-billing")]
    source: &'static str,
    #[schema(example = "com.valuecanvas.billing.usage_alert")]
    r#type: &'static str,
    /// The organization's id.
    subject: Uuid,
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    #[schema(example = "application/json")]
    datacontenttype: &'static str,
    data: MessageData,
}

/// The threshold that was reached.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UsageAlertData)]
struct MessageData {
    organization_id: Uuid,
    #[schema(example = "llm_tokens")]
    metric: String,
    /// The percentage of the quota: 80, 100 or 120.
    threshold: i16,
    /// Usage and quota at the time the threshold was reached.
    usage: Number,
    quota: Number,
    #[schema(value_type = String, format = DateTime)]
    period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    period_end: Timestamp,
}

/// Builds the message for `alert`.
pub fn message(alert: &DueAlert) -> Message {
    Message {
        specversion: "1.0",
        id: alert.id,
        source: "/valuecanvas-billing",
        r#type: TYPE,
        subject: alert.organization_id,
        time: alert.raised_at,
        datacontenttype: "application/json",
        data: MessageData {
            organization_id: alert.organization_id,
            metric: alert.metric.clone(),
            threshold: alert.threshold,
            usage: Number(alert.usage),
            quota: Number(alert.quota),
            period_start: alert.period_start,
            period_end: alert.period_end,
        },
    }
}
