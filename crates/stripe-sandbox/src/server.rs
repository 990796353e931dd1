//! From HTTP to a [`Call`] and back: authentication, version, faults,
//! idempotency, expansion. The resources know nothing of it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

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
use crate::call::{Action, Call, Route};
use crate::config::Config;
use crate::error::ApiError;
use crate::expand;
use crate::faults::{self, Kind};
use crate::idempotency::Answer;
use crate::invoices::pdf;
use crate::params::Params;
use crate::shape::{self, Shape};
use crate::state::{Origin, State};

/// The largest request body.
const BODY_LIMIT: usize = 1 << 20;
const LONGEST_KEY: usize = 255;

/// The state behind its lock, and what wakes the courier.
#[derive(Debug)]
pub struct Shell {
    state: Mutex<State>,
    /// Told when the outbox has something in it.
    pub outbox_filled: Notify,
    /// Told when a delivery ended.
    pub settled: Notify,
    /// Deliveries under way, retries included.
    pub in_flight: AtomicUsize,
}

impl Shell {
    /// An empty account behind a lock.
    #[must_use]
    pub fn new(config: Config) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(config)),
            outbox_filled: Notify::new(),
            settled: Notify::new(),
            in_flight: AtomicUsize::new(0),
        })
    }

    /// The state. A panic in one request does not take the sandbox down.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wall clock, unless it is frozen.
#[must_use]
pub fn wall_secs(config: &Config) -> i64 {
    config
        .frozen_at
        .unwrap_or_else(|| jiff::Timestamp::now().as_second())
}

/// Every route of the sandbox.
pub fn router(shell: &Arc<Shell>) -> Router {
    let mut paths: BTreeMap<&'static str, MethodRouter> = BTreeMap::new();
    for route in crate::routes() {
        let shell = Arc::clone(shell);
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
            serve(Arc::clone(&shell), Some(action), ids, request)
        };
        let entry = paths.remove(path).unwrap_or_default();
        paths.insert(path, entry.merge(on(filter, handler)));
    }
    let unknown = Arc::clone(shell);
    let fallback = move |request: Request| serve(Arc::clone(&unknown), None, Vec::new(), request);
    let mut router = Router::new();
    for (path, methods) in paths {
        router = router.route(path, methods.fallback(fallback.clone()));
    }
    let links = Arc::clone(shell);
    router
        .route(
            "/_sandbox/invoices/{id}/pdf",
            axum::routing::get(async move |Path(id): Path<String>| print(&links, &id)),
        )
        .fallback(fallback)
}

/// The document behind the link in an invoice; the link is all it takes.
fn print(shell: &Shell, id: &str) -> Response {
    let state = shell.lock();
    match state.invoices.get(id) {
        Some(invoice) => {
            let kind = [(header::CONTENT_TYPE, "application/pdf")];
            (kind, pdf::document(invoice)).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// What the lock is held for, taken from the request beforehand.
struct Incoming {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
    ids: Vec<String>,
}

/// An answer, and whether it reaches the client.
struct Outgoing {
    request_id: String,
    answer: Answer,
    version: String,
    replayed: bool,
    retry_after_secs: Option<u32>,
    loss: Option<Loss>,
}

#[derive(Clone, Copy)]
enum Loss {
    AtOnce,
    AfterTimeout,
}

async fn serve(
    shell: Arc<Shell>,
    action: Option<Action>,
    ids: Vec<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_LIMIT).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let incoming = Incoming {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
        ids,
    };
    let (outgoing, hang) = {
        let mut state = shell.lock();
        state.wall_secs = wall_secs(&state.config);
        let outgoing = respond(&mut state, action, &incoming);
        if !state.outbox.is_empty() {
            shell.outbox_filled.notify_one();
        }
        (outgoing, state.config.timeout_fault)
    };
    match outgoing.loss {
        Some(Loss::AfterTimeout) => tokio::time::sleep(hang).await,
        Some(Loss::AtOnce) => {}
        None => return into_response(&outgoing, &incoming),
    }
    Response::new(Body::new(Broken))
}

fn into_response(outgoing: &Outgoing, incoming: &Incoming) -> Response {
    let mut response = Response::builder()
        .status(outgoing.answer.status)
        .header(header::CONTENT_TYPE, "application/json")
        .header("request-id", &outgoing.request_id)
        .header("stripe-version", &outgoing.version);
    if let Some(key) = incoming.headers.get("idempotency-key") {
        response = response.header("idempotency-key", key);
    }
    if outgoing.replayed {
        response = response.header("idempotent-replayed", "true");
        response = response.header("original-request", &outgoing.answer.request_id);
    }
    if let Some(secs) = outgoing.retry_after_secs {
        response = response.header(header::RETRY_AFTER, secs);
    }
    let body = format!("{:#}\n", outgoing.answer.body);
    response
        .body(Body::from(body))
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn respond(state: &mut State, action: Option<Action>, incoming: &Incoming) -> Outgoing {
    let request_id = state.request_ids.next("req");
    let mut outgoing = Outgoing {
        request_id: request_id.clone(),
        answer: Answer {
            status: 200,
            body: Value::Null,
            request_id: request_id.clone(),
        },
        version: state.config.api_version.clone(),
        replayed: false,
        retry_after_secs: None,
        loss: None,
    };
    if let Err(error) = admit(state, action, incoming, &mut outgoing) {
        outgoing.answer = Answer {
            status: error.status,
            body: error.body(&request_id),
            request_id,
        };
    }
    outgoing
}

fn admit(
    state: &mut State,
    action: Option<Action>,
    incoming: &Incoming,
    outgoing: &mut Outgoing,
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
                "other accounts than its own",
            ));
        }
    }
    let params = read_params(incoming)?;
    if control {
        act(state, action, incoming, params, outgoing);
        return Ok(());
    }
    let fault = faults::strike(state, incoming.method.as_str(), &incoming.path);
    match fault {
        Some((Kind::RateLimit, retry_after_secs)) => {
            outgoing.retry_after_secs = Some(retry_after_secs);
            return Err(
                ApiError::other(429, "rate_limit_error", "Request rate limit exceeded.")
                    .code("rate_limit"),
            );
        }
        Some((Kind::LockTimeout, _)) => {
            return Err(ApiError::other(409, "invalid_request_error", "This object cannot be accessed right now because another API request or Stripe process is currently accessing it.").code("lock_timeout"));
        }
        Some((Kind::Drop, _)) => {
            outgoing.loss = Some(Loss::AtOnce);
            return Ok(());
        }
        _ => {}
    }
    let kind = fault.map(|(kind, _)| kind);
    once(state, action, incoming, params, kind, outgoing)?;
    outgoing.loss = match kind {
        Some(Kind::DropAfterActing) => Some(Loss::AtOnce),
        Some(Kind::Timeout) => Some(Loss::AfterTimeout),
        _ => None,
    };
    Ok(())
}

/// Acts once for each idempotency key.
fn once(
    state: &mut State,
    action: Action,
    incoming: &Incoming,
    params: Params,
    fault: Option<Kind>,
    outgoing: &mut Outgoing,
) -> Result<(), ApiError> {
    let key = incoming
        .headers
        .get("idempotency-key")
        .filter(|_| incoming.method == Method::POST)
        .and_then(|key| key.to_str().ok())
        .map(str::to_owned);
    if key
        .as_ref()
        .is_some_and(|key| key.is_empty() || key.len() > LONGEST_KEY)
    {
        return Err(ApiError::invalid(format!(
            "Idempotency keys have 1 to {LONGEST_KEY} characters."
        )));
    }
    let fingerprint = format!(
        "{} {} {}",
        incoming.method,
        incoming.path,
        params.fingerprint()
    );
    if let Some(key) = &key
        && let Some(first) = state.idempotency.find(key, &fingerprint)?
    {
        outgoing.answer = first;
        outgoing.replayed = true;
        return Ok(());
    }
    state.origin = Origin {
        request_id: Some(outgoing.answer.request_id.clone()),
        idempotency_key: key.clone(),
    };
    if fault != Some(Kind::ServerError) {
        act(state, action, incoming, params, outgoing);
    }
    if matches!(
        fault,
        Some(Kind::ServerError | Kind::ServerErrorAfterActing)
    ) {
        let error = ApiError::other(
            500,
            "api_error",
            "Sorry! There was an error while talking to one of our backends.",
        );
        outgoing.answer.status = error.status;
        outgoing.answer.body = error.body(&outgoing.answer.request_id);
    }
    state.origin = Origin::default();
    if let Some(key) = key {
        state.idempotency.keep(&key, fingerprint, &outgoing.answer);
    }
    Ok(())
}

fn act(
    state: &mut State,
    action: Action,
    incoming: &Incoming,
    mut params: Params,
    outgoing: &mut Outgoing,
) {
    let shape = Shape::of(&outgoing.version);
    let answer = params.texts("expand").and_then(|paths| {
        let mut call = Call {
            state,
            params,
            ids: incoming.ids.clone(),
            shape,
            version: outgoing.version.clone(),
        };
        let mut answer = action(&mut call)?;
        debug_assert!(
            call.params.is_empty(),
            "{} left parameters unread",
            incoming.path
        );
        expand::apply(call.state, shape, &paths.unwrap_or_default(), &mut answer)?;
        Ok(answer)
    });
    match answer {
        Ok(body) => outgoing.answer.body = body,
        Err(error) => {
            outgoing.answer.status = error.status;
            outgoing.answer.body = error.body(&outgoing.answer.request_id);
        }
    }
}

fn read_params(incoming: &Incoming) -> Result<Params, ApiError> {
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

fn unrecognized(incoming: &Incoming) -> ApiError {
    ApiError::other(
        404,
        "invalid_request_error",
        format!(
            "Unrecognized request URL ({}: {}). Please see https://stripe.com/docs. This Stripe stand-in has only part of the API.",
            incoming.method, incoming.path
        ),
    )
}

/// A body that fails at once, so that the connection closes without an answer.
#[derive(Debug)]
struct Broken;

impl HttpBody for Broken {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())))
    }
}
