//! `GET /openapi.json` and `GET /docs`: the API's description, for programs
//! and for people.

mod page;
mod schema;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
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
    json: Document,
    page: Document,
    /// Lets the page's own style apply, and nothing else.
    policy: HeaderValue,
}

struct Document {
    text: Bytes,
    tag: HeaderValue,
}

impl Document {
    fn new(text: String) -> Self {
        let digest = hex::encode(&Sha256::digest(&text)[..16]);
        let tag = HeaderValue::try_from(format!("\"{digest}\"")).expect("it is plain text");
        let text = text.into();
        Self { text, tag }
    }

    /// Nothing where the client has it already.
    fn answer(&self, asked: &HeaderMap, kind: &'static str) -> Response {
        let kept = asked.get_all(header::IF_NONE_MATCH).iter();
        let mut kept = kept.filter_map(|tags| {
            tags.to_str().ok()?.split(',').map(str::trim).find(|tag| {
                tag.trim_start_matches("W/").as_bytes() == self.tag.as_bytes() || *tag == "*"
            })
        });
        let headers = [
            (header::ETAG, self.tag.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        if kept.next().is_some() {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(kind))];
        (headers, kind, self.text.clone()).into_response()
    }
}

pub fn router(document: Value) -> Router {
    let style = STANDARD.encode(Sha256::digest(page::STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let documents = Documents {
        json: Document::new(document.to_string()),
        page: Document::new(page::render(&document)),
        policy: HeaderValue::try_from(policy).expect("it is plain text"),
    };
    Router::new()
        .route("/openapi.json", get(openapi))
        .route("/docs", get(docs))
        .with_state(Arc::new(documents))
}

/// This description
#[utoipa::path(get, path = "/openapi.json", tag = "Operation",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object),
              (status = 304, description = "It is what `If-None-Match` names.")))]
async fn openapi(State(documents): State<Arc<Documents>>, headers: HeaderMap) -> Response {
    documents.json.answer(&headers, "application/json")
}

/// This description, as a page to read
#[utoipa::path(get, path = "/docs", tag = "Operation",
    responses((status = 200, description = "A page without scripts or outside assets.",
               body = String, content_type = "text/html"),
              (status = 304, description = "It is what `If-None-Match` names.")))]
async fn docs(State(documents): State<Arc<Documents>>, headers: HeaderMap) -> Response {
    let policy = [(header::CONTENT_SECURITY_POLICY, documents.policy.clone())];
    let page = documents.page.answer(&headers, "text/html; charset=utf-8");
    (policy, page).into_response()
}
