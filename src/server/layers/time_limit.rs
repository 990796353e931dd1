//! How long a handler may take to answer.

use std::time::Duration;

use axum::response::{IntoResponse, Response};

use crate::server::problem::Problem;

/// Gives up on an answer that does not begin within `limit`.
pub async fn answer_within(limit: Duration, answering: impl Future<Output = Response>) -> Response {
    let answering = tokio::time::timeout(limit, answering);
    answering.await.unwrap_or_else(|_| {
        tracing::warn!("a request took too long and was given up");
        Problem::unavailable(
            "request_timeout",
            "The request timed out. A change may have been made: retry with the same \
             Idempotency-Key, or check first.",
        )
        .into_response()
    })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use axum::http::{StatusCode, header};

    use super::*;

    #[tokio::test]
    async fn a_handler_has_its_time() {
        let limit = Duration::from_millis(1);
        let fast = answer_within(limit, ready(Response::default())).await;
        assert_eq!(fast.status(), StatusCode::OK);
        let slow = answer_within(limit, pending()).await;
        assert_eq!(slow.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(slow.headers().contains_key(header::RETRY_AFTER));
    }
}
