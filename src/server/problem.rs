//! Errors as the API answers them: RFC 9457 problem details.

use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::db;

/// Of problems (RFC 9457).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Bytes of what was sent that a problem shows.
const SHOWN: usize = 64;

/// What was sent, as a problem shows it: quoted, on one line, and short even where it is
/// escaped.
pub fn shown(text: &str) -> String {
    let mut shown = String::from('"');
    for character in text.chars() {
        let before = shown.len();
        match character {
            '\'' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
        if shown.len() > SHOWN {
            shown.truncate(before);
            shown.push('…');
            break;
        }
    }
    shown.push('"');
    shown
}

/// An answer that says what is wrong, by a stable code, and what to do.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retry_after_secs: Option<u32>,
    members: Map<String, Value>,
}

/// What is wrong, and what to do.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDetails<'a> {
    /// A name for the kind of problem.
    #[schema(format = "uri", example = "urn:valuecanvas-billing:problem:not_found")]
    r#type: String,
    /// The status in words.
    #[schema(example = "Not Found")]
    title: &'a str,
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong in this case, and what to do.
    detail: &'a str,
    /// What programs should look at: it does not change.
    #[schema(example = "not_found")]
    code: &'a str,
    #[serde(flatten)]
    #[schema(ignore)]
    members: &'a Map<String, Value>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            retry_after_secs: None,
            members: Map::new(),
        }
    }

    /// 503: the client should come back.
    pub fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(5)
    }

    /// 404, also for what belongs to another organization.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 404, for an address without a route.
    pub fn no_route() -> Self {
        Self::not_found("Not found.")
    }

    /// 500: nothing that the client could do; what it was is logged.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong; it was logged",
        )
    }

    /// Says more, in a member of its own.
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.members.insert(name.to_owned(), value);
        self
    }

    /// Says when to come back.
    pub fn retry_after(self, secs: u32) -> Self {
        Self {
            retry_after_secs: Some(secs),
            ..self
        }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn code(&self) -> &'static str {
        self.code
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }
}

/// For `?` in handlers: what the database said is logged, and stays inside.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&sqlx::Error> for Problem {
    fn from(error: &sqlx::Error) -> Self {
        if db::is_outage(error) || db::is_conflict(error) || db::is_timeout(error) {
            db::disk::note(error);
            tracing::warn!(%error, "a request failed for now");
            return Self::unavailable(
                "database_unavailable",
                "the database cannot answer at the moment; try again",
            );
        }
        if db::is_unstorable_text(error) {
            return Self::new(
                StatusCode::BAD_REQUEST,
                "invalid_text",
                "a text holds a character that cannot be stored, such as NUL",
            );
        }
        if db::is_time_out_of_range(error) {
            return Self::new(
                StatusCode::BAD_REQUEST,
                "invalid_time",
                "a time lies before 4713 BC, where the database's times begin; send a later one",
            );
        }
        tracing::error!(%error, "a request failed");
        Self::internal()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemDetails {
            r#type: format!("urn:valuecanvas-billing:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            members: &self.members,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(secs) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        // Pages say it in their own words.
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}
