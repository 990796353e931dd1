//! What is to be delivered, and what became of it.

use serde_json::{Value, json};

use crate::call::{Call, Route, post};
use crate::error::ApiError;
use crate::state::State;
use crate::store::Keyed;

/// A control route that Stripe has in its dashboard: send an event again.
pub const ROUTES: &[Route] = &[post("/_sandbox/events/{id}/resend", resend)];

/// One event for one endpoint.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The event.
    pub event: String,
    /// The endpoint.
    pub endpoint: String,
}

/// A delivery, ready to be sent.
#[derive(Debug)]
pub struct Parcel {
    /// Where to.
    pub url: String,
    /// What to sign with.
    pub secret: String,
    /// The event, as this endpoint reads it.
    pub body: Vec<u8>,
}

/// The endpoints that want events of this type.
#[must_use]
pub fn targets(state: &State, kind: &str) -> Vec<String> {
    state
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.wants(kind))
        .map(|endpoint| endpoint.id().to_owned())
        .collect()
}

/// Puts deliveries out for the courier.
pub fn enqueue(state: &mut State, event: &str, targets: Vec<String>) {
    let deliveries = targets.into_iter().map(|endpoint| Delivery {
        event: event.to_owned(),
        endpoint,
    });
    state.outbox.extend(deliveries);
}

/// The delivery as bytes; none when its endpoint is gone or disabled.
#[must_use]
pub fn pack(state: &State, delivery: &Delivery) -> Option<Parcel> {
    let endpoint = state
        .endpoints
        .get(&delivery.endpoint)
        .filter(|endpoint| endpoint.enabled)?;
    let event = state.events.get(&delivery.event)?;
    let version = endpoint
        .api_version
        .as_deref()
        .unwrap_or(&state.config.api_version);
    Some(Parcel {
        url: endpoint.url.clone(),
        secret: endpoint.secret.clone(),
        body: serde_json::to_vec_pretty(&event.render_version(version)).ok()?,
    })
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered 2xx.
    Delivered,
    /// It never did, and no retry is left.
    GivenUp,
}

/// Notes how a delivery ended.
pub fn note(state: &mut State, delivery: &Delivery, outcome: Outcome) {
    if let Some(event) = state.events.get_mut(&delivery.event) {
        match outcome {
            Outcome::Delivered => event.pending = event.pending.saturating_sub(1),
            Outcome::GivenUp => event.failed = true,
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
        event.pending += u32::try_from(count).unwrap_or(0);
    }
    enqueue(state, &id, targets);
    Ok(json!({ "event": id, "deliveries": count }))
}
