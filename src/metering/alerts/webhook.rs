//! What the application is sent: a CloudEvent, signed as Standard Webhooks
//! says (<https://github.com/standard-webhooks/standard-webhooks>).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use serde::Serialize;
use sha2::Sha256;
use utoipa::ToSchema;
use uuid::Uuid;

use super::store::Due;
use crate::config::WebhookSecret;
use crate::server::number::Number;

const TYPE: &str = "com.valuecanvas.billing.usage_alert";

/// The `webhook-signature` header of a message.
pub fn sign(secret: &WebhookSecret, id: &str, timestamp_secs: i64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose()).expect("any key will do");
    mac.update(format!("{id}.{timestamp_secs}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// The message of an alert: a CloudEvent, the same each time it is sent.
#[derive(Serialize, ToSchema)]
#[schema(as = UsageAlertEvent)]
pub struct Message {
    #[schema(example = "1.0")]
    specversion: &'static str,
    /// The alert's; `webhook-id` as well.
    id: Uuid,
    #[schema(example = "/valuecanvas-billing")]
    source: &'static str,
    #[schema(example = "com.valuecanvas.billing.usage_alert")]
    r#type: &'static str,
    /// The organization.
    subject: Uuid,
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    #[schema(example = "application/json")]
    datacontenttype: &'static str,
    data: MessageData,
}

/// What happened.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UsageAlertData)]
struct MessageData {
    organization_id: Uuid,
    #[schema(example = "llm_tokens")]
    metric: String,
    /// In percent of the quota: 80, 100 or 120.
    threshold: i16,
    /// What was used, and the quota, when it was reached.
    usage: Number,
    quota: Number,
    #[schema(value_type = String, format = DateTime)]
    period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    period_end: Timestamp,
}

/// The message of `alert`.
pub fn message(alert: &Due) -> Message {
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
