//! Idempotency keys: a repeated request gets the first response again.

use std::collections::HashMap;

use serde_json::Value;

use crate::error::ApiError;

/// A response that was sent.
#[derive(Debug, Clone)]
pub struct StoredResponse {
    pub status: u16,
    pub body: Value,
    /// The id of the request it responds to.
    pub request_id: String,
}

/// The path in a fingerprint, which starts with method and path.
fn endpoint(fingerprint: &str) -> &str {
    fingerprint.split(' ').nth(1).unwrap_or_default()
}

/// The first response for each idempotency key.
#[derive(Debug, Default)]
pub struct IdempotencyStore {
    responses: HashMap<String, (String, StoredResponse)>,
}

impl IdempotencyStore {
    /// The first response for this key, or an error if the key was used for a
    /// different request.
    pub fn find(&self, key: &str, fingerprint: &str) -> Result<Option<StoredResponse>, ApiError> {
        match self.responses.get(key) {
            None => Ok(None),
            Some((first, response)) if first == fingerprint => Ok(Some(response.clone())),
            Some((first, _)) if endpoint(first) != endpoint(fingerprint) => Err(ApiError::other(
                400,
                "idempotency_error",
                format!(
                    "Keys for idempotent requests can only be used for the same endpoint they were first used for ('{}'). Try using a key other than '{key}' if you meant to execute a different request.",
                    endpoint(first)
                ),
            )),
            Some(_) => Err(ApiError::other(
                400,
                "idempotency_error",
                format!(
                    "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key other than '{key}' if you meant to execute a different request."
                ),
            )),
        }
    }

    /// Stores a response. Requests that were refused before they took effect
    /// (invalid parameters, rate limits, conflicts) are not stored, so the key
    /// can be used again.
    pub fn store(&mut self, key: &str, fingerprint: String, response: &StoredResponse) {
        let began = response.status < 300 || response.status == 402 || response.status >= 500;
        if began {
            self.responses
                .insert(key.to_owned(), (fingerprint, response.clone()));
        }
    }
}
