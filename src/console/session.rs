//! Who looks at a page, and who made a form: nobody passes without both.

use std::collections::BTreeMap;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::query;
use super::screen::{Button, Refusal, Visitor};
use super::sign_in;
use crate::server::extract::RawBody;
use crate::server::layers::idempotency::Key;
use crate::server::problem::Problem;
use crate::tenancy::auth::{BrowserSession, Operator};

/// An operator with a session. Without one, the browser is led to sign in, and back.
pub struct Signed {
    pub operator: Operator,
    pub session: BrowserSession,
}

impl Signed {
    /// What every page shows of the visitor.
    pub fn visitor(&self) -> Visitor {
        Visitor {
            read_only: self.operator.reads_only,
            form_token: self.session.form_token(),
        }
    }

    pub fn may_act(&self) -> bool {
        !self.operator.reads_only
    }
}

/// 303: the browser gets this page instead.
pub fn led_to(address: &str) -> Response {
    let address = HeaderValue::try_from(address);
    let address = address.unwrap_or(HeaderValue::from_static("/console"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, address)]).into_response()
}

impl<S: Send + Sync> FromRequestParts<S> for Signed {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let operator = parts.extensions.get().cloned();
        let session = parts.extensions.get().cloned();
        match operator.zip(session) {
            Some((operator, session)) => Ok(Self { operator, session }),
            None => {
                let asked = parts.uri.path_and_query().map(|asked| asked.as_str());
                let asked = asked.filter(|_| parts.method == Method::GET);
                Err(led_to(&query::address(sign_in::PATH, &[("next", asked)])))
            }
        }
    }
}

/// The fields of a form.
pub struct Fields(BTreeMap<String, String>);

/// A form of ours is smaller, and has fewer fields.
const LARGEST: u64 = 16 * 1024;
const MOST: usize = 32;

impl Fields {
    /// Reads a form that does not come from elsewhere: each field once, and no file.
    pub async fn of(request: Request) -> Result<Self, Problem> {
        if comes_from_elsewhere(request.headers()) {
            return Err(foreign_form());
        }
        // Browsers say how long a form is.
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_none_or(|length| length > LARGEST) {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "Nothing was done: the form is longer than any of the console's.",
            ));
        }
        let RawBody(body) = RawBody::from_request(request, &()).await?;
        let fields = form_urlencoded::parse(&body).into_owned();
        Ok(Self(fields.take(MOST).collect()))
    }

    pub fn none() -> Self {
        Self(BTreeMap::new())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    pub fn take(&mut self, name: &str) -> String {
        self.0.remove(name).unwrap_or_default()
    }
}

/// A form that a page of the operator's own session made.
pub struct Posted {
    pub signed: Signed,
    pub fields: Fields,
}

impl<S: Send + Sync> FromRequest<S> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let signed = Signed::from_request_parts(&mut parts, state).await?;
        let fields = Fields::of(Request::from_parts(parts, body)).await;
        let fields = fields.map_err(|problem| Refusal::from(problem).into_response())?;
        if !signed.session.made(fields.get("csrf").unwrap_or_default()) {
            return Err(Refusal::from(foreign_form()).into_response());
        }
        Ok(Self { signed, fields })
    }
}

/// A form of an operator who may change something. What acts has a key, so that it is done once
/// however often the form is sent.
pub struct Acting(pub Posted);

impl<S: Send + Sync> FromRequest<S> for Acting {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let once = request.extensions().get::<Key>().is_some();
        let posted = Posted::from_request(request, state).await?;
        let acts = posted.fields.get("do").is_some_and(Button::acts);
        if posted.signed.may_act() {
            return match acts && !once {
                true => Err(Refusal::from(foreign_form()).into_response()),
                false => Ok(Self(posted)),
            };
        }
        let problem = Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "You may look at everything and change nothing: your role is operator.read.",
        );
        Err(Refusal::from(problem).into_response())
    }
}

/// Whether the browser says that another site sends this.
fn comes_from_elsewhere(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site");
    site.is_some_and(|site| site != "same-origin" && site != "none")
}

fn foreign_form() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "form_expired",
        "Nothing was done: this form is not of your present session. Open its page again, and send \
         it from there.",
    )
}
