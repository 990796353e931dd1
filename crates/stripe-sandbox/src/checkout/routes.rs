//! The API of checkout sessions.

use serde_json::{Value, json};

use super::model::{Session, Status};
use super::{complete, request};
use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::list::{self, Page};
use crate::state::State;

/// The route under `/_sandbox` plays the bank that a debit was sent to.
pub const ROUTES: &[Route] = &[
    post("/v1/checkout/sessions", request::create),
    get("/v1/checkout/sessions", list),
    get("/v1/checkout/sessions/{id}", retrieve),
    post("/v1/checkout/sessions/{id}", update),
    post("/v1/checkout/sessions/{id}/expire", expire),
    get("/v1/checkout/sessions/{id}/line_items", line_items),
    post("/_sandbox/checkout/sessions/{id}/settle", settle),
];

fn find<'a>(state: &'a State, id: &str) -> Result<&'a Session, ApiError> {
    state
        .checkout_sessions
        .get(id)
        .ok_or_else(|| ApiError::no_such("checkout.session", id, "id"))
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    find(call.state, &call.id()).map(Session::render)
}

fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let metadata = crate::metadata::MetadataChange::take(&mut params)?;
    params.finish_rejecting(&["collected_information", "line_items", "shipping_options"])?;
    let id = call.id();
    find(call.state, &id)?;
    if let Some(session) = call.state.checkout_sessions.get_mut(&id) {
        metadata.apply(&mut session.metadata);
    }
    call.render(&id)
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    let customer = params.text("customer")?;
    let subscription = params.text("subscription")?;
    let status = params.choice("status", &["complete", "expired", "open"])?;
    params.finish_rejecting(&[
        "customer_account",
        "customer_details",
        "payment_intent",
        "payment_link",
    ])?;
    let filter = |session: &Session| {
        created.contains(session.created_secs)
            && (customer.is_none() || session.customer == customer)
            && (subscription.is_none() || session.subscription == subscription)
            && status.is_none_or(|status| session.status.name() == status)
    };
    call.render_page(
        &page,
        "checkout.session",
        "/v1/checkout/sessions",
        call.state.checkout_sessions.iter().rev(),
        filter,
    )
}

fn expire(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let status = find(call.state, &id)?.status;
    if status != Status::Open {
        return Err(ApiError::invalid(format!(
            "Only Checkout Sessions with a status in [\"open\"] can be expired. This Session has a status of {}.",
            status.name()
        )));
    }
    complete::expire(call.state, &id);
    call.render(&id)
}

fn line_items(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    params.integer("limit")?;
    params.finish_rejecting(&["starting_after", "ending_before"])?;
    let id = call.id();
    let session = find(call.state, &id)?;
    let items = session.line_items.iter().map(|item| {
        let price = call.state.render(&item.price, call.shape);
        item.render(price, session.currency.as_deref())
    });
    let url = format!("/v1/checkout/sessions/{id}/line_items");
    Ok(list::object(items.collect(), false, &url))
}

fn settle(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let outcome = params.choice("outcome", &["paid", "failed"])?;
    params.finish()?;
    let id = call.id();
    find(call.state, &id)?;
    complete::settle(call.state, &id, outcome != Some("failed"))?;
    Ok(json!({ "id": id }))
}
