//! Deliveries: which events go to which endpoints, and their outcome.

use serde_json::{Value, json};

use crate::call::{Call, Route, post};
use crate::error::ApiError;
use crate::state::State;
use crate::store::Keyed;

/// Resending an event, which Stripe offers in its dashboard.
pub const ROUTES: &[Route] = &[post("/_sandbox/events/{id}/resend", resend)];

/// One event for one endpoint.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub event: String,
    pub endpoint: String,
}

/// A delivery that is ready to be sent.
#[derive(Debug)]
pub struct PreparedDelivery {
    pub url: String,
    /// The secret to sign with.
    pub secret: String,
    /// The event in the endpoint's API version.
    pub body: Vec<u8>,
}

/// The endpoints that receive events of this type.
#[must_use]
pub fn targets(state: &State, kind: &str) -> Vec<String> {
    state
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.wants(kind))
        .map(|endpoint| endpoint.id().to_owned())
        .collect()
}

/// Adds deliveries to the outbox.
pub fn enqueue(state: &mut State, event: &str, targets: Vec<String>) {
    let deliveries = targets.into_iter().map(|endpoint| Delivery {
        event: event.to_owned(),
        endpoint,
    });
    state.outbox.extend(deliveries);
}

/// Prepares a delivery; `None` if its endpoint was deleted or disabled.
#[must_use]
pub fn prepare(state: &State, delivery: &Delivery) -> Option<PreparedDelivery> {
    let endpoint = state
        .endpoints
        .get(&delivery.endpoint)
        .filter(|endpoint| endpoint.enabled)?;
    let event = state.events.get(&delivery.event)?;
    let version = endpoint
        .api_version
        .as_deref()
        .unwrap_or(&state.config.api_version);
    Some(PreparedDelivery {
        url: endpoint.url.clone(),
        secret: endpoint.secret.clone(),
        body: serde_json::to_vec_pretty(&event.render_version(version)).ok()?,
    })
}

/// The outcome of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint responded with 2xx.
    Delivered,
    /// The endpoint never responded with 2xx, and no retry is left.
    Abandoned,
}

/// Records the outcome of a delivery.
pub fn record_outcome(state: &mut State, delivery: &Delivery, outcome: Outcome) {
    if let Some(event) = state.events.get_mut(&delivery.event) {
        match outcome {
            Outcome::Delivered => {
                event.pending_deliveries = event.pending_deliveries.saturating_sub(1)
            }
            Outcome::Abandoned => event.abandoned = true,
        }
    }
}

fn resend(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let endpoint = params.text("webhook_endpoint")?;
    params.finish()?;
    let id = call.id();
    let state = &mut *call.state;
    let kind = state
        .events
        .get(&id)
        .ok_or_else(|| ApiError::no_such("event", &id, "id"))?
        .kind;
    let targets = match endpoint {
        Some(endpoint) if state.endpoints.get(&endpoint).is_none() => {
            return Err(ApiError::no_such(
                "webhook endpoint",
                &endpoint,
                "webhook_endpoint",
            ));
        }
        Some(endpoint) => vec![endpoint],
        None => targets(state, kind),
    };
    let count = targets.len();
    if let Some(event) = state.events.get_mut(&id) {
        event.pending_deliveries += u32::try_from(count).unwrap_or(0);
    }
    enqueue(state, &id, targets);
    Ok(json!({ "event": id, "deliveries": count }))
}
