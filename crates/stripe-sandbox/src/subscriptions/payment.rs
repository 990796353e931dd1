//! Paying the invoice that a creation or a change makes at once.

use crate::error::ApiError;
use crate::invoices::assemble::Draft;
use crate::invoices::collect;
use crate::invoices::model::settle;
use crate::state::State;
use crate::subscriptions::model::Subscription;
use crate::subscriptions::request::PaymentBehavior;
use crate::test_cards::Verdict;

/// What the customer would have to pay for a draft.
pub fn due(state: &State, draft: &Draft) -> Result<i64, ApiError> {
    let balance = state.customer(&draft.customer, "customer")?.balance;
    let total = draft.lines.iter().map(|line| line.content.amount).sum();
    Ok(settle(total, balance, &draft.currency).amount_due)
}

/// The method that a subscription is charged to.
#[must_use]
pub fn method_of(state: &State, subscription: &Subscription) -> Option<String> {
    let customer = state.customers.get(&subscription.customer);
    subscription
        .default_payment_method
        .clone()
        .or_else(|| customer?.default_payment_method.clone())
}

/// Asks the issuer before anything is recorded.
pub fn refuse_unless_approved(state: &mut State, method: &str) -> Result<(), ApiError> {
    match collect::verdict(state, method)? {
        Verdict::Approve => Ok(()),
        Verdict::Decline(decline) => Err(decline.error()),
        Verdict::Authenticate => Err(ApiError::card(
            "subscription_payment_intent_requires_action",
            None,
            "Payment for this subscription requires additional user action before it can be completed successfully.",
        )),
    }
}

/// Pays a finalized invoice. A failed payment is not an error here: it leaves
/// the subscription incomplete or past due, as asked.
pub fn pay(
    state: &mut State,
    invoice: &str,
    behavior: PaymentBehavior,
    now_secs: i64,
) -> Result<(), ApiError> {
    let method = collect::method_for(state, state.invoice(invoice)?);
    match (behavior, method) {
        (PaymentBehavior::DefaultIncomplete, _) => Ok(()),
        // The issuer has agreed already, and is not asked twice.
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
