//! Pending updates: with `payment_behavior=pending_if_incomplete` a change
//! whose invoice is not paid waits for that, and is dropped after 23 hours.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::invoices::model::Status as InvoiceStatus;
use crate::invoices::{assemble, collect, finalize};
use crate::shape::Shape;
use crate::state::State;
use crate::subscriptions::change::{Change, Invoicing};
use crate::subscriptions::model::Subscription;
use crate::subscriptions::payment;
use crate::test_cards::Verdict;

/// How long the change waits.
const PENDING_SECS: i64 = 23 * 3_600;

/// A change that waits for its invoice to be paid.
#[derive(Debug, Clone)]
pub struct PendingUpdate {
    /// The subscription as it would be.
    pub after: Box<Subscription>,
    /// The invoice; none while it is being made.
    pub invoice: Option<String>,
    /// When the change is dropped.
    pub expires_secs: i64,
}

impl PendingUpdate {
    /// The hash within the subscription.
    #[must_use]
    pub fn render(&self, state: &State, shape: Shape) -> Value {
        let after = &self.after;
        let items: Vec<Value> = after
            .items
            .iter()
            .map(|item| after.render_item(item, state, shape))
            .collect();
        json!({
            "billing_cycle_anchor": after.anchor_secs,
            "expires_at": self.expires_secs,
            "subscription_items": items,
            "trial_end": null,
            "trial_from_plan": null,
        })
    }
}

/// Puts a change off when its invoice would not be paid at once; `false` when
/// it can be made now: the issuer has agreed then.
pub fn put_off(
    state: &mut State,
    before: &Subscription,
    change: &Change,
    now_secs: i64,
) -> Result<bool, ApiError> {
    if change.invoice == Invoicing::Later {
        return Ok(false);
    }
    let full = change.invoice == Invoicing::FullPeriod;
    let prorations = change.prorations.clone();
    let draft = assemble::immediate(state, before, &change.after, full, prorations, now_secs)?;
    if payment::due(state, &draft)? == 0 {
        return Ok(false);
    }
    let method = payment::method_of(state, &change.after).ok_or_else(collect::no_payment_method)?;
    let verdict = collect::verdict(state, &method)?;
    if verdict == Verdict::Approve {
        return Ok(false);
    }
    let expires_secs = now_secs + PENDING_SECS;
    let id = before.id.clone();
    let snapshot = state.snapshot(&id);
    let invoice = finalize::record(state, draft, now_secs)?;
    state.invoice_mut(&invoice)?.auto_advance = false;
    state.subscription_mut(&id)?.pending_update = Some(PendingUpdate {
        after: Box::new(change.after.clone()),
        invoice: Some(invoice.clone()),
        expires_secs,
    });
    state.emit_update("customer.subscription.updated", &id, snapshot, now_secs);
    finalize::finalize(state, &invoice, now_secs)?;
    collect::attempt_as(state, &invoice, &method, verdict, now_secs)?;
    Ok(true)
}

/// Whether this invoice decides over a change that waits.
#[must_use]
pub fn waits_for(subscription: &Subscription, invoice: &str) -> bool {
    let waiting = subscription.pending_update.as_ref();
    waiting.is_some_and(|pending| pending.invoice.as_deref() == Some(invoice))
}

/// The invoice was paid: the change is made.
pub fn apply(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let before = state.snapshot(id);
    let subscription = state.subscription_mut(id)?;
    if let Some(pending) = subscription.pending_update.take() {
        let after = *pending.after;
        subscription.items = after.items;
        subscription.cadence = after.cadence;
        subscription.anchor_secs = after.anchor_secs;
        subscription.period = after.period;
        subscription.status = after.status;
        subscription.trial = after.trial;
    }
    state.emit_update("customer.subscription.updated", id, before, now_secs);
    state.emit("customer.subscription.pending_update_applied", id, now_secs);
    Ok(())
}

/// The change is dropped, and its invoice is void.
pub fn expire(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let dropped = drop_waiting(state, id, now_secs)?;
    if dropped {
        state.emit("customer.subscription.pending_update_expired", id, now_secs);
    }
    Ok(())
}

/// A later change takes the place of one that waits.
pub fn drop_waiting(state: &mut State, id: &str, now_secs: i64) -> Result<bool, ApiError> {
    let before = state.snapshot(id);
    let Some(pending) = state.subscription_mut(id)?.pending_update.take() else {
        return Ok(false);
    };
    state.emit_update("customer.subscription.updated", id, before, now_secs);
    if let Some(invoice) = pending.invoice
        && state.invoice(&invoice)?.status == InvoiceStatus::Open
    {
        finalize::void(state, &invoice, now_secs)?;
    }
    Ok(true)
}
