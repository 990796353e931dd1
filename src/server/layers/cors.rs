//! Which other sites' scripts may call the API: none, unless it is configured.

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use tower::ServiceExt as _;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::server::Site;

use super::{idempotency, rate_limit, request_id};

const QUOTA_HEADERS: [HeaderName; 9] = [
    HeaderName::from_static("x-feature"),
    HeaderName::from_static("x-quota-remaining"),
    HeaderName::from_static("x-quota-percentage"),
    HeaderName::from_static("x-quota-limit"),
    HeaderName::from_static("x-quota-usage"),
    HeaderName::from_static("x-quota-metric"),
    HeaderName::from_static("x-quota-warning"),
    HeaderName::from_static("x-grace-period-expires"),
    HeaderName::from_static("x-quota-duplicate"),
];

/// Lets the scripts of `origins` in, with tokens and without cookies.
pub fn allow(site: Site, origins: &[HeaderValue]) -> Site {
    if origins.is_empty() {
        return site;
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
    // A proxy asks about its clients' requests, those of the method OPTIONS
    // among them: what this layer would answer itself must be decided about.
    let routes = site.routes.clone();
    let of_scripts = site.router.clone().layer(cors);
    let router = Router::new().fallback_service(tower::service_fn(move |request: Request| {
        let asks = site.is_forward_auth(request.uri().path());
        let router = if asks { &site.router } else { &of_scripts };
        router.clone().oneshot(request)
    }));
    Site { router, routes }
}
