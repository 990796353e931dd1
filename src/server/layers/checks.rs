//! What is checked between a route and its handler, in this order: an
//! acceptable media type, time, the credential, its rate limit, its
//! organization's share, the parameters of the query, the `Idempotency-Key`,
//! and the body's media type.
//!
//! One layer stands before each handler. It is given the route's entry when the
//! router is made, so that a request looks nothing up.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, Route as Handler};
use tower::{Layer, Service, ServiceExt as _};

use super::entry::Peer;
use super::idempotency::{self, Keeper};
use super::rate_limit::Limits;
use super::{media, parameters, time_limit};
use crate::limits;
use crate::server::budget::organizations::Shares;
use crate::server::budget::{self, Payer, Shortage};
use crate::server::caller::Caller;
use crate::server::detached;
use crate::server::problem::{self, Problem};
use crate::server::routes::{Access, Route};

/// Checks a request's credential, and notes whose it is: handlers and the other
/// checks find the caller in the request's extensions. It is noted before anything
/// is refused for what it may not do.
pub trait Guard: Send + Sync + 'static {
    fn admit(
        &self,
        access: Access,
        request: &mut Request,
    ) -> impl Future<Output = Result<(), Response>> + Send;
}

/// What the checks need.
pub struct Checks<G> {
    pub guard: G,
    pub limits: Limits,
    pub shares: Shares,
    pub keeper: Keeper,
    pub pages: Arc<dyn Pages>,
}

/// A service without pages.
impl Pages for () {
    fn refused(&self, _: Access, problem: &Problem) -> Response {
        problem.clone().into_response()
    }
}

/// What browsers are shown where a page or a form is refused before its handler.
pub trait Pages: Send + Sync + 'static {
    fn refused(&self, access: Access, problem: &Problem) -> Response;
}

impl<G: Guard> Checks<G> {
    async fn answer(&self, route: &Route, request: Request, next: Next) -> Response {
        let response = self.answered(route, request, next).await;
        match route.access.is_of_browsers() {
            true => self.as_page(route.access, response),
            false => response,
        }
    }

    /// A problem as a page of its kind, with the headers that go with it.
    fn as_page(&self, access: Access, response: Response) -> Response {
        let kind = response.headers().get(header::CONTENT_TYPE);
        if kind.is_none_or(|kind| kind != problem::MEDIA_TYPE) {
            return response;
        }
        let said = response.extensions().get::<Arc<Problem>>();
        let mut page = match said {
            Some(problem) => self.pages.refused(access, problem),
            // One that was kept for its key.
            None => {
                let detail = "this was refused before";
                let problem = Problem::new(response.status(), "request_refused", detail);
                self.pages.refused(access, &problem)
            }
        };
        let own: Vec<HeaderName> = page.headers().keys().cloned().collect();
        for (name, value) in response.headers() {
            if *name != header::CONTENT_LENGTH && !own.contains(name) {
                page.headers_mut().append(name, value.clone());
            }
        }
        page
    }

    async fn answered(&self, route: &Route, mut request: Request, next: Next) -> Response {
        if let Err(problem) = media::negotiate(route, &mut request) {
            return problem.into_response();
        }
        let answering = self.admit(route, request, next);
        match route.time_limit {
            Some(limit) => time_limit::answer_within(limit, answering).await,
            None => answering.await,
        }
    }

    async fn admit(&self, route: &Route, mut request: Request, next: Next) -> Response {
        let admitted = self.guard.admit(route.access, &mut request).await;
        let Some(caller) = Caller::of(&request) else {
            return match admitted {
                Ok(()) => self.run(route, request, next).await,
                Err(refusal) => refusal,
            };
        };
        // What is refused was asked as well, and looked up.
        let taken = match self.limits.take(route.rate, &caller, &mut request) {
            Ok(taken) => taken,
            Err(refusal) => return *refusal,
        };
        let response = match admitted {
            Err(refusal) => refusal,
            Ok(()) => match self.limits.take_of_stripe(route, &caller) {
                Ok(()) => self.answer_in_turn(route, caller, request, next).await,
                Err(refusal) => *refusal,
            },
        };
        taken.describe(response)
    }

    /// Runs a request when its organization has room for it, and for its answer.
    async fn answer_in_turn(
        &self,
        route: &Route,
        caller: Caller,
        request: Request,
        next: Next,
    ) -> Response {
        let peer = request.extensions().get::<Peer>().cloned();
        let entering = self.shares.enter(route, &caller, &request);
        let entered = match &peer {
            Some(peer) => peer.0.waits_for(entering).await,
            None => entering.await,
        };
        let passes = match entered {
            Ok(passes) => Arc::new(passes),
            Err(refusal) => return refusal,
        };
        let running = self.run(route, request, next);
        let response = detached::during(passes.clone(), running).await;
        let response = match peer {
            Some(Peer(line)) => {
                let charging = budget::charge(&line, payer(&caller), response);
                let charged = charging.await.map_err(unread);
                charged.unwrap_or_else(Problem::into_response)
            }
            None => response,
        };
        passes.hold_for(response)
    }

    async fn run(&self, route: &Route, mut request: Request, next: Next) -> Response {
        if let Err(problem) = parameters::check(route, request.uri()) {
            return problem.into_response();
        }
        if route.access.is_of_browsers() {
            idempotency::take_key_of_form(&mut request);
        }
        idempotency::once(&self.keeper, route.idempotency, request, next).await
    }
}

/// Who pays for the answers to a caller.
fn payer(caller: &Caller) -> Payer {
    if caller.organization_id.is_nil() {
        return Payer::Credential(caller.kind, caller.id);
    }
    Payer::Organization(caller.organization_id)
}

/// There is no memory for an answer beside those that are not read.
fn unread(shortage: Shortage) -> Problem {
    const CODE: &str = "answers_unread";
    let problem = match shortage {
        Shortage::Own => Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            CODE,
            "this was carried out, but earlier answers of yours are not read yet, and there is no \
             memory for its own: read them, and send it again with the same ids or key",
        ),
        Shortage::All => Problem::unavailable(
            CODE,
            "this was carried out, but too many answers are not read yet, and there is no memory \
             for its own: send it again with the same ids or key",
        ),
    };
    problem.retry_after(limits::RETRY_AFTER_SECS)
}

/// The handler, behind the check of the body's media type.
pub struct Next {
    route: Arc<Route>,
    handler: Handler,
}

impl Next {
    pub async fn run(self, request: Request) -> Response {
        if let Err(problem) = media::check_body(&self.route, request.headers()) {
            return problem.into_response();
        }
        match self.handler.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Puts the checks of `route` before its handler.
pub fn before<G: Guard>(
    checks: &Arc<Checks<G>>,
    route: &Arc<Route>,
    handler: MethodRouter,
) -> MethodRouter {
    let layer = Before {
        checks: checks.clone(),
        route: route.clone(),
    };
    match route.method {
        // What answers other methods with 405 is left as it is.
        Some(_) => handler.route_layer(layer),
        None => handler.layer(layer),
    }
}

struct Before<G> {
    checks: Arc<Checks<G>>,
    route: Arc<Route>,
}

impl<G> Clone for Before<G> {
    fn clone(&self) -> Self {
        Self {
            checks: self.checks.clone(),
            route: self.route.clone(),
        }
    }
}

impl<G> Layer<Handler> for Before<G> {
    type Service = Checked<G>;

    fn layer(&self, handler: Handler) -> Checked<G> {
        let before = self.clone();
        Checked { before, handler }
    }
}

struct Checked<G> {
    before: Before<G>,
    handler: Handler,
}

impl<G> Clone for Checked<G> {
    fn clone(&self) -> Self {
        Self {
            before: self.before.clone(),
            handler: self.handler.clone(),
        }
    }
}

impl<G: Guard> Service<Request> for Checked<G> {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Before { checks, route } = self.before.clone();
        let next = Next {
            route: route.clone(),
            handler: self.handler.clone(),
        };
        Box::pin(async move { Ok(checks.answer(&route, request, next).await) })
    }
}
