//! Thin events: of usage that was accepted and found invalid afterwards. Deliveries leave
//! out their data, which is fetched.

use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::store::Keyed;

pub const ROUTES: &[Route] = &[
    get("/v2/core/events/{id}", retrieve),
    post("/_sandbox/meter_events/{id}/reject", reject),
];

/// An event, with its data.
#[derive(Debug, Clone)]
pub struct ThinEvent {
    id: String,
    content: Value,
}

impl Keyed for ThinEvent {
    fn id(&self) -> &str {
        &self.id
    }
}

/// Finds an accepted meter event invalid: it is counted no more. Answers the event as an
/// endpoint for thin events gets it.
fn reject(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let identifier = call.id();
    let mut params = call.take_params();
    let code = params.required("code")?;
    params.finish()?;
    let state = &mut *call.state;
    let Some(event_name) = state.reject_meter_event(&identifier) else {
        return Err(ApiError::no_such("meter event", &identifier, "id"));
    };
    let meter = state
        .meters
        .iter()
        .find(|meter| meter.event_name == event_name);
    let meter = meter.map(|meter| meter.id().to_owned());
    let kind = match meter {
        Some(_) => "v1.billing.meter.error_report_triggered",
        None => "v1.billing.meter.no_meter_found",
    };
    let at = jiff::Timestamp::from_second(state.wall_secs)
        .map_err(|error| ApiError::invalid(error.to_string()))?
        .to_string();
    let id = state.ids.next("evt_test");
    let delivered = json!({
        "id": id,
        "object": "v2.core.event",
        "created": at,
        "livemode": false,
        "reason": null,
        "related_object": meter.map(|id| json!({
            "id": id,
            "type": "billing.meter",
            "url": format!("/v1/billing/meters/{id}"),
        })),
        "type": kind,
    });
    let mut content = delivered.clone();
    content["data"] = json!({
        "developer_message_summary": "There is 1 invalid event",
        "reason": {
            "error_count": 1,
            "error_types": [{
                "code": code,
                "error_count": 1,
                "sample_errors": [{
                    "error_message": format!("The meter event was rejected: {code}."),
                    "request": { "identifier": identifier },
                }],
            }],
        },
        "validation_start": at,
        "validation_end": at,
    });
    state.thin_events.insert(ThinEvent { id, content });
    Ok(delivered)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let found = call.state.thin_events.get(&id);
    let found = found.ok_or_else(|| ApiError::no_such("event", &id, "id"))?;
    Ok(found.content.clone())
}
