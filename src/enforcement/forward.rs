//! Passing a call on: streams both ways, without what belongs to a connection
//! or to us.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use reqwest::Url;
use uuid::Uuid;

use super::hold::Hold;
use crate::error::Problem;

/// How long an upstream may take to begin its answer, and to go on with it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);
/// A call as a whole, so that no reservation expires under it.
const CALL_TIMEOUT: Duration = Duration::from_secs(10 * 60);

const ORGANIZATION: HeaderName = HeaderName::from_static("x-organization-id");

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

/// What is passed on.
pub struct Call {
    pub method: Method,
    pub headers: HeaderMap,
    pub body: Body,
    pub organization_id: Uuid,
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

/// Makes the call. `hold` is counted when the answer has gone through to its
/// end, and let go when the upstream fails.
pub async fn forward(
    client: &reqwest::Client,
    url: Url,
    call: Call,
    mut hold: Hold,
) -> Result<Response, Problem> {
    let mut headers = passed_on(&call.headers);
    let organization = call.organization_id.to_string();
    if let Ok(organization) = HeaderValue::try_from(organization) {
        headers.insert(ORGANIZATION, organization);
    }
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
    let headers = passed_on(answer.headers());
    let chunks = answer.bytes_stream();
    let body = futures_util::stream::unfold(Some((chunks, hold)), next_chunk);
    let mut response = Response::new(Body::from_stream(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
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
}
