//! `POST /v1/subscriptions/{id}/resume`: a paused subscription starts a new
//! period once it is paid.

use serde_json::Value;

use crate::call::Call;
use crate::error::ApiError;
use crate::invoices::assemble::{self, Draft};
use crate::invoices::finalize;
use crate::state::State;
use crate::subscriptions::model::Status;
use crate::subscriptions::{change, payment, request};

/// `POST /v1/subscriptions/{id}/resume`.
pub fn resume(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let anchor = params.choice("billing_cycle_anchor", &["now", "unchanged"])?;
    request::take_proration_behavior(&mut params)?;
    let behavior = request::take_payment_behavior(&mut params)?;
    request::refuse_pending(behavior)?;
    params.finish_rejecting(&["proration_date"])?;
    let id = call.id();
    let state = &mut *call.state;
    let before = state.subscription(&id, "id")?.clone();
    if before.status != Status::Paused {
        return Err(ApiError::invalid(format!(
            "You can only resume a subscription that is paused; this one is {}.",
            before.status.name()
        )));
    }
    if anchor == Some("unchanged") {
        return Err(ApiError::unsupported(
            "billing_cycle_anchor",
            "resuming with an unchanged anchor",
        ));
    }
    let now = state.now_for(&before.customer);
    let mut after = before;
    after.anchor_secs = now;
    after.period = change::full_period(after.cadence, now)?;
    let mut lines = assemble::pending(state, &after);
    lines.extend(assemble::licensed(&after, state.catalogue())?);
    let empty = lines.is_empty();
    let draft = Draft::for_subscription(&after, "subscription_update", (now, now), lines);
    let snapshot = state.snapshot(&id);
    state.subscriptions.insert(after);
    if empty {
        return activate(state, &id, now).and_then(|()| call.render(&id));
    }
    let invoice = finalize::record(state, draft, now)?;
    state.emit_update("customer.subscription.updated", &id, snapshot, now);
    finalize::finalize(state, &invoice, now)?;
    if state.invoice(&invoice)?.amount_remaining() > 0 {
        payment::pay(state, &invoice, behavior, now)?;
    }
    call.render(&id)
}

/// Activates a paused subscription.
pub fn activate(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    state.change_subscription(id, now_secs, |subscription| {
        subscription.status = Status::Active;
    })?;
    state.emit("customer.subscription.resumed", id, now_secs);
    Ok(())
}
