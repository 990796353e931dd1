//! What handlers take from a request. Each refusal is a problem.

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use jiff::Timestamp;
use serde::Deserialize as _;
use serde::de::{DeserializeOwned, Deserializer, Error as _};

use super::body;
use crate::server::problem::Problem;

/// A JSON object; that it is said to be JSON is checked before. Unknown fields are refused where the type says
/// `deny_unknown_fields`, which every request type does.
pub struct Json<T>(pub T);

/// The same where the body may be left out, or be `null`.
pub struct OptionalJson<T>(pub Option<T>);

/// A body of any kind, read within the limits of size and time.
pub struct RawBody(pub Bytes);

/// The query string.
pub struct Query<T>(pub T);

/// The parameters of the path.
pub struct Path<T>(pub T);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        Ok(Self(body::read(&parts, body).await?))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let RawBody(body) = RawBody::from_request(request, state).await?;
        json_object(&body).map(Self)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let RawBody(body) = RawBody::from_request(request, state).await?;
        if body.is_empty() {
            return Ok(Self(None));
        }
        json_object(&body).map(Self)
    }
}

fn json_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // serde would take a list for the fields in their order.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(refusal("invalid_request", "send a JSON object, not a list"));
    }
    parse_json(body)
}

/// Reads a JSON document; what is wrong with it, and where, is in the problem.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let at = error.path().to_string();
        let inner = error.into_inner();
        let code = match inner.classify() {
            serde_json::error::Category::Data => code_of(&inner.to_string(), "invalid_request"),
            _ => "invalid_json",
        };
        let detail = match at.as_str() {
            "." | "?" => inner.to_string(),
            at => format!("{at}: {inner}"),
        };
        refusal(code, &detail)
    })?;
    deserializer
        .end()
        .map_err(|error| refusal("invalid_json", &error.to_string()))?;
    Ok(value)
}

/// serde tells an unknown field from other faults by its words only.
fn code_of(message: &str, otherwise: &'static str) -> &'static str {
    if message.contains("unknown field") {
        "unknown_field"
    } else {
        otherwise
    }
}

/// The detail may repeat what was sent, but not all of it.
fn refusal(code: &'static str, detail: &str) -> Problem {
    const MOST: usize = 300;
    let mut said: String = detail.chars().take(MOST).collect();
    if said.len() < detail.len() {
        said.push('…');
    }
    Problem::new(StatusCode::BAD_REQUEST, code, said)
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(query_refusal)
    }
}

/// Reads the query string of `uri`, as [`Query`] does.
pub fn parse_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    axum::extract::Query::try_from_uri(uri)
        .map(|axum::extract::Query(value)| value)
        .map_err(query_refusal)
}

/// A time in a query, for `deserialize_with`.
pub fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|_| {
        let wanted = "a time as in RFC 3339 is needed, such as 2026-01-31T12:00:00Z (a + is \
                      written %2B in a query)";
        D::Error::custom(wanted)
    })
}

fn query_refusal(rejection: QueryRejection) -> Problem {
    // Ahead of the fault stand axum's own words.
    let said = rejection.body_text();
    let said = said.split_once(": ").map_or(&*said, |(_, fault)| fault);
    refusal(code_of(said, "invalid_query"), said)
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    /// What cannot be an id names nothing.
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|_: PathRejection| Problem::no_route())
    }
}
