//! The hosted page, as simple HTML: a form takes a test card, and a second one
//! stands for the bank that asks its cardholder.

use axum::extract::{Path, RawForm, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use std::sync::Arc;

use super::complete::{self, Outcome};
use super::model::{Mode, Session, Status};
use crate::server::{SharedState, wall_secs};
use crate::state::State;
use crate::test_cards;

/// The page's routes. The address is the only credential needed.
pub fn router(shared: &Arc<SharedState>) -> axum::Router {
    let pages = axum::routing::get(show).post(submit);
    axum::Router::new()
        .route("/c/pay/{id}", pages)
        .with_state(Arc::clone(shared))
}

async fn show(Shared(shared): Shared<Arc<SharedState>>, Path(id): Path<String>) -> Response {
    let state = shared.lock();
    page(&state, &id, None)
}

fn page(state: &State, id: &str, problem: Option<&str>) -> Response {
    match state.checkout_sessions.get(id) {
        None => StatusCode::NOT_FOUND.into_response(),
        Some(session) if session.status != Status::Open => {
            let text = format!("<p>This page is closed: {}.</p>", session.status.name());
            (StatusCode::GONE, Html(document(&text))).into_response()
        }
        Some(session) if session.challenged.is_some() => Html(document(CHALLENGE)).into_response(),
        Some(session) => Html(document(&form(session, problem))).into_response(),
    }
}

fn document(body: &str) -> String {
    titled("Checkout", body)
}

pub fn titled(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>{title}</title></head><body><main><h1>{title}</h1>{body}</main></body></html>"
    )
}

pub const CHALLENGE: &str = "<p>Your bank asks you to confirm this payment.</p>\
    <form method=\"post\"><button name=\"action\" value=\"confirm\">Confirm</button>\
    <button name=\"action\" value=\"refuse\">Fail</button></form>";

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn form(session: &Session, problem: Option<&str>) -> String {
    let lines: String = session
        .line_items
        .iter()
        .map(|item| {
            let count = item.quantity.map(|n| format!(" × {n}")).unwrap_or_default();
            format!("<li>{}{count}</li>", escaped(&item.description))
        })
        .collect();
    let problem = problem
        .map(|problem| format!("<p role=\"alert\">{}</p>", escaped(problem)))
        .unwrap_or_default();
    let (total, button) = match session.mode {
        Mode::Setup => (String::new(), "Save card"),
        Mode::Subscription => {
            let total = session.amount_total.unwrap_or(0);
            let currency = session.currency.as_deref().unwrap_or_default();
            let text = format!("<p>Due now: {total} {}</p>", escaped(currency));
            (text, "Subscribe")
        }
    };
    format!(
        "{problem}<ul>{lines}</ul>{total}<form method=\"post\">\
         <p><label>Card number <input name=\"number\" autocomplete=\"cc-number\" \
         inputmode=\"numeric\"></label></p>\
         <p><label>or bank account <input name=\"account\" inputmode=\"numeric\"></label></p>\
         <p><button name=\"action\" value=\"pay\">{button}</button>\
         <button name=\"action\" value=\"cancel\">Back</button></p></form>"
    )
}

async fn submit(
    Shared(shared): Shared<Arc<SharedState>>,
    Path(id): Path<String>,
    RawForm(form): RawForm,
) -> Response {
    let mut fields = std::collections::BTreeMap::new();
    fields.extend(form_urlencoded::parse(&form).into_owned());
    let field = |name: &str| fields.get(name).map(|text| text.trim()).unwrap_or_default();
    let mut state = shared.lock();
    state.wall_secs = wall_secs(&state.config);
    let Some(session) = state.checkout_sessions.get(&id).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if session.status != Status::Open {
        return page(&state, &id, None);
    }
    let entered = match (field("number"), field("account")) {
        ("", "") => Err("Enter a card number.".to_owned()),
        ("", account) => {
            test_cards::by_account(account).ok_or_else(|| "This account is unknown.".to_owned())
        }
        (number, _) => {
            test_cards::by_number(number).ok_or_else(|| "Your card number is incorrect.".to_owned())
        }
    };
    let nothing_entered = field("number").is_empty() && field("account").is_empty();
    let outcome = match field("action") {
        "cancel" => {
            let back = session.cancel_url.as_ref().unwrap_or(&session.success_url);
            return redirect(back);
        }
        "confirm" => complete::answer(&mut state, &id, true).map_err(|error| error.message),
        "refuse" => complete::answer(&mut state, &id, false).map_err(|error| error.message),
        "pay" if nothing_entered && session.needs_no_card() => {
            complete::without_card(&mut state, &id).map_err(|error| error.message)
        }
        _ => entered
            .and_then(|card| complete::pay(&mut state, &id, card).map_err(|error| error.message)),
    };
    if !state.outbox.is_empty() {
        shared.outbox_filled.notify_one();
    }
    match outcome {
        Ok(Outcome::Done) => redirect(&session.return_address()),
        Ok(Outcome::Challenge) => page(&state, &id, None),
        Err(problem) => page(&state, &id, Some(&problem)),
    }
}

fn redirect(to: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}
