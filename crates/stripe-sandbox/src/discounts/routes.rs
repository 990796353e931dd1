//! Removes discounts: on request, when they end, and once they are used.

use serde_json::{Value, json};

use crate::call::{Call, Route, delete};
use crate::coupons::Duration;
use crate::discounts::model::Discount;
use crate::discounts::redeem;
use crate::error::ApiError;
use crate::invoices::model::Invoice;
use crate::state::State;

pub const ROUTES: &[Route] = &[
    delete("/v1/customers/{id}/discount", of_customer),
    delete("/v1/subscriptions/{id}/discount", of_subscription),
];

fn none_active(object: &str, id: &str) -> ApiError {
    let mut error = ApiError::invalid(format!("No active discount for {object}: {id}"))
        .code("resource_missing");
    error.status = 404;
    error
}

fn of_customer(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let now = call.state.now_for(&id);
    let discount = call
        .state
        .customer(&id, "id")?
        .discount
        .clone()
        .ok_or_else(|| none_active("customer", &id))?;
    clear_customer(call.state, &id, now);
    Ok(deleted(call, &discount))
}

/// Removes all discounts of a subscription, and answers the first.
fn of_subscription(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let state = &mut *call.state;
    let subscription = state.subscription(&id, "id")?;
    let now = state.now_for(&subscription.customer);
    let first = subscription
        .discounts
        .first()
        .cloned()
        .ok_or_else(|| none_active("subscription", &id))?;
    retain(state, &id, now, |_| false)?;
    Ok(deleted(call, &first))
}

fn deleted(call: &Call<'_>, discount: &Discount) -> Value {
    let mut object = discount.render(call.state, call.shape);
    object["deleted"] = json!(true);
    if let Some(object) = object.as_object_mut() {
        object.remove("end");
    }
    object
}

/// Removes the discount of a customer.
pub fn clear_customer(state: &mut State, id: &str, now_secs: i64) {
    let before = state.snapshot(id);
    let removed = state
        .customers
        .get_mut(id)
        .and_then(|customer| customer.discount.take());
    state.emit_update("customer.updated", id, before, now_secs);
    if let Some(discount) = removed {
        redeem::record(state, &[discount], &[], now_secs);
    }
}

/// Keeps only some discounts of a subscription.
pub fn retain(
    state: &mut State,
    id: &str,
    now_secs: i64,
    keep: impl Fn(&Discount) -> bool,
) -> Result<(), ApiError> {
    let before = state.subscription(id, "id")?.discounts.clone();
    let after: Vec<Discount> = before
        .iter()
        .filter(|discount| keep(discount))
        .cloned()
        .collect();
    state.change_subscription(id, now_secs, |subscription| {
        subscription.discounts.clone_from(&after);
    })?;
    redeem::record(state, &before, &after, now_secs);
    Ok(())
}

/// Removes the discounts for one invoice that this invoice has used.
pub fn use_up(state: &mut State, invoice: &Invoice, now_secs: i64) -> Result<(), ApiError> {
    let used: Vec<&Discount> = invoice
        .discounts
        .iter()
        .enumerate()
        .filter(|(index, discount)| {
            discount.duration == Duration::Once && invoice.amount_off(*index) > 0
        })
        .map(|(_, discount)| discount)
        .collect();
    for discount in used {
        match &discount.subscription {
            Some(subscription) if state.subscriptions.get(subscription).is_some() => {
                retain(state, subscription, now_secs, |other| {
                    other.id != discount.id
                })?;
            }
            Some(_) => {}
            None => clear_customer(state, &discount.customer, now_secs),
        }
    }
    Ok(())
}
