//! `GET /openapi.json` and `GET /docs`: the API's description, for programs
//! and for people.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(paths(openapi))]
pub struct Api;

/// Both, made once.
struct Documents {
    json: Bytes,
}

pub fn router(document: Value) -> Router {
    let documents = Documents {
        json: document.to_string().into(),
    };
    Router::new()
        .route("/openapi.json", get(openapi))
        .with_state(Arc::new(documents))
}

/// This description
#[utoipa::path(get, path = "/openapi.json", tag = "Operation",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)))]
async fn openapi(State(documents): State<Arc<Documents>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, documents.json.clone()).into_response()
}
