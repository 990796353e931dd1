//! What every request and answer has in common, whatever feature answers: the
//! server, the table of routes, the checks before each handler, and the forms of
//! requests, lists and problems. It depends on no feature.

mod access;
pub mod body;
pub mod budget;
pub mod caller;
pub mod conditional;
pub mod detached;
pub mod extract;
pub mod layers;
mod listener;
pub mod number;
pub mod openapi;
pub mod pagination;
pub mod problem;
mod reads;
pub mod return_address;
pub mod routes;
pub mod signing;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;

pub use listener::{serve, serve_within};
pub use reads::Shared;

use layers::checks::{self, Checks, Guard};
use layers::measured;
use problem::Problem;
use routes::{Kind, Route, Routes};

/// Routes that can be served.
#[derive(Clone)]
pub struct Site {
    router: Router,
    routes: Arc<[Arc<Route>]>,
}

impl Site {
    /// Whether longer headers than others take are let in at this path.
    fn takes_long_headers(&self, path: &str) -> bool {
        let mut routes = self.routes.iter();
        routes.any(|route| route.long_headers && route.covers(path))
    }

    /// Whether proxies ask at this path about the requests of their clients.
    fn is_forward_auth(&self, path: &str) -> bool {
        let mut routes = self.routes.iter();
        routes.any(|route| route.kind == Kind::ForwardAuth && route.covers(path))
    }
}

/// The routes behind their checks, with problems for what there is no route
/// for, and for what goes wrong in a handler. Without checks, only routes that
/// ask for none may be served.
pub fn site<G: Guard>(routes: Routes, checks: Option<&Arc<Checks<G>>>) -> Site {
    let (router, routes) = routes.wrapped(|route, handler| match checks {
        Some(checks) => checks::before(checks, route, handler),
        None => panic!("{} has checks, and none are given", route.path),
    });
    finish(router, routes)
}

/// Routes that are in no table and have no checks: what the service is measured
/// beside, and what tests answer with.
pub fn bare(router: Router) -> Site {
    finish(router, Arc::new([]))
}

fn finish(router: Router, routes: Arc<[Arc<Route>]>) -> Site {
    measured::start_at_zero(&routes);
    let router = router
        .fallback(async || Problem::no_route())
        .method_not_allowed_fallback(other_method)
        .layer(CatchPanicLayer::custom(
            |_: Box<dyn std::any::Any + Send>| {
                tracing::error!("a request handler panicked");
                Problem::internal().into_response()
            },
        ))
        .layer(from_fn(measured::measure));
    Site { router, routes }
}

/// The router adds `Allow`, which is all that OPTIONS asks for.
async fn other_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "This endpoint does not support the method; see the Allow header.",
    )
    .into_response()
}
