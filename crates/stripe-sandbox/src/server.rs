//! Turns HTTP requests into [`Call`]s and back: authentication, version,
//! faults, idempotency, expansion. Resources never see HTTP.

mod keys;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, RawPathParams, Request};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use http_body::Frame;
use serde_json::Value;
use tokio::sync::Notify;

use crate::auth::authenticate;
use crate::billing_portal::page as portal_page;
use crate::call::{Action, Call, Route};
use crate::checkout::page;
use crate::config::Config;
use crate::error::ApiError;
use crate::expand;
use crate::faults::FaultKind;
use crate::idempotency::StoredResponse;
use crate::invoices::page as invoice_page;
use crate::invoices::pdf;
use crate::params::Params;
use crate::shape::{self, Shape};
use crate::state::State;
use keys::{claim_key, key_of, run_idempotently};

const MAX_BODY_BYTES: usize = 1 << 20;

/// The state behind its lock, and the notifications between server and sender.
#[derive(Debug)]
pub struct SharedState {
    state: Mutex<State>,
    /// Notified when deliveries are added to the outbox.
    pub outbox_filled: Notify,
    /// Notified when a delivery ends.
    pub delivery_ended: Notify,
    /// The number of deliveries in progress, including retries.
    pub in_flight: AtomicUsize,
}

impl SharedState {
    #[must_use]
    pub fn new(config: Config) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(config)),
            outbox_filled: Notify::new(),
            delivery_ended: Notify::new(),
            in_flight: AtomicUsize::new(0),
        })
    }

    /// Locks the state. Poisoning is ignored, so that a panic in one request
    /// does not take down the sandbox.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The current time, unless the clock is frozen.
#[must_use]
pub fn wall_secs(config: &Config) -> i64 {
    config
        .frozen_at
        .unwrap_or_else(|| jiff::Timestamp::now().as_second())
}

/// The router with every route of the sandbox.
pub fn router(shared: &Arc<SharedState>) -> Router {
    let mut paths: BTreeMap<&'static str, MethodRouter> = BTreeMap::new();
    for route in crate::routes() {
        let shared = Arc::clone(shared);
        let Route {
            method,
            path,
            action,
        } = route;
        let filter = match method {
            Method::GET => MethodFilter::GET,
            Method::DELETE => MethodFilter::DELETE,
            _ => MethodFilter::POST,
        };
        let handler = move |ids: RawPathParams, request: Request| {
            let ids = ids.iter().map(|(_, id)| id.to_owned()).collect();
            serve(Arc::clone(&shared), Some(action), ids, request)
        };
        let entry = paths.remove(path).unwrap_or_default();
        paths.insert(path, entry.merge(on(filter, handler)));
    }
    let unknown = Arc::clone(shared);
    let fallback = move |request: Request| serve(Arc::clone(&unknown), None, Vec::new(), request);
    let mut router = Router::new();
    for (path, methods) in paths {
        router = router.route(path, methods.fallback(fallback.clone()));
    }
    let links = Arc::clone(shared);
    router
        .route(
            "/_sandbox/invoices/{id}/pdf",
            axum::routing::get(async move |Path(id): Path<String>| invoice_pdf(&links, &id)),
        )
        .fallback(fallback)
        .merge(page::router(shared))
        .merge(invoice_page::router(shared))
        .merge(portal_page::router(shared))
}

/// The PDF of an invoice. The link is the only credential needed.
fn invoice_pdf(shared: &SharedState, id: &str) -> Response {
    let state = shared.lock();
    match state.invoices.get(id) {
        Some(invoice) => {
            let kind = [(header::CONTENT_TYPE, "application/pdf")];
            (kind, pdf::document(invoice)).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The parts of a request, read before the lock is taken.
struct IncomingRequest {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
    ids: Vec<String>,
}

/// A response, and whether it reaches the client.
struct OutgoingResponse {
    request_id: String,
    response: StoredResponse,
    version: String,
    replayed: bool,
    retry_after_secs: Option<u32>,
    loss: Option<ConnectionLoss>,
    /// The request takes effect later.
    postponed: Option<Postponed>,
}

#[derive(Clone, Copy)]
enum Postponed {
    /// And is then answered.
    UntilDone,
    /// And is answered by a gateway now.
    BehindGateway,
}

#[derive(Clone, Copy)]
enum ConnectionLoss {
    AtOnce,
    AfterTimeout,
}

async fn serve(
    shared: Arc<SharedState>,
    action: Option<Action>,
    ids: Vec<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let incoming = IncomingRequest {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
        ids,
    };
    let (outgoing, timeout) = act(&shared, action, &incoming, Turn::First);
    match outgoing.postponed {
        None => {}
        Some(postponed) => {
            // It takes effect whether or not the client waits for it.
            let acting = tokio::spawn(async move {
                tokio::time::sleep(timeout).await;
                let (outgoing, _) = act(&shared, action, &incoming, Turn::Postponed);
                into_response(&outgoing, &incoming)
            });
            if let Postponed::UntilDone = postponed {
                let response = acting.await;
                return response
                    .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response());
            }
            let page = "<html><h1>504 Gateway Time-out</h1></html>";
            return (StatusCode::GATEWAY_TIMEOUT, page).into_response();
        }
    }
    match outgoing.loss {
        Some(ConnectionLoss::AfterTimeout) => tokio::time::sleep(timeout).await,
        Some(ConnectionLoss::AtOnce) => {}
        None => return into_response(&outgoing, &incoming),
    }
    Response::new(Body::new(BrokenBody))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    /// Of a request that was to take effect later.
    Postponed,
}

/// Carries a request out. Returns the response, and how long faults take.
fn act(
    shared: &SharedState,
    action: Option<Action>,
    incoming: &IncomingRequest,
    turn: Turn,
) -> (OutgoingResponse, Duration) {
    let mut state = shared.lock();
    state.wall_secs = wall_secs(&state.config);
    let outgoing = respond(&mut state, action, incoming, turn);
    if !state.outbox.is_empty() {
        shared.outbox_filled.notify_one();
    }
    (outgoing, state.config.timeout_fault)
}

fn into_response(outgoing: &OutgoingResponse, incoming: &IncomingRequest) -> Response {
    let mut response = Response::builder()
        .status(outgoing.response.status)
        .header(header::CONTENT_TYPE, "application/json")
        .header("request-id", &outgoing.request_id)
        .header("stripe-version", &outgoing.version);
    if let Some(key) = incoming.headers.get("idempotency-key") {
        response = response.header("idempotency-key", key);
    }
    if outgoing.replayed {
        response = response.header("idempotent-replayed", "true");
        response = response.header("original-request", &outgoing.response.request_id);
    }
    if let Some(secs) = outgoing.retry_after_secs {
        response = response.header(header::RETRY_AFTER, secs);
    }
    let body = format!("{:#}\n", outgoing.response.body);
    response
        .body(Body::from(body))
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn respond(
    state: &mut State,
    action: Option<Action>,
    incoming: &IncomingRequest,
    turn: Turn,
) -> OutgoingResponse {
    let request_id = state.request_ids.next("req");
    let mut outgoing = OutgoingResponse {
        request_id: request_id.clone(),
        response: StoredResponse {
            status: 200,
            body: Value::Null,
            request_id: request_id.clone(),
        },
        version: state.config.api_version.clone(),
        replayed: false,
        retry_after_secs: None,
        loss: None,
        postponed: None,
    };
    if let Err(error) = process(state, action, incoming, turn, &mut outgoing) {
        outgoing.response = StoredResponse {
            status: error.status,
            body: error.body(&request_id),
            request_id,
        };
    }
    outgoing
}

fn process(
    state: &mut State,
    action: Option<Action>,
    incoming: &IncomingRequest,
    turn: Turn,
    outgoing: &mut OutgoingResponse,
) -> Result<(), ApiError> {
    let control = incoming.path.starts_with("/_sandbox/");
    if !control {
        authenticate(&state.config, &incoming.headers)?;
    }
    let Some(action) = action else {
        return Err(unrecognized(incoming));
    };
    if let Some(version) = incoming.headers.get("stripe-version") {
        let version = version.to_str().unwrap_or_default();
        shape::check_version(version)?;
        version.clone_into(&mut outgoing.version);
    }
    for connect in ["stripe-account", "stripe-context"] {
        if incoming.headers.contains_key(connect) {
            return Err(ApiError::unsupported(
                connect,
                "accounts other than its own",
            ));
        }
    }
    let params = read_params(incoming)?;
    if control {
        run_action(state, action, incoming, params, outgoing);
        return Ok(());
    }
    let fault = claim_key(state, incoming, turn)?;
    match fault {
        Some((FaultKind::RateLimit, retry_after_secs)) => {
            outgoing.retry_after_secs = Some(retry_after_secs);
            return Err(
                ApiError::other(429, "rate_limit_error", "Request rate limit exceeded.")
                    .code("rate_limit"),
            );
        }
        Some((FaultKind::LockTimeout, _)) => {
            return Err(ApiError::other(409, "invalid_request_error", "This object cannot be accessed right now because another API request or Stripe process is currently accessing it.").code("lock_timeout"));
        }
        Some((FaultKind::Drop, _)) => {
            outgoing.loss = Some(ConnectionLoss::AtOnce);
            return Ok(());
        }
        Some((kind @ (FaultKind::Slow | FaultKind::GatewayTimeout), _)) => {
            state.keys_in_use.extend(key_of(incoming));
            outgoing.postponed = Some(match kind {
                FaultKind::Slow => Postponed::UntilDone,
                _ => Postponed::BehindGateway,
            });
            return Ok(());
        }
        _ => {}
    }
    let kind = fault.map(|(kind, _)| kind);
    run_idempotently(state, action, incoming, params, kind, outgoing)?;
    outgoing.loss = match kind {
        Some(FaultKind::DropAfterActing) => Some(ConnectionLoss::AtOnce),
        Some(FaultKind::Timeout) => Some(ConnectionLoss::AfterTimeout),
        _ => None,
    };
    Ok(())
}

fn run_action(
    state: &mut State,
    action: Action,
    incoming: &IncomingRequest,
    mut params: Params,
    outgoing: &mut OutgoingResponse,
) {
    let shape = Shape::of(&outgoing.version);
    let response = params.texts("expand").and_then(|paths| {
        let mut call = Call {
            state,
            params,
            ids: incoming.ids.clone(),
            shape,
            version: outgoing.version.clone(),
        };
        let mut response = action(&mut call)?;
        debug_assert!(
            call.params.is_empty(),
            "{} left parameters unread",
            incoming.path
        );
        expand::apply(call.state, shape, &paths.unwrap_or_default(), &mut response)?;
        Ok(response)
    });
    match response {
        Ok(body) => outgoing.response.body = body,
        Err(error) => {
            outgoing.response.status = error.status;
            outgoing.response.body = error.body(&outgoing.response.request_id);
        }
    }
}

fn read_params(incoming: &IncomingRequest) -> Result<Params, ApiError> {
    let form = incoming
        .headers
        .get(header::CONTENT_TYPE)
        .is_none_or(|kind| {
            kind.as_bytes()
                .starts_with(b"application/x-www-form-urlencoded")
        });
    if !incoming.body.is_empty() && !form {
        return Err(ApiError::invalid(
            "Invalid request (check that your POST content type is application/x-www-form-urlencoded).",
        ));
    }
    Params::parse(&[incoming.query.as_bytes(), &incoming.body])
}

fn unrecognized(incoming: &IncomingRequest) -> ApiError {
    ApiError::other(
        404,
        "invalid_request_error",
        format!(
            "Unrecognized request URL ({}: {}). Please see https://stripe.com/docs. This Stripe stand-in has only part of the API.",
            incoming.method, incoming.path
        ),
    )
}

/// A body that fails immediately, so that the connection closes without a
/// response.
#[derive(Debug)]
struct BrokenBody;

impl HttpBody for BrokenBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())))
    }
}
