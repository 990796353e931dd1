//! Which other sites' scripts may call the API: none, unless it is configured.

use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::{idempotency, rate_limit, request_id};

const QUOTA_HEADERS: [HeaderName; 7] = [
    HeaderName::from_static("x-quota-remaining"),
    HeaderName::from_static("x-quota-percentage"),
    HeaderName::from_static("x-quota-limit"),
    HeaderName::from_static("x-quota-usage"),
    HeaderName::from_static("x-quota-metric"),
    HeaderName::from_static("x-quota-warning"),
    HeaderName::from_static("x-grace-period-expires"),
];

/// Lets the scripts of `origins` in, with tokens and without cookies.
pub fn allow(router: Router, origins: &[HeaderValue]) -> Router {
    if origins.is_empty() {
        return router;
    }
    let exposed = rate_limit::EXPOSED
        .into_iter()
        .chain(QUOTA_HEADERS)
        .chain([request_id::HEADER, idempotency::REPLAYED]);
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::ACCEPT,
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            idempotency::HEADER,
            request_id::HEADER,
        ])
        .expose_headers(exposed.collect::<Vec<_>>())
        .max_age(Duration::from_secs(3_600));
    router.layer(cors)
}
