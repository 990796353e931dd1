//! Idempotency keys: each runs its action once, and one request at a time.

use axum::http::Method;

use super::{IncomingRequest, OutgoingResponse, Turn, run_action};
use crate::call::Action;
use crate::error::ApiError;
use crate::faults::{self, FaultKind};
use crate::params::Params;
use crate::state::{Origin, State};

const MAX_IDEMPOTENCY_KEY_CHARS: usize = 255;

pub(super) fn key_of(incoming: &IncomingRequest) -> Option<String> {
    let key = incoming.headers.get("idempotency-key");
    let key = key.filter(|_| incoming.method == Method::POST)?;
    key.to_str().ok().map(str::to_owned)
}

/// Refuses a key that another request is using. Returns the fault that applies.
pub(super) fn claim_key(
    state: &mut State,
    incoming: &IncomingRequest,
    turn: Turn,
) -> Result<Option<(FaultKind, u32)>, ApiError> {
    let key = key_of(incoming);
    if turn == Turn::Postponed {
        if let Some(key) = key {
            state.keys_in_use.remove(&key);
        }
        return Ok(None);
    }
    if let Some(key) = key.filter(|key| state.keys_in_use.contains(key)) {
        let message = format!(
            "There is currently another in-progress request using this Idempotency Key ({key}). Please try again later."
        );
        return Err(
            ApiError::other(409, "idempotency_error", message).code("idempotency_key_in_use")
        );
    }
    Ok(faults::applying_to(
        state,
        incoming.method.as_str(),
        &incoming.path,
    ))
}

/// Runs the action at most once per idempotency key.
pub(super) fn run_idempotently(
    state: &mut State,
    action: Action,
    incoming: &IncomingRequest,
    params: Params,
    fault: Option<FaultKind>,
    outgoing: &mut OutgoingResponse,
) -> Result<(), ApiError> {
    let key = key_of(incoming);
    if key
        .as_ref()
        .is_some_and(|key| key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_CHARS)
    {
        return Err(ApiError::invalid(format!(
            "Idempotency keys have 1 to {MAX_IDEMPOTENCY_KEY_CHARS} characters."
        )));
    }
    let fingerprint = format!(
        "{} {} {}",
        incoming.method,
        incoming.path,
        params.fingerprint()
    );
    if let Some(key) = &key
        && let Some(first) = state.idempotency.find(key, &fingerprint)?
    {
        outgoing.response = first;
        outgoing.replayed = true;
        return Ok(());
    }
    state.origin = Origin {
        request_id: Some(outgoing.response.request_id.clone()),
        idempotency_key: key.clone(),
    };
    if fault != Some(FaultKind::ServerError) {
        run_action(state, action, incoming, params, outgoing);
    }
    if matches!(
        fault,
        Some(FaultKind::ServerError | FaultKind::ServerErrorAfterActing)
    ) {
        let error = ApiError::other(
            500,
            "api_error",
            "Sorry! There was an error while talking to one of our backends.",
        );
        outgoing.response.status = error.status;
        outgoing.response.body = error.body(&outgoing.response.request_id);
    }
    state.origin = Origin::default();
    if let Some(key) = key {
        state
            .idempotency
            .store(&key, fingerprint, &outgoing.response);
    }
    Ok(())
}
