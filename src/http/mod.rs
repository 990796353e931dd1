//! What every request and answer has in common, whatever feature answers: the
//! server, its limits, and the forms of requests, lists and problems.

pub mod accept;
pub mod body;
pub mod budget;
mod cached;
pub mod caller;
pub mod cors;
pub mod cursor;
pub mod docs;
mod entry;
pub mod extract;
pub mod idempotency;
mod measured;
pub mod openapi;
pub mod page;
pub mod parameters;
mod probes;
pub mod rate_limit;
mod readiness;
mod request_id;
mod server;
mod shared;
pub mod shares;
pub mod time_limit;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::Problem;
pub use entry::Peer;
pub use probes::{Probes, ProbesApi, health_router, metrics_router};
pub use readiness::Readiness;
pub use request_id::RequestId;
pub use server::{serve, serve_within};
pub use shared::Shared;

/// Problems for what there is no route for, and for what went wrong in a
/// handler.
pub fn finish(router: Router) -> Router {
    measured::start_at_zero();
    router
        .fallback(async || Problem::not_found("there is nothing at this address"))
        .method_not_allowed_fallback(other_method)
        .layer(CatchPanicLayer::custom(
            |_: Box<dyn std::any::Any + Send>| {
                tracing::error!("a request handler panicked");
                Problem::internal().into_response()
            },
        ))
        .layer(from_fn(measured::measure))
}

/// The router adds `Allow`, which is all that OPTIONS asks for.
async fn other_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this address takes another method; `Allow` lists those it takes",
    )
    .into_response()
}
