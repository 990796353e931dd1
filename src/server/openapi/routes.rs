//! `GET /openapi.json` and `GET /docs`: the API's description, for programs
//! and for people.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use utoipa_axum::routes;
use utoipa_swagger_ui::Config;

use super::Written;
use crate::server::conditional::is_kept;
use crate::server::extract::Path;
use crate::server::problem::Problem;
use crate::server::routes::{Routes, public};

/// Swagger UI's page asks this service, and nobody else, for anything. It draws
/// with pictures in its style sheet.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The description and its page, each made once.
pub struct Documents {
    json: Document,
    page: Document,
    assets: [(&'static str, Document); 3],
}

impl Documents {
    pub fn new(description: &Value) -> Self {
        let written = serde_json::to_vec(&Written(description)).expect("it is plain values");
        let script = Bytes::from_static(include_bytes!("page.js"));
        let page = Bytes::from_static(include_bytes!("page.html"));
        Self {
            json: Document::new("application/json", written.into()),
            page: Document::new("text/html; charset=utf-8", page),
            assets: [
                ("page.js", Document::new("text/javascript", script)),
                vendored("swagger-ui-bundle.js"),
                vendored("swagger-ui.css"),
            ],
        }
    }
}

fn vendored(name: &'static str) -> (&'static str, Document) {
    let config = Arc::new(Config::from("openapi.json"));
    let file = utoipa_swagger_ui::serve(name, config).ok().flatten();
    let file = file.expect("the crate has Swagger UI's files");
    let mut document = Document::new(&file.content_type, file.bytes.into_owned().into());
    document.gzipped = file.gzpipped;
    (name, document)
}

struct Document {
    kind: HeaderValue,
    text: Bytes,
    tag: String,
    gzipped: bool,
}

impl Document {
    fn new(kind: &str, text: Bytes) -> Self {
        let digest = hex::encode(&Sha256::digest(&text)[..16]);
        Self {
            kind: header_of(kind),
            tag: format!("\"{digest}\""),
            text,
            gzipped: false,
        }
    }

    /// Nothing where the client has it already.
    fn answer(&self, asked: &HeaderMap) -> Response {
        let headers = [
            (header::ETAG, header_of(&self.tag)),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        if is_kept(asked, &self.tag) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        let kind = [(header::CONTENT_TYPE, self.kind.clone())];
        let mut response = (headers, kind, self.text.clone()).into_response();
        if self.gzipped {
            let gzip = HeaderValue::from_static("gzip");
            response
                .headers_mut()
                .insert(header::CONTENT_ENCODING, gzip);
        }
        response
    }
}

fn header_of(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).expect("it is plain text")
}

pub fn routes() -> Routes<Arc<Documents>> {
    Routes::new()
        .route(routes!(openapi), public())
        .route(routes!(docs), public().any_accept())
        .route(routes!(asset), public().any_accept())
}

/// Get this description
#[utoipa::path(get, path = "/openapi.json", operation_id = "getOpenapi", tag = "Operation",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object),
              (status = 304, description = "It is what `If-None-Match` names.")))]
async fn openapi(State(documents): State<Arc<Documents>>, headers: HeaderMap) -> Response {
    documents.json.answer(&headers)
}

/// Read this description as a page
#[utoipa::path(get, path = "/docs", operation_id = "getDocs", tag = "Operation",
    responses((status = 200, description = "Swagger UI, served without anything from outside.",
               body = String, content_type = "text/html"),
              (status = 304, description = "It is what `If-None-Match` names.")))]
async fn docs(State(documents): State<Arc<Documents>>, headers: HeaderMap) -> Response {
    let policy = [(header::CONTENT_SECURITY_POLICY, POLICY)];
    (policy, documents.page.answer(&headers)).into_response()
}

/// Get a script or the style sheet of the page
#[utoipa::path(get, path = "/docs/{file}", operation_id = "getDocsFile", tag = "Operation",
    params(("file" = String, Path, description = "Its name.", example = "page.js")),
    responses((status = 200, description = "The file.",
               content((String = "text/javascript"), (String = "text/css"))),
              (status = 304, description = "It is what `If-None-Match` names.")))]
async fn asset(
    State(documents): State<Arc<Documents>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut assets = documents.assets.iter();
    let found = assets.find(|(file, _)| *file == name);
    let (_, file) = found.ok_or_else(Problem::no_route)?;
    Ok(file.answer(&headers))
}
