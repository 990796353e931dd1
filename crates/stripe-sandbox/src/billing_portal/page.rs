//! The portal's page, as simple HTML: what a configuration offers of it, invoices and
//! payment methods.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, RawForm, State as Shared};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};

use super::{Configuration, Session};
use crate::checkout::page::{escaped, titled};
use crate::error::ApiError;
use crate::invoices::describe;
use crate::invoices::model::Status;
use crate::payment_methods::{self, PaymentMethod};
use crate::pricing::DecimalAmount;
use crate::server::{SharedState, wall_secs};
use crate::state::State;
use crate::store::Keyed as _;
use crate::test_cards::{self, IssuerDecision};

/// The page's routes. The address is the only credential needed.
pub fn router(shared: &Arc<SharedState>) -> axum::Router {
    let pages = axum::routing::get(show).post(submit);
    axum::Router::new()
        .route("/p/session/{token}", pages)
        .with_state(Arc::clone(shared))
}

async fn show(Shared(shared): Shared<Arc<SharedState>>, Path(token): Path<String>) -> Response {
    page(&shared.lock(), &token, None)
}

fn page(state: &State, token: &str, problem: Option<&str>) -> Response {
    let session = state.portal_sessions.get(token);
    let offered = session.and_then(|one| state.portal_configurations.get(&one.configuration));
    let (Some(session), Some(offered)) = (session, offered) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut body = problem.map_or_else(String::new, |problem| {
        format!("<p role=\"alert\">{}</p>", escaped(problem))
    });
    if offered.payment_method_update {
        body += &methods(state, session);
    }
    if offered.invoice_history {
        body += &invoices(state, session);
    }
    if let Some(back) = &session.return_url {
        let back = escaped(back);
        body += &format!("<p><a href=\"{back}\">Return to the product</a></p>");
    }
    Html(titled("Billing", &body)).into_response()
}

/// The attached cards, of which another one can be charged, and a form for a new one.
fn methods(state: &State, session: &Session) -> String {
    let customer = state.customers.get(&session.customer);
    let default = customer.and_then(|customer| customer.default_payment_method.as_deref());
    let attached = state.payment_methods.iter();
    let attached = attached.filter(|one| one.customer.as_ref() == Some(&session.customer));
    let rows: String = attached
        .map(|one| {
            let name = format!("{} ending in {}", one.card.brand, one.card.last4());
            let choice = match default == Some(one.id()) {
                true => " (default)".to_owned(),
                false => format!(
                    " <form method=\"post\"><button name=\"default\" value=\"{}\">\
                     Make default</button></form>",
                    one.id()
                ),
            };
            format!("<li>{name}{choice}</li>")
        })
        .collect();
    format!(
        "<h2>Payment methods</h2><ul>{rows}</ul><form method=\"post\">\
         <p><label>Card number <input name=\"number\" autocomplete=\"cc-number\" \
         inputmode=\"numeric\"></label> <button>Add payment method</button></p></form>"
    )
}

/// Newest first, without drafts.
fn invoices(state: &State, session: &Session) -> String {
    let base = state.config.public_url.as_deref().unwrap_or_default();
    let own = state.invoices.iter().rev();
    let own = own.filter(|one| one.customer == session.customer && one.status != Status::Draft);
    let rows: String = own
        .map(|one| {
            let total = describe::price(DecimalAmount::whole(one.total()), &one.currency);
            let number = one.number.as_deref().unwrap_or(&one.id);
            format!(
                "<li><a href=\"{base}/i/{}\">{}</a> {} {}</li>",
                one.id,
                escaped(number),
                escaped(&total),
                one.status.name()
            )
        })
        .collect();
    format!("<h2>Invoice history</h2><ul>{rows}</ul>")
}

async fn submit(
    Shared(shared): Shared<Arc<SharedState>>,
    Path(token): Path<String>,
    RawForm(form): RawForm,
) -> Response {
    let fields: BTreeMap<String, String> = form_urlencoded::parse(&form).into_owned().collect();
    let mut state = shared.lock();
    state.wall_secs = wall_secs(&state.config);
    let session = state.portal_sessions.get(&token).cloned();
    let offers = |offered: &Configuration| offered.payment_method_update;
    let session = session.filter(|one| {
        let offered = state.portal_configurations.get(&one.configuration);
        offered.is_some_and(offers)
    });
    let Some(session) = session else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let done = match (fields.get("default"), fields.get("number")) {
        (Some(method), _) => make_default(&mut state, &session, method),
        (None, number) => add(&mut state, &session, number.map_or("", |text| text.trim())),
    };
    if !state.outbox.is_empty() {
        shared.outbox_filled.notify_one();
    }
    page(
        &state,
        &token,
        done.err().map(|error| error.message).as_deref(),
    )
}

/// A new card is charged from then on.
fn add(state: &mut State, session: &Session, number: &str) -> Result<(), ApiError> {
    let card = test_cards::by_number(number)
        .ok_or_else(|| ApiError::invalid("Your card number is incorrect."))?;
    if let IssuerDecision::Decline(decline) = card.attach {
        return Err(decline.error());
    }
    let method = PaymentMethod::entered(state, card);
    let method = payment_methods::attach(state, &method, &session.customer)?;
    make_default(state, session, &method)
}

fn make_default(state: &mut State, session: &Session, method: &str) -> Result<(), ApiError> {
    let id = &session.customer;
    let method = state.payment_methods.get(method);
    let method = method.filter(|one| one.customer.as_ref() == Some(id));
    let method = method.map(|one| one.id().to_owned());
    let method = method.ok_or_else(|| ApiError::invalid("This payment method is unknown."))?;
    let before = state.snapshot(id);
    if let Some(customer) = state.customers.get_mut(id) {
        customer.default_payment_method = Some(method);
    }
    let now = state.now_for(id);
    state.emit_update("customer.updated", id, before, now);
    Ok(())
}
