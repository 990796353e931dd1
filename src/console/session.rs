//! Who looks at a page, and who made a form: nobody passes without both.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};

use super::query;
use super::screen::{Button, Refusal, Visitor};
use super::sign_in;
use crate::pages::form;
pub use crate::pages::form::Fields;
pub use crate::pages::led_to;
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
            return Err(Refusal::from(form::foreign()).into_response());
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
                true => Err(Refusal::from(form::foreign()).into_response()),
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
