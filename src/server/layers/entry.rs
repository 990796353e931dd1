//! Where every request comes in and every answer goes out.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{self, Entry as Slot};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use tower::{Service, ServiceExt as _};
use tracing::Instrument as _;

use super::measured;
use super::request_id::{self, RequestId};
use crate::server::Site;
use crate::server::budget::{Answer, Line};
use crate::server::problem::Problem;
use crate::telemetry;

const MAX_HEADER_BYTES: usize = 32 * 1024;
const MAX_TARGET_BYTES: usize = 8 * 1024;

/// What an answer says unless its handler says otherwise: nothing of it is to
/// be kept, guessed at, framed or run.
const DEFAULT_HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
];

/// Marks an answer whose policy says who may frame it, which `X-Frame-Options` cannot.
#[derive(Debug, Clone, Copy)]
pub struct Framed;

/// The connection that a request came by, in the extensions of each.
#[derive(Clone)]
pub struct Peer(pub Arc<Line>);

/// The site behind what holds for all of it: the request's id, the limits of
/// its head, and the answer's headers.
#[derive(Clone)]
pub struct Entry {
    site: Site,
    line: Arc<Line>,
}

impl Entry {
    pub fn new(site: Site, line: Arc<Line>) -> Self {
        Self { site, line }
    }
}

impl Service<Request<Incoming>> for Entry {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let id = RequestId::of(request.headers());
        let span = tracing::info_span!("request", id = id.as_str());
        telemetry::follow(&span, request.headers());
        let refusal = self.refuse_head(&request);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(self.line.clone()));
        request.extensions_mut().insert(id.clone());
        let router = self.site.router.clone();
        let line = self.line.clone();
        let name = id.clone();
        let answering = async move {
            line.turn_of_request().await;
            line.answers();
            let mut response = match refusal {
                Some(problem) => {
                    let method = measured::name_of(request.method());
                    let status = problem.status();
                    measured::record(method, measured::UNMATCHED, status, Duration::ZERO);
                    problem.into_response()
                }
                None => router.oneshot(request).await?,
            };
            let framed = response.extensions().get::<Framed>().is_some();
            complete(response.headers_mut(), &id);
            if framed {
                response.headers_mut().remove(header::X_FRAME_OPTIONS);
            }
            Ok(response.map(|body| Answer::new(body, line)))
        };
        Box::pin(name.during(answering).instrument(span))
    }
}

impl Entry {
    fn refuse_head<B>(&self, request: &Request<B>) -> Option<Problem> {
        let target = request.uri();
        let length = target.path().len() + target.query().map_or(0, str::len);
        if length > MAX_TARGET_BYTES {
            return Some(Problem::new(
                StatusCode::URI_TOO_LONG,
                "uri_too_long",
                "The path and query exceed 8 KiB.",
            ));
        }
        let headers = request.headers();
        let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
        let too_large = || headers.iter().map(size).sum::<usize>() > MAX_HEADER_BYTES;
        (too_large() && !self.site.takes_long_headers(target.path())).then(|| {
            Problem::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                "The headers exceed 32 KiB.",
            )
        })
    }
}

fn complete(headers: &mut HeaderMap, id: &RequestId) {
    headers.insert(request_id::HEADER, id.header_value());
    for (name, value) in DEFAULT_HEADERS {
        if let Slot::Vacant(slot) = headers.entry(name) {
            slot.insert(value);
        }
    }
}
