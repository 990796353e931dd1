//! Parameters of the query that a route does not have are refused: whoever
//! sends one means something by it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

use crate::server::extract::parse_query;
use crate::server::problem::Problem;
use crate::tenancy::auth::{Access, access_of, is_forward_auth, is_forwarded};

/// The parameters of each route, as its description has them.
#[derive(Clone)]
pub struct Parameters(Arc<HashMap<String, BTreeSet<String>>>);

impl Parameters {
    /// Those of the OpenAPI document.
    pub fn of(document: &Value) -> Self {
        let mut all = HashMap::new();
        let paths = document["paths"].as_object().into_iter().flatten();
        for (path, item) in paths {
            for (method, operation) in item.as_object().into_iter().flatten() {
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let of_query = parameters.filter(|parameter| parameter["in"] == "query");
                let names = of_query.filter_map(|parameter| parameter["name"].as_str());
                let names = names.map(str::to_owned).collect();
                all.insert(key(&method.to_ascii_uppercase(), path), names);
            }
        }
        Self(Arc::new(all))
    }

    /// A parameter of the request that its route does not have. Where a
    /// credential is asked for and the query is ours: forwarded calls have
    /// their upstream's, proxies that ask first read theirs themselves, and
    /// what Stripe calls is as its operator has entered it there.
    fn unknown(&self, request: &Request) -> Result<Option<String>, Problem> {
        let path = request.extensions().get::<MatchedPath>();
        let Some((path, query)) = path.zip(request.uri().query()) else {
            return Ok(None);
        };
        let (method, path) = (request.method(), path.as_str());
        let ours = !is_forwarded(method, path)
            && !is_forward_auth(path)
            && access_of(method, path) != Some(Access::Public);
        if query.is_empty() || !ours {
            return Ok(None);
        }
        let method = if *method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let known = self.0.get(&key(method.as_str(), path));
        let is_known = |name: &String| known.is_some_and(|known| known.contains(name));
        let sent: Vec<(String, String)> = parse_query(request.uri())?;
        let mut names = sent.into_iter().map(|(name, _)| name);
        Ok(names.find(|name| !is_known(name)))
    }
}

fn key(method: &str, path: &str) -> String {
    format!("{method} {path}")
}

/// The layer of the routes, behind the one that checks credentials.
pub async fn refuse_unknown(
    State(parameters): State<Parameters>,
    request: Request,
    next: Next,
) -> Response {
    match parameters.unknown(&request) {
        Ok(None) => next.run(request).await,
        Ok(Some(name)) => {
            let name: String = name.chars().take(100).collect();
            Problem::new(
                StatusCode::BAD_REQUEST,
                "unknown_field",
                format!("unknown parameter {name:?} of the query; leave it out"),
            )
            .into_response()
        }
        Err(problem) => problem.into_response(),
    }
}
