//! A tower layer for services whose usage valuecanvas-billing meters.
//!
//! Before a request is served, the layer asks `GET /api/enforce`. If the usage
//! is allowed, the request is served and the quota headers are added to its
//! response; if not, the caller gets billing's 402. The layer keeps no counts
//! of its own and never caches a decision.
//!
//! ```no_run
//! # fn key_of(_: &http::request::Parts) -> Option<String> { None }
//! use plan_enforcement::{Enforcement, PlanEnforcement};
//!
//! let enforcement = Enforcement::new("http://127.0.0.1:8080", "api_calls")?;
//! let layer = PlanEnforcement::new(enforcement, key_of);
//! # Ok::<(), plan_enforcement::InvalidUrl>(())
//! ```

#![deny(clippy::unwrap_used)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use tower::{Layer, Service};

/// A longer timeout would make callers wait for billing instead of the service.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The base URL of billing is not a valid http or https URL.
#[derive(Debug)]
pub struct InvalidUrl(String);

impl std::fmt::Display for InvalidUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(url) = self;
        write!(
            f,
            "{url:?} is not an http:// or https:// URL; expected the address of valuecanvas-billing"
        )
    }
}

impl std::error::Error for InvalidUrl {}

/// Checks quotas with valuecanvas-billing, and decides what happens when it
/// does not respond.
#[derive(Debug, Clone)]
pub struct Enforcement {
    client: reqwest::Client,
    url: reqwest::Url,
    fail_open: bool,
}

impl Enforcement {
    /// Consumes one unit of `metric` per request from the billing service at
    /// `base`. The process must have a rustls provider installed.
    ///
    /// # Errors
    /// If `base` is not an http or https URL, or if no HTTP client can be
    /// created.
    pub fn new(base: &str, metric: &str) -> Result<Self, InvalidUrl> {
        let invalid = || InvalidUrl(base.to_owned());
        let mut url: reqwest::Url = base.parse().map_err(|_| invalid())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid());
        }
        url.set_path("/api/enforce");
        url.query_pairs_mut().append_pair("metric", metric);
        // A redirect is not a decision, so redirects are not followed.
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build();
        Ok(Self {
            client: client.map_err(|_| invalid())?,
            url,
            fail_open: false,
        })
    }

    /// Sets the units that each request consumes, as a decimal number.
    #[must_use]
    pub fn amount(mut self, amount: &str) -> Self {
        self.url.query_pairs_mut().append_pair("amount", amount);
        self
    }

    /// Serves requests while billing does not respond. By default they get a
    /// 503.
    #[must_use]
    pub fn fail_open(mut self) -> Self {
        self.fail_open = true;
        self
    }

    async fn ask(&self, key: &str) -> Answer {
        let asked = self.client.get(self.url.clone()).bearer_auth(key).send();
        let Ok(answer) = asked.await else {
            return Answer::silence(self.fail_open);
        };
        let (status, headers) = (answer.status(), answer.headers().clone());
        match status {
            status if status.is_success() => Answer::Allowed(quota_headers(&headers)),
            status if status.is_client_error() => match answer.bytes().await {
                Ok(body) => Answer::Refused(refusal(status, &headers, body.to_vec())),
                Err(_) => Answer::silence(self.fail_open),
            },
            // Neither allowed nor denied: something other than billing
            // responded.
            _ => Answer::silence(self.fail_open),
        }
    }
}

enum Answer {
    Allowed(HeaderMap),
    Refused(Response<Vec<u8>>),
    /// Billing did not respond, and the request is not served.
    Silence,
}

impl Answer {
    fn silence(fail_open: bool) -> Self {
        if fail_open {
            Self::Allowed(HeaderMap::new())
        } else {
            Self::Silence
        }
    }
}

fn quota_headers(headers: &HeaderMap) -> HeaderMap {
    let ours = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("x-quota-") || name == "x-grace-period-expires"
    };
    let kept = headers.iter().filter(|(name, _)| ours(name));
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn refusal(status: StatusCode, headers: &HeaderMap, body: Vec<u8>) -> Response<Vec<u8>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = quota_headers(headers);
    let problem = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, problem);
    response
}

fn unavailable() -> Response<Vec<u8>> {
    let body = br#"{"title":"Service Unavailable","status":503,"code":"enforcement_unavailable","detail":"the quota could not be checked; try again later"}"#;
    let status = StatusCode::SERVICE_UNAVAILABLE;
    refusal(status, &HeaderMap::new(), body.to_vec())
}

fn no_key() -> Response<Vec<u8>> {
    let body = br#"{"title":"Unauthorized","status":401,"code":"unauthenticated","detail":"the request has no API key of an organization"}"#;
    refusal(StatusCode::UNAUTHORIZED, &HeaderMap::new(), body.to_vec())
}

/// The layer. `key_of` returns the billing API key of the organization that a
/// request belongs to. A request without a key gets a 401.
#[derive(Clone)]
pub struct PlanEnforcement<F> {
    enforcement: Arc<Enforcement>,
    key_of: F,
}

impl<F> PlanEnforcement<F>
where
    F: Fn(&Parts) -> Option<String>,
{
    /// A layer that checks each request with `client`.
    pub fn new(enforcement: Enforcement, key_of: F) -> Self {
        Self {
            enforcement: Arc::new(enforcement),
            key_of,
        }
    }
}

impl<S, F: Clone> Layer<S> for PlanEnforcement<F> {
    type Service = Enforced<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Enforced {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service wrapped by [`PlanEnforcementLayer`].
#[derive(Clone)]
pub struct Enforced<S, F> {
    inner: S,
    layer: PlanEnforcement<F>,
}

impl<S, F, B, C> Service<Request<B>> for Enforced<S, F>
where
    S: Service<Request<B>, Response = Response<C>> + Clone + Send + 'static,
    S::Future: Send,
    F: Fn(&Parts) -> Option<String>,
    B: Send + 'static,
    C: From<Vec<u8>>,
{
    type Response = Response<C>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<C>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let key = (self.layer.key_of)(&parts);
        let request = Request::from_parts(parts, body);
        let enforcement = self.layer.enforcement.clone();
        // Call the instance that was polled ready, and leave the clone behind.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let Some(key) = key else {
                return Ok(no_key().map(C::from));
            };
            match enforcement.ask(&key).await {
                Answer::Allowed(headers) => {
                    let mut response = inner.call(request).await?;
                    response.headers_mut().extend(headers);
                    Ok(response)
                }
                Answer::Refused(response) => Ok(response.map(C::from)),
                Answer::Silence => Ok(unavailable().map(C::from)),
            }
        })
    }
}
