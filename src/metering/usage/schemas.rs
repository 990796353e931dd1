//! The bodies of usage events, as the API's description has them: `input` reads them.

use serde::Serialize;
use utoipa::ToSchema;

/// A usage event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageEvent {
    /// Unique within the organization; a repeated event is counted once.
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    /// Of a service key's events without `X-Organization`, and of no others: the external id
    /// or id of the organization.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255)]
    organization: (),
    #[schema(example = "api_calls")]
    metric: String,
    /// A number or a string, not negative, with at most 20 digits, 4 of them
    /// after the point. For a metric that keeps the last value, the new level.
    #[schema(value_type = f64, minimum = 0, example = 1)]
    quantity: (),
    /// Defaults to now; at most five minutes in the future.
    #[schema(value_type = Option<String>, format = DateTime)]
    occurred_at: (),
    /// Any JSON object of up to 8 KiB, stored as is.
    #[schema(value_type = Option<Object>)]
    metadata: (),
}

/// A batch; a plain array of events works as well.
#[derive(Serialize, ToSchema)]
pub struct UsageBatch {
    #[schema(min_items = 1, max_items = 1000)]
    events: Vec<UsageEvent>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes what `input` reads")]
pub enum UsageBody {
    One(UsageEvent),
    Batch(UsageBatch),
}

/// Usage as a CloudEvent 1.0; extension attributes are ignored. Source and id
/// together are unique within the organization.
#[derive(Serialize, ToSchema)]
pub struct UsageCloudEvent {
    #[schema(example = "1.0")]
    specversion: String,
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    #[schema(example = "/products/agents")]
    source: String,
    /// Of a service key's events without `X-Organization`: the external id or id of the
    /// organization. Else it says nothing.
    #[schema(value_type = Option<String>)]
    subject: (),
    /// The metric, unless `data` names one.
    #[schema(example = "api_calls")]
    r#type: String,
    /// When; absent: now. At most five minutes ahead.
    #[schema(value_type = Option<String>, format = DateTime)]
    time: (),
    #[schema(example = "application/json")]
    datacontenttype: Option<String>,
    data: Option<UsageCloudEventData>,
    /// The alternative to `data`: the same in Base64.
    data_base64: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct UsageCloudEventData {
    metric: Option<String>,
    /// As in a native event.
    #[schema(value_type = f64, minimum = 0, example = 1)]
    quantity: (),
    #[schema(value_type = Option<Object>)]
    metadata: (),
}
