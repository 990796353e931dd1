//! The operators' console: pages for browsers, made on the server, which need no script. It
//! calls what the rooms' `/api/operator` routes call, with their audit entries, and has
//! neither SQL nor rules of its own.

mod audit_log;
mod dead_letters;
mod events_out;
mod explained;
mod figures;
mod home;
mod organization;
mod organizations;
mod plans;
mod query;
mod screen;
mod session;
mod sign_in;
mod time;
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
use crate::outbox::routes::EventState;
use crate::server::Shared;
use crate::server::problem::Problem;
use crate::server::routes::{Access, Routes, Rules, public};
use crate::state::States;
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
    pub events: EventState,
    pub states: States,
    pub catalogue: Arc<Catalogue>,
    pub readiness: Readiness,
    pub verdicts: home::Verdicts,
    /// One chain is verified at a time.
    pub verifying: Semaphore,
}

pub use home::Verdicts;

/// The audit actions of what only the console shows.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    [audit_log::LISTED, audit_log::VERIFIED, plans::SHOWN].into_iter()
}

pub fn routes() -> Routes<Arc<Console>> {
    let browsers = Rules::of(Access::Console);
    let (read, act) = (Method::GET, Method::POST);
    Routes::new()
        .page(read.clone(), "/", get(root), public())
        .page(read.clone(), screen::STYLE, get(screen::style), public())
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
            act.clone(),
            dead_letters::PATH,
            post(dead_letters::act),
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
        .merge(of_events_out(browsers))
        .merge(of_figures(browsers))
        .page(
            read.clone(),
            audit_log::PATH,
            get(audit_log::list),
            browsers,
        )
        .page(act, audit_log::VERIFY, post(audit_log::verify), browsers)
        .page(read, "/console/{*rest}", get(not_found), browsers)
}

fn of_events_out(browsers: Rules) -> Routes<Arc<Console>> {
    const ENDPOINT: &str = "/console/events-out/{endpoint}";
    const DELIVERY: &str = "/console/events-out/deliveries/{delivery}";
    let (read, act) = (Method::GET, Method::POST);
    Routes::new()
        .page(
            read.clone(),
            events_out::PATH,
            get(events_out::list),
            browsers,
        )
        .page(
            act.clone(),
            events_out::PATH,
            post(events_out::create),
            browsers.secret(),
        )
        .page(read.clone(), ENDPOINT, get(events_out::endpoint), browsers)
        .page(
            act.clone(),
            ENDPOINT,
            post(events_out::act_on_endpoint),
            browsers,
        )
        .page(
            act.clone(),
            "/console/events-out/{endpoint}/secret",
            post(events_out::rotate),
            browsers.secret(),
        )
        .page(
            read.clone(),
            events_out::DELIVERIES,
            get(events_out::deliveries),
            browsers,
        )
        .page(read, DELIVERY, get(events_out::delivery), browsers)
        .page(act, DELIVERY, post(events_out::act_on_delivery), browsers)
}

/// What is sold, and what that comes to.
fn of_figures(browsers: Rules) -> Routes<Arc<Console>> {
    let read = Method::GET;
    Routes::new()
        .page(read.clone(), plans::PATH, get(plans::page), browsers)
        .page(read.clone(), figures::PATH, get(figures::page), browsers)
        .page(
            read.clone(),
            figures::MONTHS_CSV,
            get(figures::months_csv),
            browsers,
        )
        .page(
            read.clone(),
            figures::MOVEMENTS,
            get(figures::movements),
            browsers,
        )
        .page(
            read.clone(),
            figures::MOVEMENTS_CSV,
            get(figures::movements_csv),
            browsers,
        )
        .page(
            read.clone(),
            figures::CUSTOMERS,
            get(figures::customers),
            browsers,
        )
        .page(
            read.clone(),
            figures::CUSTOMERS_CSV,
            get(figures::customers_csv),
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
