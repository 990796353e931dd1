//! The routes of `/v1/subscriptions`.

use serde_json::Value;

use crate::call::{Call, Route, delete, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::subscriptions::model::Subscription;
use crate::subscriptions::{cancel, create, migrate, resume, update};

pub const ROUTES: &[Route] = &[
    post("/v1/subscriptions", create::create),
    get("/v1/subscriptions", list),
    get("/v1/subscriptions/{id}", retrieve),
    post("/v1/subscriptions/{id}", update::update),
    delete("/v1/subscriptions/{id}", cancel::delete),
    post("/v1/subscriptions/{id}/migrate", migrate::migrate),
    post("/v1/subscriptions/{id}/resume", resume::resume),
];

const STATUSES: [&str; 10] = [
    "active",
    "all",
    "canceled",
    "ended",
    "incomplete",
    "incomplete_expired",
    "past_due",
    "paused",
    "trialing",
    "unpaid",
];

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let subscription = call.state.subscription(&id, "id")?;
    Ok(subscription.render(call.state, call.shape))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    let starts = params.range("current_period_start")?;
    let ends = params.range("current_period_end")?;
    let customer = params.text("customer")?;
    let price = params.text("price")?;
    let clock = params.text("test_clock")?;
    let status = params.choice("status", &STATUSES)?;
    params.finish()?;
    let state = &*call.state;
    let has_status = |subscription: &Subscription| match status {
        Some("all") => true,
        Some("ended") => subscription.status.is_final(),
        Some(status) => subscription.status.name() == status,
        None => !subscription.status.is_final(),
    };
    let filter = |subscription: &Subscription| {
        // Subscriptions on a test clock are listed only by customer or clock.
        let on_clock = subscription.clock(state);
        let placed = match &clock {
            Some(clock) => on_clock == Some(clock.as_str()),
            None => customer.is_some() || on_clock.is_none(),
        };
        placed
            && has_status(subscription)
            && created.contains(subscription.created_secs)
            && starts.contains(subscription.period.start_secs())
            && ends.contains(subscription.period.end_secs())
            && customer
                .as_ref()
                .is_none_or(|id| subscription.customer == *id)
            && price
                .as_ref()
                .is_none_or(|price| subscription.items.iter().any(|item| item.price == *price))
    };
    call.render_page(
        &page,
        "subscription",
        "/v1/subscriptions",
        state.subscriptions.iter().rev(),
        filter,
    )
}
