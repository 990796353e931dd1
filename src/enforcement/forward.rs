//! Passing a call on: streams both ways, without what belongs to a connection
//! or to us.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use reqwest::Url;
use uuid::Uuid;

use super::hold::Hold;
use crate::error::Problem;
use crate::http::RequestId;
use crate::http::idempotency::Streamed;

/// How long an upstream may take to begin its answer, and to go on with it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);
/// A call as a whole, so that no reservation expires under it.
const CALL_TIMEOUT: Duration = Duration::from_secs(10 * 60);

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

/// Makes the call. `hold` is counted when the answer has gone through to its
/// end, and let go when the upstream fails.
pub async fn forward(
    client: &reqwest::Client,
    url: Url,
    call: Call,
    mut hold: Hold,
) -> Result<Response, Problem> {
    let headers = to_upstream(&call);
    let request = client
        .request(call.method, url)
        .headers(headers)
        .timeout(CALL_TIMEOUT)
        .body(reqwest::Body::wrap_stream(call.body.into_data_stream()));
    let answer = match tokio::time::timeout(HEAD_TIMEOUT, request.send()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.is_timeout() => return Err(too_slow()),
        Ok(Err(error)) => {
            // The address stays in the log.
            tracing::warn!(%error, "the upstream cannot be reached");
            return Err(Problem::new(
                StatusCode::BAD_GATEWAY,
                "upstream_unreachable",
                "the service behind this address cannot be reached; nothing was counted",
            ));
        }
        Err(_) => return Err(too_slow()),
    };
    let status = answer.status();
    hold.set_used(status.is_success());
    let headers = to_caller(answer.headers());
    let chunks = answer.bytes_stream();
    let body = futures_util::stream::unfold(Some((chunks, hold)), next_chunk);
    let mut response = Response::new(Body::from_stream(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.extensions_mut().insert(Streamed);
    Ok(response)
}

/// What the upstream sends, until it ends or breaks off; with the last of it
/// the hold is settled.
async fn next_chunk<S>(
    state: Option<(S, Hold)>,
) -> Option<(Result<axum::body::Bytes, std::io::Error>, Option<(S, Hold)>)>
where
    S: futures_util::Stream<Item = Result<axum::body::Bytes, reqwest::Error>> + Unpin,
{
    let (mut chunks, mut hold) = state?;
    match tokio::time::timeout(CHUNK_TIMEOUT, chunks.next()).await {
        Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some((chunks, hold)))),
        Ok(None) => None,
        Ok(Some(Err(_))) | Err(_) => {
            hold.set_used(false);
            let error = std::io::Error::other("the upstream broke off");
            Some((Err(error), None))
        }
    }
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
