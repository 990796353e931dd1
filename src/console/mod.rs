//! The operators' console: pages for browsers, made on the server, which need no script. It
//! calls what the rooms' `/api/operator` routes call, with their audit entries, and has
//! neither SQL nor rules of its own.

mod account;
mod audit_log;
mod beside;
mod bulk_actions;
mod dead_letters;
mod drift;
mod effects;
mod events_out;
mod explained;
mod figures;
mod home;
mod operators;
mod organization;
mod organizations;
mod overrides;
mod plans;
mod screen;
mod session;
mod session_list;
mod sign_in;
mod sign_in_steps;
mod single_sign_on;
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
use crate::outbox::routes::EventState;
use crate::pages::{query, time};
use crate::server::Shared;
use crate::server::problem::Problem;
use crate::server::routes::{Access, Routes, Rules, Share, public};
use crate::state::States;
use crate::subscriptions::Subscriptions;
use crate::tenancy::auth::{Login, SessionCookie, SingleSignOn};
use crate::webhooks::operator::OperatorState;
use screen::Refusal;
use session::Signed;
use {sign_in_steps as steps, single_sign_on as sso};

/// Why the service is not ready; nothing if it is.
pub type Readiness =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<String>> + Send>> + Send + Sync>;

/// What the pages need.
pub struct Console {
    pub shared: Shared,
    pub login: Login,
    pub cookie: SessionCookie,
    /// None: passwords alone.
    pub single_sign_on: Option<SingleSignOn>,
    pub webhooks: OperatorState,
    pub explaining: Explaining,
    pub events: EventState,
    pub states: States,
    pub subscriptions: Subscriptions,
    pub catalogue: Arc<Catalogue>,
    pub readiness: Readiness,
    pub verdicts: home::Verdicts,
    pub standings: figures::Standings,
    /// One chain is verified at a time.
    pub verifying: Semaphore,
}

pub use figures::Standings;
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
        .page(
            act.clone(),
            audit_log::VERIFY,
            post(audit_log::verify),
            browsers,
        )
        .merge(of_bulk_actions())
        .merge(of_organizations())
        .merge(of_events_out(browsers))
        .merge(of_figures(browsers))
        .merge(operator_pages(&read, &act, browsers))
        .page(read, "/console/{*rest}", get(not_found), browsers)
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
    let asks_stripe = browsers.share(Share::Changes);
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
            asks_stripe,
        )
        .page(
            read.clone(),
            "/console/organizations/{organization}/drift/part",
            get(drift::part),
            asks_stripe,
        )
        .page(
            read.clone(),
            "/console/organizations/{organization}/timeline",
            get(timeline::page),
            browsers,
        )
}

/// Who signs in and how, operators, sessions and keys.
fn operator_pages(read: &Method, act: &Method, browsers: Rules) -> Routes<Arc<Console>> {
    let (read, act) = (|| read.clone(), || act.clone());
    // What they show once is kept nowhere.
    let secret = browsers.secret();
    Routes::new()
        .page(read(), sso::PATH, get(sso::begin), browsers)
        .page(read(), sso::CALLBACK, get(sso::callback), browsers)
        .page(read(), steps::CODE, get(steps::code), browsers)
        .page(act(), steps::CODE, post(steps::finish), browsers)
        .page(read(), steps::ENROLMENT, get(steps::enrolment), browsers)
        .page(act(), steps::ENROLMENT, post(steps::enrol), secret)
        .page(read(), account::PATH, get(account::page), browsers)
        .page(act(), account::PATH, post(account::act), secret)
        .page(
            read(),
            account::ENROLMENT,
            get(account::enrolment),
            browsers,
        )
        .page(act(), account::ENROLMENT, post(account::enrol), secret)
        .page(read(), operators::PATH, get(operators::list), browsers)
        .page(act(), operators::PATH, post(operators::act), secret)
        .page(read(), operators::ONE, get(operators::one), browsers)
        .page(act(), operators::ONE, post(operators::end), browsers)
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
    let downloads = browsers.share(Share::Downloads);
    Routes::new()
        .page(read.clone(), plans::PATH, get(plans::page), browsers)
        .page(read.clone(), figures::PATH, get(figures::page), browsers)
        .page(
            read.clone(),
            figures::MONTHS_CSV,
            get(figures::months_csv),
            downloads,
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
            downloads,
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
            downloads,
        )
}

/// A page that says what is wrong.
pub fn refused(problem: Problem) -> Response {
    Refusal::from(problem).into_response()
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
