//! Updates the status of a subscription when its invoices are paid, fail or are
//! voided.

use crate::config::DunningEnd;
use crate::error::ApiError;
use crate::invoices::model::Invoice;
use crate::state::State;
use crate::subscriptions::model::{Status, Subscription};
use crate::subscriptions::{cancel, pending, resume};

impl State {
    /// Changes a subscription and records the update, if anything changed.
    pub fn change_subscription(
        &mut self,
        id: &str,
        now_secs: i64,
        change: impl FnOnce(&mut Subscription),
    ) -> Result<(), ApiError> {
        let before = self.snapshot(id);
        change(self.subscription_mut(id)?);
        self.emit_update("customer.subscription.updated", id, before, now_secs);
        Ok(())
    }
}

/// Updates the subscription after an invoice was paid.
pub fn after_paid(
    state: &mut State,
    id: &str,
    invoice: &Invoice,
    now_secs: i64,
) -> Result<(), ApiError> {
    let subscription = state.subscription(id, "id")?;
    let latest = subscription.latest_invoice.as_ref() == Some(&invoice.id);
    if pending::awaits(subscription, &invoice.id) {
        return pending::apply(state, id, now_secs);
    }
    if subscription.status == Status::Paused && latest {
        return resume::activate(state, id, now_secs);
    }
    let recovers = match subscription.status {
        Status::Incomplete => invoice.reason == "subscription_create",
        Status::PastDue | Status::Unpaid => latest,
        _ => false,
    };
    if recovers {
        state.change_subscription(id, now_secs, |subscription| {
            subscription.status = Status::Active
        })?;
    }
    Ok(())
}

/// Updates the subscription after a failed payment. A failed first invoice
/// leaves it incomplete, a later one makes it past due, and the last failed
/// retry ends it.
pub fn after_failed(
    state: &mut State,
    id: &str,
    invoice: &Invoice,
    now_secs: i64,
) -> Result<(), ApiError> {
    let subscription = state.subscription(id, "id")?;
    let status = subscription.status;
    if pending::awaits(subscription, &invoice.id) {
        return Ok(());
    }
    if invoice.reason == "subscription_create" || status.is_final() {
        return Ok(());
    }
    if status == Status::Active {
        state.change_subscription(id, now_secs, |subscription| {
            subscription.status = Status::PastDue
        })?;
    }
    let exhausted = invoice.auto_advance
        && invoice.next_attempt_secs.is_none()
        && usize::try_from(invoice.attempt_count).unwrap_or(usize::MAX)
            > state.config.dunning_days.len();
    if !exhausted {
        return Ok(());
    }
    match state.config.dunning_end {
        DunningEnd::Cancel => cancel::now(state, id, "payment_failed", now_secs),
        DunningEnd::MarkUnpaid => state.change_subscription(id, now_secs, |subscription| {
            subscription.status = Status::Unpaid
        }),
        DunningEnd::LeavePastDue => Ok(()),
    }
}

/// Updates the subscription after an invoice was voided.
pub fn after_void(
    state: &mut State,
    id: &str,
    invoice: &Invoice,
    now_secs: i64,
) -> Result<(), ApiError> {
    let subscription = state.subscription(id, "id")?;
    if pending::awaits(subscription, &invoice.id) {
        pending::discard(state, id, now_secs)?;
        return Ok(());
    }
    let latest = subscription.latest_invoice.as_ref() == Some(&invoice.id);
    match subscription.status {
        Status::Incomplete if invoice.reason == "subscription_create" => {
            expire(state, id, now_secs)
        }
        Status::PastDue if latest => state.change_subscription(id, now_secs, |subscription| {
            subscription.status = Status::Active
        }),
        _ => Ok(()),
    }
}

/// Expires a subscription whose first payment did not succeed in time.
pub fn expire(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    state.change_subscription(id, now_secs, |subscription| {
        subscription.status = Status::IncompleteExpired;
        subscription.ended_at = Some(now_secs);
    })
}

/// Makes the payment method that paid the subscription's default, if requested.
pub fn save_payment_method(
    state: &mut State,
    id: &str,
    method: &str,
    now_secs: i64,
) -> Result<(), ApiError> {
    let subscription = state.subscription(id, "id")?;
    if subscription.save_default_payment_method && subscription.default_payment_method.is_none() {
        let method = method.to_owned();
        state.change_subscription(id, now_secs, |subscription| {
            subscription.default_payment_method = Some(method)
        })?;
    }
    Ok(())
}
