//! How long a handler may take to answer.

use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::server::problem::Problem;
use crate::tenancy::auth::is_forwarded;

const LIMIT: Duration = Duration::from_secs(30);

/// The layer of the routes: until the answer begins, not until it ends.
pub async fn within(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let forwarded = path.is_some_and(|path| is_forwarded(request.method(), path.as_str()));
    if forwarded {
        return next.run(request).await;
    }
    answer_within(LIMIT, next.run(request)).await
}

async fn answer_within(limit: Duration, answering: impl Future<Output = Response>) -> Response {
    let answering = tokio::time::timeout(limit, answering);
    answering.await.unwrap_or_else(|_| {
        tracing::warn!("a request took too long and was given up");
        Problem::unavailable(
            "request_timeout",
            "this took too long; a change may have been made: send it again with the same \
             Idempotency-Key, or look first",
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
