//! The customer pages: what an organization has, uses and pays, and what it may change of
//! that. They are made on the server, need no script, and call what the API's routes call:
//! they have neither SQL nor rules of their own.

mod audit_log;
mod cancel;
mod cards;
mod change;
mod enter;
mod invoices;
mod look;
mod meters;
mod overview;
mod plans;
mod sign_in;
mod text;
mod upcoming;
mod visitor;
mod words;

use std::sync::Arc;

use axum::extract::State;
use axum::http::Method;
use axum::response::Response;
use axum::routing::{get, post};

use crate::catalogue::Catalogue;
use crate::metering::ledger::Rules as Metering;
use crate::payment_methods::PaymentMethods;
use crate::server::Shared;
use crate::server::problem::Problem;
use crate::server::return_address::ReturnAddresses;
use crate::server::routes::{Access, Routes, Rules, Share, public};
use crate::subscriptions::Subscriptions;
use crate::tenancy::auth::portal_sessions::{self, Codes};
use crate::tenancy::auth::{Login, SessionCookie};
pub use enter::Failed;
pub use look::Look;
use visitor::Signed;

/// What the pages need.
pub struct Portal {
    pub shared: Shared,
    pub login: Login,
    pub cookie: SessionCookie,
    pub subscriptions: Subscriptions,
    pub catalogue: Arc<Catalogue>,
    pub metering: Metering,
    pub methods: PaymentMethods,
    pub addresses: Arc<ReturnAddresses>,
    /// Where this service is reached from outside.
    pub public_url: Arc<str>,
    pub look: Arc<Look>,
    pub codes: Codes,
    /// Codes that opened nothing, by address.
    pub failed: Failed,
}

/// The audit actions about the pages' sessions. What is done on a page is entered as the API
/// enters it.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    portal_sessions::ACTIONS.into_iter()
}

pub fn routes() -> Routes<Arc<Portal>> {
    let customers = Rules::of(Access::Portal);
    let (read, act) = (Method::GET, Method::POST);
    let page = |routes: Routes<Arc<Portal>>, path: &str, handler| {
        routes.page(read.clone(), path, handler, customers)
    };
    let form = |routes: Routes<Arc<Portal>>, path: &str, handler| {
        routes.page(act.clone(), path, handler, customers)
    };
    let routes = Routes::new().page(Method::GET, look::STYLE, get(style), public());
    let routes = page(routes, overview::PATH, get(overview::page));
    let routes = page(routes, enter::PATH, get(enter::enter));
    let routes = page(routes, sign_in::PATH, get(sign_in::page));
    let routes = form(routes, sign_in::PATH, post(sign_in::sign_in));
    let routes = form(routes, "/portal/sign-out", post(sign_in::sign_out));
    let routes = page(routes, plans::PATH, get(plans::page));
    // What is previewed is asked of Stripe, as by the API.
    let routes = routes.page(
        Method::POST,
        change::PREVIEW,
        post(change::preview),
        customers.share(Share::Previews),
    );
    let routes = form(routes, change::PATH, post(change::change));
    let routes = page(routes, cancel::CANCEL, get(cancel::page));
    let routes = form(routes, cancel::CANCEL, post(cancel::cancel));
    let routes = page(routes, cancel::KEEP, get(cancel::ask_to_keep));
    let routes = form(routes, cancel::KEEP, post(cancel::keep));
    let routes = page(routes, cancel::CALL_OFF, get(cancel::ask_to_call_off));
    let routes = form(routes, cancel::CALL_OFF, post(cancel::call_off));
    let routes = page(routes, invoices::PATH, get(invoices::list));
    let downloads = customers.share(Share::Downloads);
    let routes = routes.page(Method::GET, invoices::CSV, get(invoices::csv), downloads);
    // Stripe is asked, as by the API.
    let routes = routes.page(
        Method::GET,
        upcoming::PATH,
        get(upcoming::page),
        customers.share(Share::Changes),
    );
    let routes = page(routes, "/portal/invoices/{id}", get(invoices::one));
    let routes = page(routes, "/portal/invoices/{id}/pdf", get(invoices::pdf));
    let routes = page(routes, cards::PATH, get(cards::list));
    let routes = form(routes, cards::ADD, post(cards::add));
    let routes = form(routes, cards::DEFAULT, post(cards::make_default));
    let routes = page(routes, cards::REMOVE, get(cards::ask_to_remove));
    let routes = form(routes, cards::REMOVE, post(cards::remove));
    let routes = page(routes, audit_log::PATH, get(audit_log::list));
    let routes = routes.page(Method::GET, audit_log::CSV, get(audit_log::csv), downloads);
    page(routes, "/portal/{*rest}", get(not_found))
}

async fn style(State(portal): State<Arc<Portal>>) -> Response {
    portal.look.style()
}

async fn not_found(State(portal): State<Arc<Portal>>, signed: Signed) -> Response {
    let problem = Problem::not_found("There is no page at this address.");
    portal.refused(Some(&signed), &problem)
}
