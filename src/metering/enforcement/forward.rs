//! Passing a call on: streams both ways, without what belongs to a connection
//! or to us.
//!
//! A call that went to the upstream outlives its client: each is carried by a
//! task of its own, which settles what is held by what the upstream did. Only
//! the upstream's failure lets it go.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use reqwest::Url;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use super::hold::Hold;
use super::room::Place;
use crate::server::body::BodyError;
use crate::server::layers::RequestId;
use crate::server::layers::idempotency::Streamed;
use crate::server::problem::Problem;

/// How long an upstream may take to begin its answer, and to go on with it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take to read on.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
/// A call as a whole; one that is cut off then was used.
const CALL_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// An upstream that breaks off after its client kept it waiting for as long in
/// all did not fail.
const CLIENTS_DOING: Duration = Duration::from_secs(5);
/// When a call ends that is under way as the service stops: after the server
/// has cut off its client.
const STOPPING: Duration = Duration::from_secs(12);

const ORGANIZATION: HeaderName = HeaderName::from_static("x-organization-id");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// RFC 9110, 7.6.1, and what is between the caller and us alone.
const NOT_PASSED_ON: [&str; 12] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "authorization",
    "cookie",
];

/// What upstreams believe of a proxy in front of them: for whom a call is, from
/// where it came, which address it had. A caller does not say it.
const SAID_BY_PROXIES: [&str; 8] = [
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "x-rewrite-url",
];
const SAID_BY_PROXIES_TOO: [&str; 5] = [
    "x-forwarded-",
    "x-original-",
    "x-envoy-",
    "x-organization",
    "x-quota-",
];

/// What is passed on.
pub struct Call {
    pub method: Method,
    pub headers: HeaderMap,
    pub body: Body,
    pub organization_id: Uuid,
    /// From where it came, where that is known.
    pub from: Option<IpAddr>,
    pub request_id: Option<RequestId>,
}

/// Removes what belongs to one connection.
fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        let dropped = NOT_PASSED_ON.contains(&name.as_str())
            || named.iter().any(|other| other == name.as_str());
        if !dropped {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// The headers that the upstream gets: the caller's, and what we say of it.
fn to_upstream(call: &Call) -> HeaderMap {
    let mut headers = passed_on(&call.headers);
    let ours = |name: &str| {
        // Upstreams of the CGI kind read `X_Real_IP` as `X-Real-IP`.
        name.contains('_')
            || SAID_BY_PROXIES.contains(&name)
            || SAID_BY_PROXIES_TOO
                .iter()
                .any(|prefix| name.starts_with(prefix))
    };
    let dropped: Vec<HeaderName> = headers
        .keys()
        .filter(|name| ours(name.as_str()))
        .cloned()
        .collect();
    for name in dropped {
        headers.remove(name);
    }
    let from = call.from.map(|from| from.to_canonical().to_string());
    for (name, value) in [
        (ORGANIZATION, Some(call.organization_id.to_string())),
        (FORWARDED_FOR, from),
    ] {
        if let Some(value) = value {
            let value = HeaderValue::try_from(value).expect("ids and addresses are plain text");
            headers.insert(name, value);
        }
    }
    if let Some(id) = &call.request_id {
        headers.insert(REQUEST_ID, id.header_value());
    }
    headers
}

/// The headers that the caller gets of the upstream's: not those by which it
/// would speak for us.
fn to_caller(headers: &HeaderMap) -> HeaderMap {
    let mut headers = passed_on(headers);
    let ours = |name: &str| {
        name == "set-cookie"
            || name == "x-grace-period-expires"
            || name == "idempotent-replayed"
            || name.starts_with("x-quota-")
            || name.starts_with("access-control-")
    };
    let dropped: Vec<HeaderName> = headers
        .keys()
        .filter(|name| ours(name.as_str()))
        .cloned()
        .collect();
    for name in dropped {
        headers.remove(name);
    }
    headers
}

/// A call on its way to an upstream.
pub struct Forwarding {
    pub client: reqwest::Client,
    pub url: Url,
    pub call: Call,
    pub hold: Hold,
    pub place: Place,
    pub stop: CancellationToken,
}

/// What the client hears, once there is something to hear.
type Answered = oneshot::Sender<Result<Response, Problem>>;
type Chunk = Result<Bytes, std::io::Error>;

impl Forwarding {
    /// Makes the call. What is held is counted when the upstream has done its
    /// part, whether or not the client waits for it.
    pub async fn carry(mut self, answered: Answered) {
        let stop = self.stop.clone();
        let given_up = async {
            stop.cancelled().await;
            tokio::time::sleep(STOPPING).await;
        };
        let cut_off = tokio::select! {
            () = self.carry_on(answered) => false,
            () = given_up => true,
            () = tokio::time::sleep(CALL_TIMEOUT) => true,
        };
        if cut_off {
            tracing::warn!("a call was cut off; it was used");
            self.hold.set_used(true);
        }
    }

    async fn carry_on(&mut self, mut answered: Answered) {
        let stop = self.stop.clone();
        let nobody_waits = async {
            stop.cancelled().await;
            answered.closed().await;
        };
        let sent = tokio::select! {
            sent = self.send() => Some(sent),
            () = nobody_waits => None,
        };
        let sent = match sent {
            Some(Ok(sent)) => sent,
            // The client may be gone.
            Some(Err(problem)) => return drop(answered.send(Err(problem))),
            None => return self.hold.set_used(true),
        };
        let status = sent.status();
        self.hold.set_used(status.is_success());
        let headers = to_caller(sent.headers());
        let (client, chunks) = mpsc::channel::<Chunk>(1);
        let chunks = futures_util::stream::unfold(chunks, |mut chunks| async move {
            chunks.recv().await.map(|chunk| (chunk, chunks))
        });
        let mut response = Response::new(Body::from_stream(chunks));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response.extensions_mut().insert(Streamed);
        if answered.send(Ok(response)).is_ok() {
            self.pass(sent.bytes_stream(), client).await;
        }
    }

    async fn send(&mut self) -> Result<reqwest::Response, Problem> {
        let headers = to_upstream(&self.call);
        let body = std::mem::take(&mut self.call.body);
        let broke_off = Arc::new(AtomicBool::new(false));
        let noting = broke_off.clone();
        let body = body.into_data_stream().inspect(move |chunk| {
            if chunk.is_err() {
                noting.store(true, Ordering::Relaxed);
            }
        });
        let request = self
            .client
            .request(self.call.method.clone(), self.url.clone())
            .headers(headers)
            .timeout(CALL_TIMEOUT)
            .body(reqwest::Body::wrap_stream(body));
        match tokio::time::timeout(HEAD_TIMEOUT, request.send()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) if broke_off.load(Ordering::Relaxed) => Err(BodyError::Incomplete.into()),
            Ok(Err(error)) if !error.is_timeout() => {
                // The address stays in the log.
                tracing::warn!(%error, "the upstream cannot be reached");
                Err(Problem::new(
                    StatusCode::BAD_GATEWAY,
                    "upstream_unreachable",
                    "the service behind this address cannot be reached; nothing was counted",
                ))
            }
            Ok(Err(_)) | Err(_) => Err(too_slow()),
        }
    }

    /// Hands the client what the upstream sends, until it ends or breaks off.
    async fn pass<S>(&mut self, mut chunks: S, client: mpsc::Sender<Chunk>)
    where
        S: futures_util::Stream<Item = Result<Bytes, reqwest::Error>> + Unpin,
    {
        let mut last = 0;
        let mut client_took = Duration::ZERO;
        loop {
            let reading = async {
                let room = self.place.for_reading(last).await;
                (
                    tokio::time::timeout(CHUNK_TIMEOUT, chunks.next()).await,
                    room,
                )
            };
            let (read, _room) = tokio::select! {
                read = reading => read,
                () = client.closed() => return,
            };
            match read {
                Ok(Some(Ok(chunk))) => {
                    last = chunk.len();
                    let started = Instant::now();
                    let taken = tokio::time::timeout(CLIENT_TIMEOUT, client.send(Ok(chunk)));
                    if !matches!(taken.await, Ok(Ok(()))) {
                        return;
                    }
                    client_took += started.elapsed();
                }
                Ok(None) => return,
                Ok(Some(Err(_))) | Err(_) => {
                    if client_took < CLIENTS_DOING {
                        self.hold.set_used(false);
                    }
                    let error = std::io::Error::other("the upstream broke off");
                    let _ = tokio::time::timeout(CLIENT_TIMEOUT, client.send(Err(error))).await;
                    return;
                }
            }
        }
    }
}

/// Carries a call out, and waits for the beginning of its answer.
pub async fn forward(
    tasks: &tokio_util::task::TaskTracker,
    forwarding: Forwarding,
) -> Result<Response, Problem> {
    let (answered, answer) = oneshot::channel();
    tasks.spawn(forwarding.carry(answered).in_current_span());
    answer.await.unwrap_or_else(|_| {
        Err(Problem::unavailable(
            "service_stopping",
            "the service stops; send it again",
        ))
    })
}

fn too_slow() -> Problem {
    Problem::new(
        StatusCode::GATEWAY_TIMEOUT,
        "upstream_timeout",
        "the service behind this address took too long; nothing was counted",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_connection_or_to_us_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("authorization", "Bearer secret"),
            ("content-type", "text/plain"),
            ("traceparent", "00-1"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let passed = passed_on(&headers);
        let kept: Vec<&str> = passed.keys().map(HeaderName::as_str).collect();
        assert_eq!(kept, ["content-type", "traceparent"]);
    }

    #[test]
    fn a_caller_does_not_speak_for_a_proxy() {
        let mut headers = HeaderMap::new();
        for name in [
            "x_organization_id",
            "x-organization",
            "x-organization-id",
            "x-forwarded-for",
            "x-forwarded-host",
            "x_forwarded_for",
            "x-real-ip",
            "forwarded",
            "x-quota-usage",
            "x-quota-amount",
            "x-original-url",
            "x-rewrite-url",
            "true-client-ip",
            "x-request-id",
            "x-own",
        ] {
            headers.append(name, "theirs".parse().unwrap());
            headers.append(name, "twice".parse().unwrap());
        }
        let call = Call {
            method: Method::GET,
            headers,
            body: Body::empty(),
            organization_id: Uuid::nil(),
            from: Some("::ffff:10.0.0.7".parse().unwrap()),
            request_id: Some(RequestId::of(&HeaderMap::new())),
        };
        let sent = to_upstream(&call);
        let of = |name| sent.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(of("x-own"), ["theirs", "twice"]);
        assert_eq!(of("x-organization-id"), [&Uuid::nil().to_string()]);
        assert_eq!(of("x-forwarded-for"), ["10.0.0.7"]);
        assert_eq!(of("x-request-id").len(), 1);
        assert_eq!(sent.keys_len(), 4, "{sent:?}");
    }
}
