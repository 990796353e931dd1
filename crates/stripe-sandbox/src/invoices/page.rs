//! The hosted invoice page, as simple HTML: it shows what is due, takes a test card, and
//! stands for the bank that asks its cardholder.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, RawForm, State as Shared};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};

use crate::checkout::page::{CHALLENGE, escaped, titled};
use crate::error::ApiError;
use crate::invoices::collect::{self, AttemptOutcome};
use crate::invoices::describe;
use crate::invoices::model::{Invoice, Status};
use crate::payment_methods;
use crate::payments::intents;
use crate::pricing::DecimalAmount;
use crate::server::{SharedState, wall_secs};
use crate::state::State;
use crate::test_cards;

/// The page's routes. The address is the only credential needed.
pub fn router(shared: &Arc<SharedState>) -> axum::Router {
    let pages = axum::routing::get(show).post(submit);
    axum::Router::new()
        .route("/i/{id}", pages)
        .with_state(Arc::clone(shared))
}

async fn show(Shared(shared): Shared<Arc<SharedState>>, Path(id): Path<String>) -> Response {
    let state = shared.lock();
    page(&state, &id, None)
}

fn page(state: &State, id: &str, problem: Option<&str>) -> Response {
    let Some(invoice) = state.invoices.get(id) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let body = match invoice.status {
        // Instead of confirming, the payer may use another card.
        Status::Open if challenged(state, invoice).is_some() => {
            format!("{CHALLENGE}{}", form(invoice, problem))
        }
        Status::Open => form(invoice, problem),
        status => format!("<p>This invoice is {}.</p>", status.name()),
    };
    Html(titled("Invoice", &body)).into_response()
}

/// The payment method whose holder the bank asks.
fn challenged(state: &State, invoice: &Invoice) -> Option<String> {
    let intent = state
        .payment_intents
        .get(invoice.payment_intent.as_ref()?)?;
    let asked = intent.status == intents::Status::RequiresAction;
    intent.payment_method.clone().filter(|_| asked)
}

fn form(invoice: &Invoice, problem: Option<&str>) -> String {
    let problem = problem
        .map(|problem| format!("<p role=\"alert\">{}</p>", escaped(problem)))
        .unwrap_or_default();
    let due = DecimalAmount::whole(invoice.amount_remaining());
    let due = describe::price(due, &invoice.currency);
    format!(
        "{problem}<p>Amount due: {}</p><form method=\"post\">\
         <p><label>Card number <input name=\"number\" autocomplete=\"cc-number\" \
         inputmode=\"numeric\"></label> (empty: the card on file)</p>\
         <p><button name=\"action\" value=\"pay\">Pay</button></p></form>",
        escaped(&due)
    )
}

async fn submit(
    Shared(shared): Shared<Arc<SharedState>>,
    Path(id): Path<String>,
    RawForm(form): RawForm,
) -> Response {
    let fields: BTreeMap<String, String> = form_urlencoded::parse(&form).into_owned().collect();
    let field = |name: &str| fields.get(name).map(|text| text.trim()).unwrap_or_default();
    let mut state = shared.lock();
    state.wall_secs = wall_secs(&state.config);
    let outcome = match state.invoices.get(&id).cloned() {
        Some(invoice) if invoice.status == Status::Open => match field("action") {
            "confirm" => answer(&mut state, &invoice, true),
            "refuse" => answer(&mut state, &invoice, false),
            _ => pay(&mut state, &invoice, field("number")),
        },
        _ => Ok(()),
    };
    if !state.outbox.is_empty() {
        shared.outbox_filled.notify_one();
    }
    let problem = outcome.err().map(|error| error.message);
    page(&state, &id, problem.as_deref())
}

fn pay(state: &mut State, invoice: &Invoice, number: &str) -> Result<(), ApiError> {
    let method = match number {
        "" => collect::method_for(state, invoice),
        number => {
            let card = test_cards::by_number(number)
                .ok_or_else(|| ApiError::invalid("Your card number is incorrect."))?;
            let name = format!("pm_card_{}", card.name);
            Some(payment_methods::attach(state, &name, &invoice.customer)?)
        }
    };
    let now = state.now_for(&invoice.customer);
    match collect::attempt(state, &invoice.id, method.as_deref(), now)? {
        AttemptOutcome::Failed(error) => Err(error),
        AttemptOutcome::Paid | AttemptOutcome::ActionRequired(_) => Ok(()),
    }
}

/// The cardholder has answered the bank.
fn answer(state: &mut State, invoice: &Invoice, confirms: bool) -> Result<(), ApiError> {
    let method = challenged(state, invoice)
        .ok_or_else(|| ApiError::invalid("Nobody is asked to confirm a payment."))?;
    let now = state.now_for(&invoice.customer);
    if confirms {
        return collect::take_payment(state, &invoice.id, &method, now);
    }
    Err(collect::fail_authentication(
        state,
        &invoice.id,
        &method,
        now,
    )?)
}
