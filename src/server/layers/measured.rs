//! Requests, counted and timed by the route's template, never by its path.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use metrics::{Counter, Histogram};

use crate::server::routes::Route;
use crate::telemetry::metrics as measures;

/// The route of requests that no route matched.
pub const UNMATCHED: &str = "unmatched";

/// The layer of the whole router, what it answers by itself included.
pub async fn measure(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = name_of(request.method());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = path.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    record(method, route, response.status(), started.elapsed());
    response
}

/// Errors of every route exist from the start: an alert sees the first one.
pub fn start_at_zero(routes: &[Arc<Route>]) {
    for route in routes {
        let Some(method) = &route.method else {
            continue;
        };
        for status in [
            StatusCode::INTERNAL_SERVER_ERROR,
            StatusCode::SERVICE_UNAVAILABLE,
        ] {
            measures::http_requests(name_of(method), &route.path, status.as_str()).absolute(0);
        }
    }
}

/// The method's name; what a client makes up has none of its own.
pub fn name_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

struct Series {
    method: &'static str,
    took: Histogram,
    statuses: Vec<(StatusCode, Counter)>,
}

thread_local! {
    /// The series of each route, so that a request looks no label up.
    static SERIES: RefCell<HashMap<String, Vec<Series>>> = RefCell::default();
}

/// Counts a request that was answered after `took`.
pub fn record(method: &'static str, route: &str, status: StatusCode, took: Duration) {
    SERIES.with_borrow_mut(|routes| {
        if !routes.contains_key(route) {
            routes.insert(route.to_owned(), Vec::new());
        }
        let Some(of_route) = routes.get_mut(route) else {
            return;
        };
        let at = of_route.iter().position(|series| series.method == method);
        let at = at.unwrap_or_else(|| {
            of_route.push(Series {
                method,
                took: measures::http_duration(method, route),
                statuses: Vec::new(),
            });
            of_route.len() - 1
        });
        let series = &mut of_route[at];
        series.took.record(took);
        if let Some((_, counter)) = series.statuses.iter().find(|(of, _)| *of == status) {
            counter.increment(1);
            return;
        }
        let counter = measures::http_requests(method, route, status.as_str());
        counter.increment(1);
        series.statuses.push((status, counter));
    });
}
