//! Cancels subscriptions, immediately or at a set time.

use serde_json::Value;

use crate::call::Call;
use crate::error::ApiError;
use crate::invoice_items;
use crate::invoices::assemble::{self, Draft};
use crate::invoices::model::LineContent;
use crate::invoices::{collect, credits, finalize};
use crate::state::State;
use crate::subscription_schedules::transition;
use crate::subscriptions::change::{Catalogue, ChangeRequest, ProrationBehavior};
use crate::subscriptions::model::{Status, Subscription};
use crate::subscriptions::{pending, prorations, request};

/// `DELETE /v1/subscriptions/{id}`.
pub fn delete(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let prorate = params.boolean("prorate")?.unwrap_or(false);
    let invoice_now = params.boolean("invoice_now")?.unwrap_or(false);
    let details = request::CancellationDetails::take(&mut params)?;
    params.finish()?;
    let id = call.id();
    let state = &mut *call.state;
    let subscription = state.subscription(&id, "id")?;
    if subscription.status.is_final() {
        return Err(ApiError::no_such("subscription", &id, "id"));
    }
    let now = state.now_for(&subscription.customer);
    details.apply(state.subscription_mut(&id)?);
    immediately(state, &id, prorate, invoice_now, now)?;
    call.render(&id)
}

/// Cancels a subscription now. The unused time is credited, and the usage so
/// far invoiced, if requested.
pub fn immediately(
    state: &mut State,
    id: &str,
    prorate: bool,
    invoice_now: bool,
    now: i64,
) -> Result<(), ApiError> {
    let subscription = state.subscription(id, "id")?.clone();
    if prorate && !subscription.on_trial() && subscription.status != Status::Incomplete {
        let mut unused = unused_time(&subscription, state.catalogue(), now)?;
        credits::link_credits(state, &mut unused);
        for credit in unused {
            invoice_items::record(state, &subscription.customer, credit, now);
        }
    }
    if invoice_now {
        create_final_invoice(state, &subscription, now)?;
    }
    self::now(state, id, "cancellation_requested", now)
}

/// The credits for the time left in the period, item by item.
pub fn unused_time(
    subscription: &Subscription,
    catalogue: Catalogue<'_>,
    now_secs: i64,
) -> Result<Vec<LineContent>, ApiError> {
    let request = ChangeRequest {
        edits: Vec::new(),
        behavior: ProrationBehavior::CreateProrations,
        proration_secs: now_secs,
        restart: false,
        trial_end: None,
        discounts: None,
    };
    let nothing = Subscription {
        items: Vec::new(),
        ..subscription.clone()
    };
    prorations::prorations(subscription, &nothing, &request, false, catalogue)
}

/// Invoices pending items and the usage so far.
fn create_final_invoice(
    state: &mut State,
    subscription: &Subscription,
    now_secs: i64,
) -> Result<(), ApiError> {
    let draft = final_invoice(state, subscription, Vec::new(), now_secs)?;
    if draft.lines.is_empty() {
        return Ok(());
    }
    let invoice = finalize::record(state, draft, now_secs)?;
    finalize::finalize(state, &invoice, now_secs)?;
    if state.invoice(&invoice)?.amount_remaining() > 0 {
        let method = collect::method_for(state, state.invoice(&invoice)?);
        collect::attempt(state, &invoice, method.as_deref(), now_secs)?;
    }
    Ok(())
}

/// The final invoice of an immediate cancellation.
pub fn final_invoice(
    state: &State,
    subscription: &Subscription,
    more_pending: Vec<LineContent>,
    now_secs: i64,
) -> Result<Draft, ApiError> {
    let mut draft = final_draft(state, subscription, more_pending, now_secs)?;
    draft
        .lines
        .retain(|line| line.content.amount != 0 || !is_usage(state, &line.content));
    Ok(draft)
}

fn is_usage(state: &State, content: &LineContent) -> bool {
    let price = content.price.as_ref().and_then(|id| state.prices.get(id));
    !content.proration && price.is_some_and(|price| price.meter().is_some())
}

/// The final invoice of a cancellation. It includes usage lines of zero,
/// because more usage may be reported while it is a draft.
pub fn final_draft(
    state: &State,
    subscription: &Subscription,
    more_pending: Vec<LineContent>,
    now_secs: i64,
) -> Result<Draft, ApiError> {
    let mut lines = assemble::pending(state, subscription);
    lines.extend(more_pending.into_iter().map(assemble::DraftLine::from));
    if !subscription.on_trial() {
        lines.extend(assemble::metered(state, subscription, now_secs, false)?);
    }
    let period = (subscription.period.start_secs(), now_secs);
    Ok(Draft::for_subscription(
        subscription,
        "subscription_update",
        period,
        lines,
    ))
}

/// Ends a subscription. Its open invoices are no longer collected.
pub fn now(
    state: &mut State,
    id: &str,
    reason: &'static str,
    now_secs: i64,
) -> Result<(), ApiError> {
    pending::discard(state, id, now_secs)?;
    let incomplete = state.subscription(id, "id")?.status == Status::Incomplete;
    {
        let subscription = state.subscription_mut(id)?;
        subscription.status = if incomplete {
            Status::IncompleteExpired
        } else {
            Status::Canceled
        };
        subscription.canceled_at.get_or_insert(now_secs);
        subscription.ended_at = Some(now_secs);
        subscription.cancel_reason = Some(reason);
    }
    let open: Vec<String> = state
        .invoices
        .iter()
        .filter(|invoice| invoice.subscription() == Some(id) && invoice.next_attempt_secs.is_some())
        .map(|invoice| invoice.id.clone())
        .collect();
    for invoice_id in open {
        let before = state.snapshot(&invoice_id);
        let invoice = state.invoice_mut(&invoice_id)?;
        invoice.auto_advance = false;
        invoice.next_attempt_secs = None;
        state.emit_update("invoice.updated", &invoice_id, before, now_secs);
    }
    state.emit("customer.subscription.deleted", id, now_secs);
    transition::after_cancellation(state, id, reason, now_secs);
    Ok(())
}

/// Cancels all subscriptions of a customer.
pub fn all_of(state: &mut State, customer: &str, now_secs: i64) -> Result<(), ApiError> {
    let ids: Vec<String> = state
        .subscriptions
        .iter()
        .filter(|subscription| subscription.customer == customer && !subscription.status.is_final())
        .map(|subscription| subscription.id.clone())
        .collect();
    ids.iter()
        .try_for_each(|id| now(state, id, "cancellation_requested", now_secs))
}
