//! Pays the invoice of a creation or change.

use crate::error::ApiError;
use crate::invoices::assemble::Draft;
use crate::invoices::model::apply_balance;
use crate::invoices::{adjust, collect};
use crate::state::State;
use crate::subscriptions::model::Subscription;
use crate::subscriptions::request::PaymentBehavior;
use crate::test_cards::IssuerDecision;

/// The amount due for a draft, after the customer's balance.
pub fn due(state: &State, draft: &Draft) -> Result<i64, ApiError> {
    let balance = state.customer(&draft.customer, "customer")?.balance;
    let mut ids = state.ids.clone();
    let invoice = adjust::prepare(state, draft.clone(), &mut ids, 0);
    Ok(apply_balance(invoice.total(), balance, &draft.currency).amount_due)
}

/// The payment method that a subscription is charged to.
#[must_use]
pub fn payment_method_of(state: &State, subscription: &Subscription) -> Option<String> {
    let customer = state.customers.get(&subscription.customer);
    subscription
        .default_payment_method
        .clone()
        .or_else(|| customer?.default_payment_method.clone())
}

/// Asks the issuer before anything is recorded.
pub fn refuse_unless_approved(state: &mut State, method: &str) -> Result<(), ApiError> {
    match collect::ask_issuer(state, method)? {
        IssuerDecision::Approve => Ok(()),
        IssuerDecision::Decline(decline) => Err(decline.error()),
        IssuerDecision::Authenticate => Err(ApiError::card(
            "subscription_payment_intent_requires_action",
            None,
            "Payment for this subscription requires additional user action before it can be completed successfully.",
        )),
    }
}

/// Pays a finalized invoice. A failed payment is not an error here: it leaves
/// the subscription incomplete or past due.
pub fn pay(
    state: &mut State,
    invoice: &str,
    behavior: PaymentBehavior,
    now_secs: i64,
) -> Result<(), ApiError> {
    let method = collect::method_for(state, state.invoice(invoice)?);
    match (behavior, method) {
        (PaymentBehavior::DefaultIncomplete, _) => Ok(()),
        // The issuer has already approved and must not be asked twice.
        (
            PaymentBehavior::ErrorIfIncomplete | PaymentBehavior::PendingIfIncomplete,
            Some(method),
        ) => collect::take_payment(state, invoice, &method, now_secs),
        (_, method) => {
            collect::attempt(state, invoice, method.as_deref(), now_secs)?;
            Ok(())
        }
    }
}
