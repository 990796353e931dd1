//! `GET /openapi.json` and `GET /docs`: the API's description, for programs
//! and for people.

mod page;
mod schema;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(paths(openapi, docs))]
pub struct Api;

/// Both, made once.
struct Documents {
    json: Bytes,
    page: Bytes,
    /// Lets the page's own style apply, and nothing else.
    policy: HeaderValue,
}

pub fn router(document: Value) -> Router {
    let style = STANDARD.encode(Sha256::digest(page::STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let documents = Documents {
        json: document.to_string().into(),
        page: page::render(&document).into(),
        policy: HeaderValue::try_from(policy).expect("it is plain text"),
    };
    Router::new()
        .route("/openapi.json", get(openapi))
        .route("/docs", get(docs))
        .with_state(Arc::new(documents))
}

/// This description
#[utoipa::path(get, path = "/openapi.json", tag = "Operation",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)))]
async fn openapi(State(documents): State<Arc<Documents>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, documents.json.clone()).into_response()
}

/// This description, as a page to read
#[utoipa::path(get, path = "/docs", tag = "Operation",
    responses((status = 200, description = "A page without scripts or outside assets.",
               body = String, content_type = "text/html")))]
async fn docs(State(documents): State<Arc<Documents>>) -> Response {
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, documents.policy.clone()),
    ];
    (headers, documents.page.clone()).into_response()
}
