//! The transitions of an invoice except payment: recorded, finalized, voided,
//! marked uncollectible.

use std::collections::HashSet;

use crate::customer_balance;
use crate::discounts::routes as discounts;
use crate::error::ApiError;
use crate::invoices::assemble::Draft;
use crate::invoices::model::{Invoice, Line, LineContent, Status, apply_balance};
use crate::invoices::{adjust, collect, describe};
use crate::meter_events;
use crate::payments::intents;
use crate::prices::Price;
use crate::state::State;
use crate::subscriptions::share;

/// Records a draft and marks its invoice items as invoiced.
pub fn record(state: &mut State, draft: Draft, now_secs: i64) -> Result<String, ApiError> {
    let balance = state.customer(&draft.customer, "customer")?.balance;
    let mut ids = state.ids.clone();
    let mut invoice = adjust::prepare(state, draft, &mut ids, now_secs);
    state.ids = ids;
    invoice.starting_balance = balance;
    invoice.amount_due = apply_balance(invoice.total(), balance, &invoice.currency).amount_due;
    let (id, customer, currency) = (
        invoice.id.clone(),
        invoice.customer.clone(),
        invoice.currency.clone(),
    );
    let used: Vec<String> = invoice
        .lines
        .iter()
        .filter_map(|line| line.invoice_item.clone())
        .collect();
    let subscription = invoice.subscription().map(str::to_owned);
    let recorded = invoice.clone();
    state.invoices.insert(invoice);
    for item in used {
        if let Some(item) = state.invoice_items.get_mut(&item) {
            item.invoice = Some(id.clone());
        }
    }
    if let Some(customer) = state.customers.get_mut(&customer) {
        customer.currency.get_or_insert(currency);
    }
    if let Some(subscription) = subscription.and_then(|id| state.subscriptions.get_mut(&id)) {
        subscription.latest_invoice = Some(id.clone());
    }
    state.emit("invoice.created", &id, now_secs);
    share::remember(state, &recorded);
    discounts::use_up(state, &recorded, now_secs)?;
    Ok(id)
}

/// Finalizes a draft. If an amount is due, it gets a payment intent; otherwise
/// the invoice is paid immediately.
pub fn finalize(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let invoice = state.invoice(id)?.clone();
    if invoice.status != Status::Draft {
        return Err(ApiError::invalid(
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.",
        ));
    }
    let invoice = refresh_usage(state, invoice)?;
    let balance = state.customer(&invoice.customer, "customer")?.balance;
    let applied = apply_balance(invoice.total(), balance, &invoice.currency);
    let number = state
        .customers
        .get_mut(&invoice.customer)
        .map(|customer| customer.number_invoice());
    let before = state.snapshot(id);
    {
        let invoice = state.invoice_mut(id)?;
        invoice.number = number;
        invoice.status = Status::Open;
        invoice.starting_balance = balance;
        invoice.ending_balance = Some(applied.ending_balance);
        invoice.amount_due = applied.amount_due;
        invoice.finalizes_at_secs = None;
        invoice.transitions.finalized = Some(now_secs);
    }
    let change = applied.ending_balance - balance;
    customer_balance::adjust(
        state,
        &invoice.customer,
        change,
        "applied_to_invoice",
        Some(id),
    )?;
    if applied.amount_due > 0 {
        intents::open_for_invoice(state, id, now_secs)?;
    }
    state.emit("invoice.finalized", id, now_secs);
    state.emit_update("invoice.updated", id, before, now_secs);
    if applied.amount_due == 0 {
        collect::mark_paid(state, id, 0, now_secs)?;
    }
    Ok(())
}

/// Recomputes the metered lines of a draft, to include usage that was reported
/// while it was open.
fn refresh_usage(state: &mut State, mut invoice: Invoice) -> Result<Invoice, ApiError> {
    let mut counted = HashSet::new();
    let mut lines = Vec::new();
    for line in std::mem::take(&mut invoice.lines) {
        let content = &line.content;
        let price = content.price.as_ref().and_then(|id| state.prices.get(id));
        let metered = price.filter(|price| !content.proration && price.meter().is_some());
        let (Some(price), Some(meter)) = (metered, metered.and_then(Price::meter)) else {
            lines.push(line);
            continue;
        };
        // All lines of an item's tiers are recomputed together.
        if !counted.insert((content.item.clone(), content.period)) {
            continue;
        }
        let (from, to) = content.period;
        let used = meter_events::usage(state, meter, &invoice.customer, from, to);
        let parts = price
            .scheme
            .lines(used)
            .ok_or_else(|| ApiError::invalid("The usage is too large to be charged."))?;
        let product = state.catalogue().product_name(price);
        let contents: Vec<LineContent> = parts
            .iter()
            .map(|part| LineContent {
                amount: part.amount,
                quantity: Some(part.quantity),
                description: Some(describe::metered(part, product, price)),
                ..content.clone()
            })
            .collect();
        for (index, content) in contents.into_iter().enumerate() {
            let id = if index == 0 {
                line.id.clone()
            } else {
                state.ids.next("il")
            };
            lines.push(Line::new(id, line.invoice_item.clone(), content));
        }
    }
    invoice.lines = lines;
    adjust::adjust(state, &mut invoice);
    state.invoice_mut(&invoice.id)?.lines = invoice.lines.clone();
    Ok(invoice)
}

/// Voids an open invoice and returns the credit it used.
pub fn void(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let invoice = state.invoice(id)?.clone();
    if !matches!(invoice.status, Status::Open | Status::Uncollectible) {
        return Err(ApiError::invalid(format!(
            "You can only pass in open or uncollectible invoices. This invoice isn't open: it is {}.",
            invoice.status.name()
        )));
    }
    let before = state.snapshot(id);
    {
        let invoice = state.invoice_mut(id)?;
        invoice.status = Status::Void;
        invoice.next_attempt_secs = None;
        invoice.transitions.voided = Some(now_secs);
    }
    intents::cancel_for_invoice(state, id, now_secs);
    if let Some(ending) = invoice.ending_balance {
        let used = invoice.starting_balance - ending;
        customer_balance::adjust(
            state,
            &invoice.customer,
            used,
            "unapplied_from_invoice",
            Some(id),
        )?;
    }
    state.emit("invoice.voided", id, now_secs);
    state.emit_update("invoice.updated", id, before, now_secs);
    collect::subscription_after_void(state, &invoice, now_secs)
}

/// Marks an open invoice uncollectible.
pub fn mark_uncollectible(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    if state.invoice(id)?.status != Status::Open {
        return Err(ApiError::invalid(
            "You can only mark open invoices as uncollectible.",
        ));
    }
    let before = state.snapshot(id);
    {
        let invoice = state.invoice_mut(id)?;
        invoice.status = Status::Uncollectible;
        invoice.next_attempt_secs = None;
        invoice.transitions.uncollectible = Some(now_secs);
    }
    state.emit("invoice.marked_uncollectible", id, now_secs);
    state.emit_update("invoice.updated", id, before, now_secs);
    Ok(())
}
