//! Idempotency keys: the first answer, again and again.

use std::collections::HashMap;

use serde_json::Value;

use crate::error::ApiError;

/// An answer as it was given.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON body.
    pub body: Value,
    /// The id of the request that was answered.
    pub request_id: String,
}

/// The path within a fingerprint, which begins with method and path.
fn endpoint(fingerprint: &str) -> &str {
    fingerprint.split(' ').nth(1).unwrap_or_default()
}

/// First answers by key.
#[derive(Debug, Default)]
pub struct Idempotency {
    answers: HashMap<String, (String, Answer)>,
}

impl Idempotency {
    /// The first answer to this key; an error when the key came with another
    /// request.
    pub fn find(&self, key: &str, fingerprint: &str) -> Result<Option<Answer>, ApiError> {
        match self.answers.get(key) {
            None => Ok(None),
            Some((first, answer)) if first == fingerprint => Ok(Some(answer.clone())),
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

    /// Keeps an answer. Requests that never began (bad parameters, limits,
    /// conflicts) are not kept: they may be repeated with the same key.
    pub fn keep(&mut self, key: &str, fingerprint: String, answer: &Answer) {
        let began = answer.status < 300 || answer.status == 402 || answer.status >= 500;
        if began {
            self.answers
                .insert(key.to_owned(), (fingerprint, answer.clone()));
        }
    }
}
