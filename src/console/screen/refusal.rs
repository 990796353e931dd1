//! Pages that cannot be shown, and why.

use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::{Frame, Screen, answer};
use crate::server::problem::Problem;

/// What a page says that cannot be shown. A problem's words are for operators as well.
pub struct Refusal(Problem);

impl<T: Into<Problem>> From<T> for Refusal {
    fn from(problem: T) -> Self {
        Self(problem.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = self.0;
        let status = problem.status();
        let screen = Screen {
            frame: Frame::of(status.canonical_reason().unwrap_or("Error")),
            above: Some(("/console".to_owned(), "Console".to_owned())),
            lead: Some(problem.detail().to_owned()),
            blocks: Vec::new(),
        };
        let mut response = answer(status, &screen);
        // The problem's own headers, such as Retry-After.
        let retry = problem
            .into_response()
            .headers()
            .get(header::RETRY_AFTER)
            .cloned();
        if let Some(retry) = retry {
            response.headers_mut().insert(header::RETRY_AFTER, retry);
        }
        response
    }
}
