//! `Idempotency-Key`: the same request, sent again with the same key, is
//! carried out once and gets the first answer again.
//!
//! The key is claimed before the request is carried out, under a lease, and
//! the answer is kept with it for a day. A service that dies in between leaves
//! the lease to end: the key can then be used again, and handlers must be safe
//! to run again for one [`Key`], as they are by passing it on to Stripe. An
//! answer of 5xx or 429 settles nothing and lets the key be used again at once.
//!
//! A key belongs to the organization that its caller acts for, and where there
//! is none, as with operators and with service keys beside all organizations, to
//! the caller.
//!
//! Of an answer that has a secret, only that it was given is kept.
//!
//! What is forwarded to an upstream takes as long as the upstream does: its
//! lease is renewed, and its answer is passed on while it is copied.

mod copies;
mod copying;
mod kept;
mod key;
mod store;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::response::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt as _, StreamExt as _};
use sqlx::postgres::PgPool;
use tokio::time::Instant;

use super::checks::Next;
use crate::limits;
use crate::server::body;
use crate::server::budget::organizations::{Busy, Pass, Turnstile};
use crate::server::caller::Caller;
use crate::server::detached;
use crate::server::problem::Problem;
use crate::server::routes::Idempotency;
use crate::telemetry::metrics::budget as metrics;
use copies::Copies;
pub use copying::Streamed;
use kept::Kept;
pub use key::{HEADER, Key};
use store::{Answer, Claim, Lease};

pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// How long a request may take once its key is claimed. Its lease is longer,
/// so that nobody else begins while it may still be at work.
const WORK: Duration = Duration::from_secs(50);
const LEASE_SECS: u32 = 60;
/// How soon to ask again whether the first request is done.
const ASK_AGAIN_SECS: u32 = 2;
/// How long a form that was sent twice waits for the first one's answer, and how often it
/// looks: less than a request may take.
const PATIENCE_OF_FORM: Duration = Duration::from_secs(20);
const FORM_LOOKS: Duration = Duration::from_millis(500);
/// Keys are counted by the hour.
const KEYS_AGAIN_SECS: u32 = 60 * 60;

/// The parameter by which a form, which sets no header, says its key in its address.
pub const OF_FORM: &str = "once";

/// Makes the key of a browser's form the request's. What else the browser sent is none.
pub fn take_key_of_form(request: &mut Request) {
    request.headers_mut().remove(HEADER);
    let query = request.uri().query().unwrap_or_default();
    let mut fields = form_urlencoded::parse(query.as_bytes());
    let key = fields.find(|(name, _)| name == OF_FORM);
    if let Some(key) = key.and_then(|(_, key)| HeaderValue::try_from(&*key).ok()) {
        request.headers_mut().insert(HEADER, key);
        request.extensions_mut().insert(OfForm);
    }
}

/// Marks a request whose key is a form's.
#[derive(Debug, Clone, Copy)]
struct OfForm;

/// Where answers are kept.
#[derive(Clone)]
pub struct Keeper {
    pool: PgPool,
    kept: Arc<Kept>,
    copies: Copies,
    /// What the keys of one organization, or of one caller without any, may have of
    /// the API's connections.
    turns: Arc<Turnstile>,
}

impl Keeper {
    pub fn new(pool: PgPool) -> Self {
        Self::with_keys(pool, limits::KEPT_KEYS)
    }

    /// Keeps as many keys of an organization within a day.
    pub fn with_keys(pool: PgPool, keys: u64) -> Self {
        Self {
            pool,
            kept: Arc::new(Kept::of_keys(keys)),
            copies: Copies::default(),
            turns: Arc::new(Turnstile::new(limits::KEYS)),
        }
    }

    /// Keeps an answer, unless the lease is another's by now.
    async fn keep(&self, lease: &Lease, mut answer: Answer) -> Result<(), sqlx::Error> {
        let length = answer.length();
        if answer.body.is_some() && !self.kept.take(lease.share_of, length) {
            metrics::answer_not_kept(metrics::DAY);
            answer.body = None;
        }
        if answer.body.is_none() {
            // They are of no use without it, and an upstream's may be many.
            answer.headers.clear();
        }
        let turn = self.turn(lease).await;
        // Its turn or not: it is carried out.
        let kept = store::finish(&self.pool, lease, &answer).await;
        drop(turn);
        kept
    }

    async fn turn(&self, lease: &Lease) -> Result<Pass, Busy> {
        let patience = limits::WAIT_OF_ORGANIZATION;
        self.turns.enter(lease.share_of, 1, patience).await
    }

    async fn claim(&self, lease: &Lease, fingerprint: &[u8; 32]) -> Result<Claim, Problem> {
        let turn = self.turn(lease).await;
        let _turn = turn.map_err(|_| too_many())?;
        let may_be_new = self.kept.has_key(lease.share_of);
        let claim = store::claim(&self.pool, lease, fingerprint, LEASE_SECS, may_be_new).await?;
        if claim == (Claim::Mine { is_new: true }) {
            self.kept.take_key(lease.share_of);
        }
        Ok(claim)
    }

    /// The same for a form. A button that is pressed twice sends it twice, and its browser
    /// shows the second answer alone: that is to be the first one's.
    async fn claim_of_form(&self, lease: &Lease, print: &[u8; 32]) -> Result<Claim, Problem> {
        let until = Instant::now() + PATIENCE_OF_FORM;
        loop {
            let claim = self.claim(lease, print).await?;
            if claim != Claim::InFlight || Instant::now() >= until {
                return Ok(claim);
            }
            tokio::time::sleep(FORM_LOOKS).await;
        }
    }
}

/// Carries a request that changes something out once for its key. Requests
/// without the header, or without a caller, pass.
pub async fn once(keeper: &Keeper, mode: Idempotency, request: Request, next: Next) -> Response {
    let changes = matches!(
        *request.method(),
        Method::POST | Method::PUT | Method::DELETE | Method::PATCH
    );
    if !changes || mode == Idempotency::Ignored || !request.headers().contains_key(HEADER) {
        return next.run(request).await;
    }
    let Some(caller) = Caller::of(&request) else {
        return next.run(request).await;
    };
    claim_and_run(keeper.clone(), mode, caller, request, next)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn claim_and_run(
    keeper: Keeper,
    mode: Idempotency,
    caller: Caller,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let key = Key::of(request.headers())?;
    let (parts, body) = request.into_parts();
    let body = body::read(&parts, body).await?;
    let fingerprint = key::fingerprint(&parts, &caller, &body);
    let lease = Lease::new(&caller, &key);
    let is_form = parts.extensions.get::<OfForm>().is_some();
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(key);
    let claimed = async move {
        let claim = match is_form {
            true => keeper.claim_of_form(&lease, &fingerprint).await?,
            false => keeper.claim(&lease, &fingerprint).await?,
        };
        match claim {
            Claim::Mine { .. } if mode == Idempotency::Copied => {
                Ok(copying::run(keeper, lease, request, next).await)
            }
            Claim::Mine { .. } => Ok(run(keeper, lease, mode, request, next).await),
            Claim::Answered(answer) => replay(answer, mode),
            Claim::InFlight => Err(in_flight()),
            Claim::OtherRequest => Err(reused()),
            Claim::NoRoom => Err(too_many_keys()),
        }
    };
    // A task of its own, from the claim on: a client that goes away does not
    // stop half-way what it asked for.
    detached::spawn(claimed).await.map_err(|error| {
        tracing::error!(%error, "a request's task failed");
        Problem::internal()
    })?
}

async fn run(
    keeper: Keeper,
    lease: Lease,
    mode: Idempotency,
    request: Request,
    next: Next,
) -> Response {
    let answering = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = match tokio::time::timeout(WORK, answering).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            tracing::error!("a request handler panicked");
            Problem::internal().into_response()
        }
        Err(_) => Problem::unavailable(
            "request_timeout",
            "this took too long and was given up; send it again with the same key",
        )
        .into_response(),
    };
    let (response, outcome) = settle(&keeper, &lease, mode, response).await;
    if let Err(error) = outcome {
        // The lease ends by itself, and the request can be sent again.
        tracing::warn!(%error, "the answer to an idempotency key could not be kept");
    }
    response
}

/// Marks an answer that is not kept: the same request gets another one once its client has
/// done what it says.
#[derive(Debug, Clone, Copy)]
pub struct Passing;

/// Keeps the answer, or lets the key be used again where it is that there was
/// no room for the request, or that it failed.
async fn settle(
    keeper: &Keeper,
    lease: &Lease,
    mode: Idempotency,
    response: Response,
) -> (Response, Result<(), sqlx::Error>) {
    let status = response.status();
    let passes = response.extensions().get::<Passing>().is_some();
    if passes || status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return (response, store::release(&keeper.pool, lease).await);
    }
    let (parts, body) = response.into_parts();
    if mode == Idempotency::Secret && status.is_success() {
        let outcome = keeper.keep(lease, Answer::of(&parts, None)).await;
        return (Response::from_parts(parts, body), outcome);
    }
    let (kept, body) = match take_body(&parts.headers, body).await {
        Ok(taken) => taken,
        Err(error) => {
            tracing::warn!(%error, "an answer ended before its time");
            let problem = Problem::internal().into_response();
            return (problem, store::release(&keeper.pool, lease).await);
        }
    };
    let answer = Answer::of(&parts, kept);
    let outcome = keeper.keep(lease, answer).await;
    (Response::from_parts(parts, body), outcome)
}

/// The body, and a copy of it where it is not too large to be kept.
async fn take_body(
    headers: &HeaderMap,
    body: Body,
) -> Result<(Option<Vec<u8>>, Body), axum::Error> {
    let content_type = headers.get(header::CONTENT_TYPE);
    if content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
        return Ok((None, body));
    }
    if body
        .size_hint()
        .exact()
        .is_some_and(|length| length > limits::KEPT_ANSWER as u64)
    {
        metrics::answer_not_kept(metrics::TOO_LARGE);
        return Ok((None, body));
    }
    let mut taken = Vec::new();
    let mut rest = body.into_data_stream();
    while let Some(chunk) = rest.next().await {
        taken.extend_from_slice(&chunk?);
        if taken.len() > limits::KEPT_ANSWER {
            metrics::answer_not_kept(metrics::TOO_LARGE);
            let begun = futures_util::stream::iter([Ok(taken.into())]);
            return Ok((None, Body::from_stream(begun.chain(rest))));
        }
    }
    Ok((Some(taken.clone()), Body::from(taken)))
}

impl Answer {
    /// The handler's answer; the headers of the connection are made anew.
    fn of(parts: &Parts, body: Option<Vec<u8>>) -> Self {
        let headers = parts.headers.iter();
        let headers = headers.filter(|(name, _)| **name != header::CONTENT_LENGTH);
        Self {
            status: parts.status,
            headers: headers
                .map(|(name, value)| (name.to_string(), text_of(value)))
                .collect(),
            body,
        }
    }
}

/// A header's bytes as characters of Latin-1: JSON keeps them as they are.
fn text_of(value: &HeaderValue) -> String {
    value.as_bytes().iter().copied().map(char::from).collect()
}

fn value_of(text: &str) -> Option<HeaderValue> {
    let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
    HeaderValue::from_bytes(&bytes.ok()?).ok()
}

fn replay(answer: Answer, mode: Idempotency) -> Result<Response, Problem> {
    let why = match mode {
        Idempotency::Secret => {
            "this request was carried out, and its answer is not kept: it had a secret, which is \
             shown once; if it was lost, make another"
        }
        _ => {
            "this request was carried out, but its answer was too large to be kept, or too much \
             was kept already"
        }
    };
    let not_kept = || Problem::new(StatusCode::CONFLICT, "idempotency_answer_not_kept", why);
    let body = answer.body.ok_or_else(not_kept)?;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = answer.status;
    for (name, value) in answer.headers {
        let header = HeaderName::try_from(&name).ok().zip(value_of(&value));
        let (name, value) = header.ok_or_else(|| {
            tracing::error!(
                name,
                "the answer kept with an Idempotency-Key cannot be read"
            );
            Problem::internal()
        })?;
        response.headers_mut().append(name, value);
    }
    response
        .headers_mut()
        .insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

fn in_flight() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "idempotency_in_flight",
        "the first request with this Idempotency-Key is not answered yet; send it again shortly",
    )
    .retry_after(ASK_AGAIN_SECS)
}

fn too_many() -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_many_requests",
        "too many requests with an Idempotency-Key are under way; wait for their answers",
    )
    .retry_after(ASK_AGAIN_SECS)
}

/// Nothing is carried out whose key cannot be kept. The oldest keys go by the hour.
fn too_many_keys() -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_many_idempotency_keys",
        format!(
            "this organization has used {} Idempotency-Keys within a day: keys of before still \
             work; send new requests without one, or later",
            limits::KEPT_KEYS
        ),
    )
    .retry_after(KEYS_AGAIN_SECS)
}

fn reused() -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "idempotency_key_reused",
        "this Idempotency-Key went with another request; use a new key for each",
    )
}
