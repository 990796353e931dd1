//! What every request and answer has in common, whatever feature answers: the
//! server, its limits, and the forms of requests, lists and problems.

pub mod body;
pub mod budget;
pub mod docs;
pub mod extract;
pub mod layers;
mod listener;
pub mod number;
pub mod openapi;
pub mod pagination;
pub mod problem;
mod reads;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;

pub use listener::{serve, serve_within};
pub use reads::Shared;

use layers::measured;
use problem::Problem;

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
