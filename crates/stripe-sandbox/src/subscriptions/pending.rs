//! Pending updates. With `payment_behavior=pending_if_incomplete`, a change
//! takes effect once its invoice is paid. It is discarded after 23 hours, or when the
//! period or the trial ends, or when the invoice is voided.

use serde_json::{Value, json};

use crate::discounts::model as discount;
use crate::discounts::model::Discount;
use crate::discounts::redeem;
use crate::error::ApiError;
use crate::invoices::model::Status as InvoiceStatus;
use crate::invoices::{assemble, collect, finalize};
use crate::metadata::Metadata;
use crate::shape::Shape;
use crate::state::State;
use crate::subscriptions::change::{Change, Invoicing};
use crate::subscriptions::model::Subscription;
use crate::subscriptions::{payment, share};
use crate::test_cards::IssuerDecision;

/// How long a change waits for payment.
const PENDING_SECS: i64 = 23 * 3_600;

/// A change that waits for its invoice to be paid.
#[derive(Debug, Clone)]
pub struct PendingUpdate {
    /// The subscription after the change.
    pub after: Box<Subscription>,
    pub invoice: Option<String>,
    /// When the change is discarded.
    pub expires_secs: i64,
    pub also: Also,
}

/// What a change sets besides items and timing.
#[derive(Debug, Clone, Default)]
pub struct Also {
    /// Merged into the metadata; an empty value removes its key.
    pub metadata: Vec<(String, String)>,
    pub discounts: Option<Vec<Discount>>,
}

impl Also {
    /// The metadata that are set.
    fn set(&self) -> Metadata {
        let set = self.metadata.iter().filter(|(_, value)| !value.is_empty());
        set.cloned().collect()
    }
}

impl PendingUpdate {
    /// The `pending_update` of the subscription object.
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
            "discounts": self.also.discounts.as_deref().map(discount::ids),
            "metadata": (!self.also.metadata.is_empty()).then(|| self.also.set()),
            "expires_at": self.expires_secs,
            "subscription_items": items,
            "trial_end": null,
            "trial_from_plan": null,
        })
    }
}

/// Defers a change if its invoice cannot be paid immediately. Returns `false`
/// if the change can be made now, in which case the issuer has approved.
pub fn defer_unless_paid(
    state: &mut State,
    before: &Subscription,
    change: &Change,
    also: Also,
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
    let method =
        payment::payment_method_of(state, &change.after).ok_or_else(collect::no_payment_method)?;
    let decision = collect::ask_issuer(state, &method)?;
    if decision == IssuerDecision::Approve {
        return Ok(false);
    }
    let trial_end = before
        .trial
        .map(|(_, end)| end)
        .filter(|_| before.on_trial());
    let expires_secs = (now_secs + PENDING_SECS)
        .min(before.period.end_secs())
        .min(trial_end.unwrap_or(i64::MAX));
    let id = before.id.clone();
    let snapshot = state.snapshot(&id);
    let invoice = finalize::record(state, draft, now_secs)?;
    state.invoice_mut(&invoice)?.auto_advance = false;
    state.subscription_mut(&id)?.pending_update = Some(PendingUpdate {
        after: Box::new(change.after.clone()),
        invoice: Some(invoice.clone()),
        expires_secs,
        also,
    });
    state.emit_update("customer.subscription.updated", &id, snapshot, now_secs);
    finalize::finalize(state, &invoice, now_secs)?;
    collect::attempt_decided(state, &invoice, &method, decision, now_secs)?;
    Ok(true)
}

/// Whether a pending update waits for this invoice.
#[must_use]
pub fn awaits(subscription: &Subscription, invoice: &str) -> bool {
    let pending = subscription.pending_update.as_ref();
    pending.is_some_and(|pending| pending.invoice.as_deref() == Some(invoice))
}

/// Makes the change after its invoice was paid.
pub fn apply(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let before = state.snapshot(id);
    let subscription = state.subscription_mut(id)?;
    let discounts_before = subscription.discounts.clone();
    let (mut paid, mut redeemed) = (None, None);
    if let Some(pending) = subscription.pending_update.take() {
        let after = *pending.after;
        subscription.items = after.items;
        subscription.cadence = after.cadence;
        subscription.anchor_secs = after.anchor_secs;
        subscription.period = after.period;
        subscription.status = after.status;
        subscription.trial = after.trial;
        for (key, value) in pending.also.metadata {
            if value.is_empty() {
                subscription.metadata.remove(&key);
            } else {
                subscription.metadata.insert(key, value);
            }
        }
        if let Some(discounts) = pending.also.discounts {
            subscription.discounts.clone_from(&discounts);
            redeemed = Some(discounts);
        }
        paid = pending.invoice;
    }
    if let Some(discounts) = redeemed {
        redeem::record(state, &discounts_before, &discounts, now_secs);
    }
    if let Some(invoice) = paid.and_then(|id| state.invoices.get(&id)).cloned() {
        share::remember(state, &invoice);
    }
    state.emit_update("customer.subscription.updated", id, before, now_secs);
    state.emit("customer.subscription.pending_update_applied", id, now_secs);
    Ok(())
}

/// Discards the change after its time ran out.
pub fn expire(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let discarded = discard(state, id, now_secs)?;
    if discarded {
        state.emit("customer.subscription.pending_update_expired", id, now_secs);
    }
    Ok(())
}

/// Discards a pending update, if there is one, and voids its invoice.
pub fn discard(state: &mut State, id: &str, now_secs: i64) -> Result<bool, ApiError> {
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
