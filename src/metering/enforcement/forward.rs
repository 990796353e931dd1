//! Forwards a call, streaming both ways, without hop-by-hop headers and without
//! headers that are ours.
//!
//! Each call runs in its own task, so that it outlives its client. What the
//! upstream did decides how its reservation is settled; only a failure of the
//! upstream releases it.

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

use super::call_budget::CallSlot;
use super::reservation::CallReservation;
use crate::http_client;
use crate::server::body::BodyError;
use crate::server::budget::Line;
use crate::server::layers::RequestId;
use crate::server::layers::idempotency::Streamed;
use crate::server::problem::Problem;

/// How long an upstream may take to start its response, and between chunks.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take to read a chunk.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest a call may take; one that is cut off then counts as used.
const CALL_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// If the client has stalled the upstream for this long in total, a broken
/// connection is the client's fault and the call counts.
const CLIENT_STALL: Duration = Duration::from_secs(5);
/// How long a call may go on after the service began to stop: longer than the
/// server takes to cut off the client.
const STOP_GRACE: Duration = Duration::from_secs(12);

const ORGANIZATION: HeaderName = HeaderName::from_static("x-organization-id");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Hop-by-hop headers (RFC 9110, 7.6.1), and those meant for us alone.
const NOT_FORWARDED: [&str; 12] = [
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

/// Headers that upstreams trust a proxy to set: whom a call is for, who it is, where
/// it came from, which address it had. Those of a caller are dropped.
const PROXY_HEADERS: [&str; 27] = [
    "forwarded",
    "forwarded-for",
    "client-ip",
    "true-client-ip",
    "x-client-ip",
    "x-client-dn",
    "x-client-verify",
    "x-cluster-client-ip",
    "x-originating-ip",
    "x-true-client-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "do-connecting-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-appengine-user-ip",
    "remote-addr",
    "x-host",
    "x-scheme",
    "x-url-scheme",
    "front-end-https",
    "x-http-host-override",
    "x-rewrite-url",
    "x-webauth-user",
    "x-proxy-user",
    "x-sendfile-type",
    // CGI would take it for the variable HTTP_PROXY.
    "proxy",
];
const PROXY_HEADER_PREFIXES: [&str; 21] = [
    "x-forward",
    "x-original-",
    "x-real-",
    "x-envoy-",
    "x-organization",
    "x-quota-",
    "remote-user",
    "remote-group",
    "remote-name",
    "remote-email",
    "x-remote-",
    "x-auth-request-",
    "x-authenticated-",
    "x-client-cert",
    "x-ssl-",
    "ssl-client-",
    "x-accel-",
    "cf-",
    "x-amzn-oidc-",
    "x-goog-authenticated-",
    "x-goog-iap-",
];

/// A call to be forwarded.
pub struct Call {
    pub method: Method,
    pub headers: HeaderMap,
    pub body: Body,
    pub organization_id: Uuid,
    pub client_ip: Option<IpAddr>,
    pub request_id: Option<RequestId>,
}

/// The headers without those of a single connection.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        let dropped = NOT_FORWARDED.contains(&name.as_str())
            || named.iter().any(|other| other == name.as_str());
        if !dropped {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// The headers the upstream gets: the caller's, and ours about the caller.
fn to_upstream(call: &Call) -> HeaderMap {
    let mut headers = end_to_end(&call.headers);
    let ours = |name: &str| {
        // CGI-style upstreams read `X_Real_IP` as `X-Real-IP`.
        name.contains('_')
            || PROXY_HEADERS.contains(&name)
            || PROXY_HEADER_PREFIXES
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
    let client_ip = call.client_ip.map(|ip| ip.to_canonical().to_string());
    for (name, value) in [
        (ORGANIZATION, Some(call.organization_id.to_string())),
        (FORWARDED_FOR, client_ip),
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

/// The upstream's headers for the caller, without those that would pass for
/// ours.
fn to_caller(headers: &HeaderMap) -> HeaderMap {
    let mut headers = end_to_end(headers);
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
    pub reservation: CallReservation,
    pub slot: CallSlot,
    /// Its client's connection; `None` in tests of handlers.
    pub line: Option<Arc<Line>>,
    pub stop: CancellationToken,
}

/// Hands the start of the response, or a problem, to the waiting client.
type Responder = oneshot::Sender<Result<Response, Problem>>;
type Chunk = Result<Bytes, std::io::Error>;

impl Forwarding {
    /// Runs the call to its end. The reservation counts once the upstream has
    /// done its part, whether or not the client still waits.
    pub async fn run(mut self, responder: Responder) {
        let stop = self.stop.clone();
        let stopped = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_GRACE).await;
        };
        let cut_off = tokio::select! {
            () = self.exchange(responder) => false,
            () = stopped => true,
            () = tokio::time::sleep(CALL_TIMEOUT) => true,
        };
        if cut_off {
            tracing::warn!("a call was cut off; it counts as used");
            self.reservation.set_used(true);
        }
    }

    async fn exchange(&mut self, mut responder: Responder) {
        let stop = self.stop.clone();
        let nobody_waits = async {
            stop.cancelled().await;
            responder.closed().await;
        };
        let sent = tokio::select! {
            sent = self.send() => Some(sent),
            () = nobody_waits => None,
        };
        let sent = match sent {
            Some(Ok(sent)) => sent,
            // The client may be gone.
            Some(Err(problem)) => return drop(responder.send(Err(problem))),
            None => return self.reservation.set_used(true),
        };
        let status = sent.status();
        self.reservation.set_used(status.is_success());
        let headers = to_caller(sent.headers());
        let (client, chunks) = mpsc::channel::<Chunk>(1);
        let chunks = futures_util::stream::unfold(chunks, |mut chunks| async move {
            chunks.recv().await.map(|chunk| (chunk, chunks))
        });
        let mut response = Response::new(Body::from_stream(chunks));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response.extensions_mut().insert(Streamed);
        if responder.send(Ok(response)).is_ok() {
            self.relay(sent.bytes_stream(), client).await;
        }
    }

    async fn send(&mut self) -> Result<reqwest::Response, Problem> {
        let headers = to_upstream(&self.call);
        let body = std::mem::take(&mut self.call.body);
        let client_failed = Arc::new(AtomicBool::new(false));
        let failed = client_failed.clone();
        let body = body.into_data_stream().inspect(move |chunk| {
            if chunk.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
        });
        let request = self
            .client
            .request(self.call.method.clone(), self.url.clone())
            .headers(headers)
            .timeout(CALL_TIMEOUT)
            .body(reqwest::Body::wrap_stream(body));
        match tokio::time::timeout(HEAD_TIMEOUT, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(_)) if client_failed.load(Ordering::Relaxed) => {
                Err(BodyError::Incomplete.into())
            }
            Ok(Err(error)) if !error.is_timeout() => {
                // Logged without the URL, whose query is the caller's, and not answered.
                let host = self.url.host_str();
                let reason = http_client::reason(error);
                tracing::warn!(host, reason, "cannot reach the upstream");
                Err(Problem::new(
                    StatusCode::BAD_GATEWAY,
                    "upstream_unreachable",
                    "the service behind this address cannot be reached; nothing was counted",
                ))
            }
            Ok(Err(_)) | Err(_) => Err(too_slow()),
        }
    }

    /// Relays the upstream's chunks to the client until either of them ends.
    async fn relay<S>(&mut self, mut chunks: S, client: mpsc::Sender<Chunk>)
    where
        S: futures_util::Stream<Item = Result<Bytes, reqwest::Error>> + Unpin,
    {
        let mut last_bytes = 0;
        let mut client_took = Duration::ZERO;
        loop {
            let reading = async {
                let permit = match &self.line {
                    Some(line) => Some((self.slot.permit_read(line, last_bytes).await, line)),
                    None => None,
                };
                let read = tokio::time::timeout(CHUNK_TIMEOUT, chunks.next());
                (read.await, permit)
            };
            let (read, permit) = tokio::select! {
                read = reading => read,
                () = client.closed() => return,
            };
            match read {
                Ok(Some(Ok(chunk))) => {
                    last_bytes = chunk.len();
                    // Its memory is taken until its last byte is written.
                    let chunk = match permit {
                        Some((permit, line)) => permit.pass_on(chunk, line.clone()),
                        None => chunk,
                    };
                    let started = Instant::now();
                    let taken = tokio::time::timeout(CLIENT_TIMEOUT, client.send(Ok(chunk)));
                    if !matches!(taken.await, Ok(Ok(()))) {
                        return;
                    }
                    client_took += started.elapsed();
                }
                Ok(None) => return,
                Ok(Some(Err(_))) | Err(_) => {
                    if client_took < CLIENT_STALL {
                        self.reservation.set_used(false);
                    }
                    let error = std::io::Error::other("the upstream broke off");
                    let _ = tokio::time::timeout(CLIENT_TIMEOUT, client.send(Err(error))).await;
                    return;
                }
            }
        }
    }
}

/// Starts a call and waits for the head of its response.
pub async fn forward(
    tasks: &tokio_util::task::TaskTracker,
    forwarding: Forwarding,
) -> Result<Response, Problem> {
    let (responder, response) = oneshot::channel();
    tasks.spawn(forwarding.run(responder).in_current_span());
    response.await.unwrap_or_else(|_| {
        Err(Problem::unavailable(
            "service_stopping",
            "the service is stopping; try again",
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
    fn headers_of_a_connection_or_for_us_are_not_forwarded() {
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
        let passed = end_to_end(&headers);
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
            "client-ip",
            "remote-user",
            "x-remote-user",
            "x-remote-addr",
            "x-host",
            "x-forwarded",
            "x-original-forwarded-for",
            "x-client-cert-dn",
            "x-auth-request-email",
            "cf-connecting-ip",
            "proxy",
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
            client_ip: Some("::ffff:10.0.0.7".parse().unwrap()),
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
