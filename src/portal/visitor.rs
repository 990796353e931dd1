//! Who looks at a page, and who made a form: nobody passes without both.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;

use super::look::{Around, Seen};
use super::{Portal, sign_in};
use crate::pages::form::{self, Fields};
use crate::pages::{led_to, query};
use crate::server::layers::idempotency::Key;
use crate::server::problem::Problem;
use crate::subscriptions::SubscriptionState;
use crate::tenancy::auth::{BrowserSession, Permission, PortalVisitor, Principal, Role};
use crate::tenancy::names;

/// A visitor with a session. Without one, the browser is led to sign in, and back.
#[derive(Clone)]
pub struct Signed {
    pub principal: Principal,
    pub visitor: PortalVisitor,
    pub session: BrowserSession,
}

impl Signed {
    /// Whether it may change anything.
    pub fn manages(&self) -> bool {
        self.principal.may(Permission::BillingManage) && !self.visitor.archived
    }

    /// Refuses what they could only look at.
    pub fn check_manages(&self) -> Result<(), Problem> {
        if self.visitor.archived {
            return Err(names::archived());
        }
        if self.manages() {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "this requires the role of an owner or a billing manager",
        ))
    }

    fn seen(&self, portal: &Portal, organization: &str) -> Seen {
        let own = self.visitor.return_url.clone();
        let default = || portal.addresses.default_address().map(str::to_owned);
        Seen {
            organization: organization.to_owned(),
            role: match self.visitor.role {
                Role::Owner => "Owner",
                Role::BillingManager => "Billing manager",
                _ => "Member",
            },
            manages: self.manages(),
            form_token: self.session.form_token(),
            return_url: own.or_else(default),
        }
    }

    /// What is around a page of theirs.
    pub fn around(
        &self,
        portal: &Portal,
        state: &SubscriptionState,
        section: &'static str,
        title: &str,
    ) -> Around {
        let seen = self.seen(portal, &state.name);
        Around::of(&portal.look, Some(seen), section, title)
    }
}

impl FromRequestParts<Arc<Portal>> for Signed {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Portal>) -> Result<Self, Response> {
        let extensions = &parts.extensions;
        let principal = extensions.get().cloned();
        let visitor = extensions.get().cloned();
        let session = extensions.get().cloned();
        match (principal, visitor, session) {
            (Some(principal), Some(visitor), Some(session)) => Ok(Self {
                principal,
                visitor,
                session,
            }),
            _ => {
                let asked = parts.uri.path_and_query().map(|asked| asked.as_str());
                let asked = asked.filter(|_| parts.method == Method::GET);
                Err(led_to(&query::address(sign_in::PATH, &[("next", asked)])))
            }
        }
    }
}

/// A form that a page of the visitor's own session made.
pub struct Posted {
    pub signed: Signed,
    pub fields: Fields,
}

impl FromRequest<Arc<Portal>> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, portal: &Arc<Portal>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let signed = Signed::from_request_parts(&mut parts, portal).await?;
        let fields = Fields::of(Request::from_parts(parts, body)).await;
        let fields = fields.map_err(|problem| portal.refused(Some(&signed), &problem))?;
        if !signed.session.made(fields.get("csrf").unwrap_or_default()) {
            return Err(portal.refused(Some(&signed), &form::foreign()));
        }
        Ok(Self { signed, fields })
    }
}

/// A form of who may change something.
pub struct Managing(pub Posted);

impl FromRequest<Arc<Portal>> for Managing {
    type Rejection = Response;

    async fn from_request(request: Request, portal: &Arc<Portal>) -> Result<Self, Response> {
        let posted = Posted::from_request(request, portal).await?;
        let signed = &posted.signed;
        match signed.check_manages() {
            Ok(()) => Ok(Self(posted)),
            Err(problem) => Err(portal.refused(Some(signed), &problem)),
        }
    }
}

/// The same with a key, so that it is done once however often the form is sent.
pub struct Acting {
    pub signed: Signed,
    pub fields: Fields,
    pub key: Key,
}

impl FromRequest<Arc<Portal>> for Acting {
    type Rejection = Response;

    async fn from_request(request: Request, portal: &Arc<Portal>) -> Result<Self, Response> {
        let key = request.extensions().get::<Key>().cloned();
        let Managing(Posted { signed, fields }) = Managing::from_request(request, portal).await?;
        let Some(key) = key else {
            return Err(portal.refused(Some(&signed), &form::foreign()));
        };
        Ok(Self {
            signed,
            fields,
            key,
        })
    }
}

impl Portal {
    /// The page, or what it says that cannot be shown.
    pub fn shown(&self, signed: &Signed, page: Result<Response, Problem>) -> Response {
        page.unwrap_or_else(|problem| self.refused(Some(signed), &problem))
    }

    /// A page that says what is wrong.
    pub fn refused(&self, signed: Option<&Signed>, problem: &Problem) -> Response {
        self.look
            .refused(signed.map(|signed| signed.seen(self, "")), problem)
    }

    /// The state of the visitor's organization.
    pub async fn state(&self, signed: &Signed) -> Result<SubscriptionState, Problem> {
        let organization = signed.principal.organization_id;
        Ok(self.subscriptions.state(organization).await?)
    }
}
