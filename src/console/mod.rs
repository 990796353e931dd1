//! The operators' console: pages for browsers, made on the server, which need no script. It
//! calls what the rooms' `/api/operator` routes call, with their audit entries, and has
//! neither SQL nor rules of its own.

mod audit_log;
mod bulk_actions;
mod dead_letters;
mod drift;
mod effects;
mod explained;
mod home;
mod organization;
mod organizations;
mod overrides;
mod query;
mod screen;
mod session;
mod sign_in;
mod time;
mod timeline;
mod webhooks;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use crate::catalogue::Catalogue;
use crate::explain::routes::Explaining;
use crate::server::Shared;
use crate::server::problem::Problem;
use crate::server::routes::{Access, Routes, Rules, public};
use crate::state::States;
use crate::subscriptions::Subscriptions;
use crate::tenancy::auth::{Login, SessionCookie};
use crate::webhooks::operator::OperatorState;
use screen::Refusal;
use session::Signed;

/// Why the service is not ready; nothing if it is.
pub type Readiness =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<String>> + Send>> + Send + Sync>;

/// What the pages need.
pub struct Console {
    pub shared: Shared,
    pub login: Login,
    pub cookie: SessionCookie,
    pub webhooks: OperatorState,
    pub explaining: Explaining,
    pub states: States,
    pub subscriptions: Subscriptions,
    pub catalogue: Arc<Catalogue>,
    pub readiness: Readiness,
    pub verdicts: home::Verdicts,
    /// One chain is verified at a time.
    pub verifying: Semaphore,
}

pub use home::Verdicts;

/// The audit actions of what only the console shows.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    [audit_log::LISTED, audit_log::VERIFIED].into_iter()
}

pub fn routes() -> Routes<Arc<Console>> {
    let browsers = Rules::of(Access::Console);
    let (read, act) = (Method::GET, Method::POST);
    Routes::new()
        .page(read.clone(), "/", get(root), public())
        .page(read.clone(), screen::STYLE, get(screen::style), public())
        .page(read.clone(), screen::SCRIPT, get(screen::script), public())
        .page(read.clone(), "/console", get(home::page), browsers)
        .page(read.clone(), sign_in::PATH, get(sign_in::page), browsers)
        .page(act.clone(), sign_in::PATH, post(sign_in::sign_in), browsers)
        .page(
            act.clone(),
            "/console/sign-out",
            post(sign_in::sign_out),
            browsers,
        )
        .page(read.clone(), webhooks::PATH, get(webhooks::list), browsers)
        .page(
            read.clone(),
            "/console/webhooks/{id}",
            get(webhooks::one),
            browsers,
        )
        .page(
            act.clone(),
            "/console/webhooks/{id}",
            post(webhooks::act),
            browsers,
        )
        .page(
            read.clone(),
            dead_letters::PATH,
            get(dead_letters::list),
            browsers,
        )
        .page(
            read.clone(),
            organizations::PATH,
            get(organizations::list),
            browsers,
        )
        .page(
            read.clone(),
            "/console/organizations/{organization}",
            get(organization::page),
            browsers,
        )
        .page(
            read.clone(),
            explained::PATH,
            get(explained::page),
            browsers,
        )
        .page(
            read.clone(),
            audit_log::PATH,
            get(audit_log::list),
            browsers,
        )
        .page(act, audit_log::VERIFY, post(audit_log::verify), browsers)
        .page(read, "/console/{*rest}", get(not_found), browsers)
        .merge(of_bulk_actions())
        .merge(of_organizations())
}

/// What is done with all that match.
fn of_bulk_actions() -> Routes<Arc<Console>> {
    let browsers = Rules::of(Access::Console);
    let (read, act) = (Method::GET, Method::POST);
    Routes::new()
        .page(
            read.clone(),
            bulk_actions::PATH,
            get(bulk_actions::list),
            browsers,
        )
        .page(
            act.clone(),
            bulk_actions::PATH,
            post(bulk_actions::act),
            browsers,
        )
        .page(
            read.clone(),
            "/console/bulk-actions/{id}",
            get(bulk_actions::one),
            browsers,
        )
        .page(
            read.clone(),
            "/console/bulk-actions/{id}/progress",
            get(bulk_actions::moving),
            browsers,
        )
        .page(
            act.clone(),
            "/console/bulk-actions/{id}/stop",
            post(bulk_actions::stop),
            browsers,
        )
}

/// One organization, besides its page.
fn of_organizations() -> Routes<Arc<Console>> {
    let browsers = Rules::of(Access::Console);
    let (read, act) = (Method::GET, Method::POST);
    Routes::new()
        .page(
            read.clone(),
            "/console/organizations/{organization}/quotas/{metric}",
            get(overrides::quota),
            browsers,
        )
        .page(
            act.clone(),
            "/console/organizations/{organization}/quotas/{metric}",
            post(overrides::set_quota),
            browsers,
        )
        .page(
            read.clone(),
            "/console/organizations/{organization}/features/{feature}",
            get(overrides::feature),
            browsers,
        )
        .page(
            act.clone(),
            "/console/organizations/{organization}/features/{feature}",
            post(overrides::set_feature),
            browsers,
        )
        .page(
            read.clone(),
            "/console/organizations/{organization}/drift",
            get(drift::page),
            browsers,
        )
        .page(
            read.clone(),
            "/console/organizations/{organization}/drift/part",
            get(drift::part),
            browsers,
        )
        .page(
            read.clone(),
            "/console/organizations/{organization}/timeline",
            get(timeline::page),
            browsers,
        )
}

/// Browsers are led to the console; programs are told that nothing is here.
async fn root(headers: HeaderMap) -> Response {
    let accepts = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    match accepts.is_some_and(|accepts| accepts.contains("text/html")) {
        true => session::led_to("/console"),
        false => Problem::no_route().into_response(),
    }
}

async fn not_found(_: Signed) -> Result<Response, Refusal> {
    Err(Problem::not_found("There is no page at this address.").into())
}
