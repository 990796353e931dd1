//! How the OpenAPI document describes events.

use serde_json::{Map, Value, json};

use super::data::{
    CheckoutData, GraceData, InvoiceData, PaymentMethodData, PlanData, QuotaData, SubscriptionData,
};
use super::event::{MEDIA_TYPE, SOURCE};
use super::types::EventType;
use crate::server::routes::Routes;

/// The routes with the schemas of what events carry.
pub fn schemas<S: Clone + Send + Sync + 'static>(routes: Routes<S>) -> Routes<S> {
    routes
        .schema::<SubscriptionData>()
        .schema::<PlanData>()
        .schema::<InvoiceData>()
        .schema::<QuotaData>()
        .schema::<GraceData>()
        .schema::<CheckoutData>()
        .schema::<PaymentMethodData>()
}

/// The schema of an event of this type.
pub fn schema(event_type: EventType) -> Value {
    json!({
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time",
                     "datacontenttype", "sequence", "data"],
        "properties": {
            "specversion": {"type": "string", "const": "1.0"},
            "id": {"type": "string", "format": "uuid",
                   "description": "Also `webhook-id`: the same each time it is sent."},
            "source": {"type": "string", "format": "uri-reference", "example": SOURCE},
            "type": {"type": "string", "const": event_type.as_str()},
            "subject": {"type": "string",
                        "description": "The organization's external id, or its id if it has none."},
            "time": {"type": "string", "format": "date-time"},
            "datacontenttype": {"type": "string", "const": "application/json"},
            "sequence": {"type": "string", "pattern": "^[0-9]{16,19}$",
                         "description": "The event's number among its organization's, in digits \
                                         that sort as text: later is greater."},
            "data": {"$ref": format!("#/components/schemas/{}", event_type.schema())},
        },
    })
}

/// The document's webhooks.
pub fn webhooks() -> Map<String, Value> {
    let header = |name: &str, description: &str| {
        json!({"name": name, "in": "header", "required": true, "description": description,
               "schema": {"type": "string"}})
    };
    let webhook = |event_type: EventType| {
        json!({"post": {
            "operationId": operation(event_type),
            "tags": ["Events"],
            "summary": event_type.summary(),
            "description": "Sent to every endpoint that wants this type, signed as Standard \
                            Webhooks says, until it is answered 2xx. A redirect is a failure.",
            "security": [],
            "parameters": [
                header("webhook-id", "The event's id: the same each time it is sent."),
                header("webhook-timestamp", "When it is sent, in seconds since 1970."),
                header("webhook-signature",
                       "`v1,` and the HMAC-SHA256 of id, timestamp and body; while a secret is \
                        rotated one for each, with a space between."),
            ],
            "requestBody": {"required": true, "content": {MEDIA_TYPE: {
                "schema": schema(event_type), "example": event_type.example()}}},
            "responses": {"2XX": {"description": "It was taken."}},
        }})
    };
    let all = EventType::ALL.into_iter();
    all.map(|one| (operation(one), webhook(one))).collect()
}

/// `invoice.payment_failed` is `invoicePaymentFailed`.
fn operation(event_type: EventType) -> String {
    let mut words = event_type.as_str().split(['.', '_']);
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at(1);
        name.push_str(&first.to_ascii_uppercase());
        name.push_str(rest);
    }
    name
}
