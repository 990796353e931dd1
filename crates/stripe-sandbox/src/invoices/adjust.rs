//! Applies discounts and taxes to the lines of an invoice, whenever they change.

use crate::coupons::Reduction;
use crate::discounts::amounts::{self, Base};
use crate::discounts::model::Discount;
use crate::error::ApiError;
use crate::ids::IdSource;
use crate::invoices::assemble::Draft;
use crate::invoices::model::{Invoice, apply_balance};
use crate::state::State;
use crate::taxes::lines;

/// The invoice of a draft, with discounts and taxes. Nothing is recorded.
#[must_use]
pub fn prepare(state: &State, draft: Draft, ids: &mut IdSource, now_secs: i64) -> Invoice {
    let mut invoice = draft.into_invoice(ids, now_secs);
    invoice.discounts = applying(state, &invoice);
    adjust(state, &mut invoice);
    invoice
}

/// The discounts that apply when the invoice is created: the subscription's, or
/// else the customer's.
fn applying(state: &State, invoice: &Invoice) -> Vec<Discount> {
    let of_customer = state
        .customers
        .get(&invoice.customer)
        .and_then(|customer| customer.discount.as_ref())
        .map_or(&[][..], std::slice::from_ref);
    let discounts = if invoice.discounts.is_empty() {
        of_customer
    } else {
        &invoice.discounts
    };
    let at_secs = invoice.period.1;
    discounts
        .iter()
        .filter(|discount| discount.applies_at(at_secs))
        .filter(|discount| match &discount.reduction {
            Reduction::Percent(_) => true,
            Reduction::Amount(_, currency) => *currency == invoice.currency,
        })
        .cloned()
        .collect()
}

/// Computes what is taken off each line, and the tax on the rest.
pub fn adjust(state: &State, invoice: &mut Invoice) {
    let bases: Vec<Base> = invoice
        .lines
        .iter()
        .map(|line| Base {
            amount: line.content.amount,
            product: line.content.product(state),
            discountable: line.content.discountable(),
        })
        .collect();
    let shares = amounts::shares(&bases, &invoice.discounts);
    for (line, share) in invoice.lines.iter_mut().zip(shares) {
        line.discounts = share;
    }
    lines::compute(state, invoice);
}

/// Computes a draft anew after its lines have changed.
pub fn refresh(state: &mut State, id: &str) -> Result<(), ApiError> {
    let mut invoice = state.invoice(id)?.clone();
    adjust(state, &mut invoice);
    invoice.amount_due =
        apply_balance(invoice.total(), invoice.starting_balance, &invoice.currency).amount_due;
    state.invoices.insert(invoice);
    Ok(())
}
