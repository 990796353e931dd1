//! Reading a request's body: bounded in size and in time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt as _;

use crate::error::Problem;

/// The largest body that is read.
pub const MAX_BYTES: usize = 1024 * 1024;
/// How long a body may take to arrive.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    TooLarge,
    TooSlow,
    /// The connection ended before the body did.
    Incomplete,
}

/// Reads a body of at most [`MAX_BYTES`].
pub async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, BodyError> {
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_BYTES as u64) {
        return Err(BodyError::TooLarge);
    }
    let reading = tokio::time::timeout(DEADLINE, collect(body));
    reading.await.unwrap_or(Err(BodyError::TooSlow))
}

/// Stops at the limit, however much follows.
async fn collect(body: Body) -> Result<Bytes, BodyError> {
    let mut stream = body.into_data_stream();
    let mut collected: Option<Vec<u8>> = None;
    let mut first = Bytes::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| BodyError::Incomplete)?;
        let so_far = collected.as_ref().map_or(first.len(), Vec::len);
        if so_far + chunk.len() > MAX_BYTES {
            return Err(BodyError::TooLarge);
        }
        match &mut collected {
            Some(collected) => collected.extend_from_slice(&chunk),
            // Most bodies come in one piece, which is kept as it is.
            None if first.is_empty() => first = chunk,
            None => collected = Some([&first[..], &chunk[..]].concat()),
        }
    }
    Ok(collected.map_or(first, Bytes::from))
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "a body has at most 1 MiB; send less at a time",
            ),
            BodyError::TooSlow => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                "the body took more than ten seconds to arrive; send it again",
            ),
            BodyError::Incomplete => Self::new(
                StatusCode::BAD_REQUEST,
                "body_incomplete",
                "the body ended before its time; send it again",
            ),
        }
    }
}
