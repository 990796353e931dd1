//! Authentication: any test key, or only the configured ones.

use axum::http::{HeaderMap, header};
use base64::Engine;

use crate::config::Config;
use crate::error::ApiError;

/// Checks the API key, which is sent as a bearer token or as the user name of
/// Basic authentication.
pub fn authenticate(config: &Config, headers: &HeaderMap) -> Result<(), ApiError> {
    let unauthorized = |message: String| ApiError::other(401, "invalid_request_error", message);
    let Some(key) = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| read_key(value.to_str().ok()?))
    else {
        return Err(unauthorized("You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').".to_owned()));
    };
    let known = if config.keys.is_empty() {
        ["sk_test_", "rk_test_"]
            .iter()
            .any(|prefix| key.starts_with(prefix) && key.len() > prefix.len())
    } else {
        config.keys.contains(&key)
    };
    if known {
        return Ok(());
    }
    // Never show more than both ends of a key.
    let tail = key
        .char_indices()
        .rev()
        .nth(3)
        .map_or("", |(at, _)| &key[at..]);
    let head: String = key.chars().take(8).collect();
    Err(unauthorized(format!(
        "Invalid API Key provided: {head}****{tail}"
    )))
}

fn read_key(authorization: &str) -> Option<String> {
    let (scheme, value) = authorization.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(value.trim())
        .ok()?;
    let text = String::from_utf8(decoded).ok()?;
    Some(
        text.split_once(':')
            .map_or(text.as_str(), |(user, _)| user)
            .to_owned(),
    )
}
