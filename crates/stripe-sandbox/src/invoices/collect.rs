//! Collects open invoices: chooses the payment method, asks the issuer, and
//! updates the invoice and its subscription.

use serde_json::{Map, json};

use crate::error::ApiError;
use crate::faults;
use crate::invoices::model::{Invoice, Status};
use crate::payments::charges::Charge;
use crate::payments::{disputes, intents};
use crate::shape::Shape;
use crate::state::State;
use crate::subscriptions::status;
use crate::test_cards::{Decline, IssuerDecision};

/// The outcome of an attempt to collect an invoice.
#[derive(Debug)]
pub enum AttemptOutcome {
    Paid,
    Failed(ApiError),
    /// The cardholder must authenticate.
    ActionRequired(ApiError),
}

/// The payment method that an invoice is charged to.
#[must_use]
pub fn method_for(state: &State, invoice: &Invoice) -> Option<String> {
    let of_subscription = invoice
        .subscription()
        .and_then(|id| state.subscriptions.get(id))
        .and_then(|subscription| subscription.default_payment_method.clone());
    invoice
        .default_payment_method
        .clone()
        .or(of_subscription)
        .or_else(|| {
            state
                .customers
                .get(&invoice.customer)?
                .default_payment_method
                .clone()
        })
}

/// Asks the card's issuer about a charge. A fault may decline any card.
pub fn ask_issuer(state: &mut State, method: &str) -> Result<IssuerDecision, ApiError> {
    let card = state
        .payment_methods
        .get(method)
        .ok_or_else(|| ApiError::no_such("PaymentMethod", method, "payment_method"))?
        .card;
    Ok(faults::take_decline(state).map_or(card.charge, IssuerDecision::Decline))
}

/// The description of the charges and payment intents of an invoice.
#[must_use]
pub fn payment_description(state: &State, invoice: &str) -> &'static str {
    match state.invoices.get(invoice).map(|invoice| invoice.reason) {
        Some("subscription_create") => "Subscription creation",
        Some("subscription_update" | "subscription_cycle") => "Subscription update",
        _ => "Payment for Invoice",
    }
}

/// Tries to collect an open invoice.
pub fn attempt(
    state: &mut State,
    id: &str,
    method: Option<&str>,
    now_secs: i64,
) -> Result<AttemptOutcome, ApiError> {
    let invoice = state.invoice(id)?;
    if !matches!(invoice.status, Status::Open | Status::Uncollectible) {
        return Err(
            ApiError::invalid("Invoice is already paid or cannot be paid.")
                .code("invoice_not_open"),
        );
    }
    let Some(method) = method else {
        let error = no_payment_method();
        return record_failure(state, id, None, error, now_secs).map(AttemptOutcome::Failed);
    };
    let decision = ask_issuer(state, method)?;
    attempt_decided(state, id, method, decision, now_secs)
}

/// Tries to collect an open invoice after the issuer has decided.
pub fn attempt_decided(
    state: &mut State,
    id: &str,
    method: &str,
    decision: IssuerDecision,
    now_secs: i64,
) -> Result<AttemptOutcome, ApiError> {
    match decision {
        IssuerDecision::Approve => {
            take_payment(state, id, method, now_secs)?;
            Ok(AttemptOutcome::Paid)
        }
        IssuerDecision::Decline(decline) => {
            charge(state, id, method, Some(decline), now_secs)?;
            record_failure(state, id, Some(method), decline.error(), now_secs)
                .map(AttemptOutcome::Failed)
        }
        IssuerDecision::Authenticate => {
            record_action_required(state, id, method, now_secs).map(AttemptOutcome::ActionRequired)
        }
    }
}

/// The cardholder did not confirm: another payment method is needed.
pub fn fail_authentication(
    state: &mut State,
    id: &str,
    method: &str,
    now_secs: i64,
) -> Result<ApiError, ApiError> {
    let error = ApiError::card(
        "payment_intent_authentication_failure",
        None,
        "We are unable to authenticate your payment method. Please choose a different payment method and try again.",
    );
    record_failure(state, id, Some(method), error, now_secs)
}

/// The error when there is no payment method to charge.
#[must_use]
pub fn no_payment_method() -> ApiError {
    ApiError::invalid("This customer has no attached payment source or default payment method. Please consider adding a default payment method. For more information, visit https://stripe.com/docs/billing/subscriptions/payment-methods-setting#payment-method-priority.")
        .code("resource_missing")
}

/// Charges the card, which the issuer has approved, and marks the invoice paid.
pub fn take_payment(
    state: &mut State,
    id: &str,
    method: &str,
    now_secs: i64,
) -> Result<(), ApiError> {
    charge(state, id, method, None, now_secs)?;
    let invoice = state.invoice_mut(id)?;
    invoice.attempt_count += 1;
    let (due, intent) = (invoice.amount_due, invoice.payment_intent.clone());
    if let Some(intent) = intent {
        if let Some(intent) = state.payment_intents.get_mut(&intent) {
            intent.status = intents::Status::Succeeded;
            intent.last_error = None;
        }
        state.emit("payment_intent.succeeded", &intent, now_secs);
    }
    if let Some(subscription) = state.invoice(id)?.subscription().map(str::to_owned) {
        status::save_payment_method(state, &subscription, method, now_secs)?;
    }
    mark_paid(state, id, due, now_secs)?;
    if let Some(charge) = state.invoice(id)?.charge.clone() {
        disputes::after_charge(state, &charge, now_secs);
    }
    Ok(())
}

fn charge(
    state: &mut State,
    id: &str,
    method: &str,
    decline: Option<Decline>,
    now_secs: i64,
) -> Result<(), ApiError> {
    let invoice = state.invoice(id)?.clone();
    let charge = Charge {
        id: state.ids.next("ch"),
        created_secs: now_secs,
        amount: invoice.amount_due,
        currency: invoice.currency,
        customer: invoice.customer,
        payment_intent: invoice.payment_intent.clone().unwrap_or_default(),
        invoice: id.to_owned(),
        payment_method: method.to_owned(),
        description: payment_description(state, id),
        decline,
        refunded_amount: 0,
    };
    let charge_id = charge.id.clone();
    state.charges.insert(charge);
    state.invoice_mut(id)?.charge = Some(charge_id.clone());
    let intent = invoice
        .payment_intent
        .and_then(|id| state.payment_intents.get_mut(&id));
    if let Some(intent) = intent {
        intent.latest_charge = Some(charge_id.clone());
        intent.payment_method = Some(method.to_owned());
    }
    let event = if decline.is_some() {
        "charge.failed"
    } else {
        "charge.succeeded"
    };
    state.emit(event, &charge_id, now_secs);
    Ok(())
}

/// Marks an invoice paid, emits the events, and updates the subscription.
pub fn mark_paid(
    state: &mut State,
    id: &str,
    amount_paid: i64,
    now_secs: i64,
) -> Result<(), ApiError> {
    let before = state.snapshot(id);
    {
        let invoice = state.invoice_mut(id)?;
        invoice.status = Status::Paid;
        invoice.amount_paid = amount_paid;
        invoice.attempted = true;
        invoice.auto_advance = false;
        invoice.next_attempt_secs = None;
        invoice.transitions.paid = Some(now_secs);
    }
    state.emit_update("invoice.updated", id, before, now_secs);
    state.emit("invoice.paid", id, now_secs);
    state.emit("invoice.payment_succeeded", id, now_secs);
    emit_invoice_payment(state, id, now_secs);
    let invoice = state.invoice(id)?.clone();
    set_delinquent(state, &invoice.customer, false, now_secs);
    match invoice.subscription() {
        Some(subscription) => status::after_paid(state, subscription, &invoice, now_secs),
        None => Ok(()),
    }
}

fn emit_invoice_payment(state: &mut State, id: &str, now_secs: i64) {
    let invoice_payment = state.invoices.get(id).and_then(|invoice| {
        let intent = state
            .payment_intents
            .get(invoice.payment_intent.as_ref()?)?;
        (intent.status == intents::Status::Succeeded)
            .then(|| intent.render_invoice_payment(invoice))
    });
    if let Some(invoice_payment) = invoice_payment {
        state.emit_object(
            "invoice_payment.paid",
            invoice_payment.clone(),
            invoice_payment,
            now_secs,
        );
    }
}

fn record_failure(
    state: &mut State,
    id: &str,
    method: Option<&str>,
    error: ApiError,
    now_secs: i64,
) -> Result<ApiError, ApiError> {
    let before = state.snapshot(id);
    let intent = state.invoice(id)?.payment_intent.clone();
    if let Some(intent) = intent {
        if let Some(intent) = state.payment_intents.get_mut(&intent) {
            intent.status = intents::Status::RequiresPaymentMethod;
            intent.last_error = Some(error.clone());
        }
        if method.is_some() {
            state.emit("payment_intent.payment_failed", &intent, now_secs);
        }
    }
    schedule_retry(state, id, now_secs)?;
    state.emit("invoice.payment_failed", id, now_secs);
    state.emit_update("invoice.updated", id, before, now_secs);
    after_failure(state, id, now_secs)?;
    with_objects(state, id, error)
}

fn record_action_required(
    state: &mut State,
    id: &str,
    method: &str,
    now_secs: i64,
) -> Result<ApiError, ApiError> {
    let before = state.snapshot(id);
    let intent = state.invoice(id)?.payment_intent.clone();
    if let Some(intent) = intent {
        if let Some(intent) = state.payment_intents.get_mut(&intent) {
            intent.status = intents::Status::RequiresAction;
            intent.payment_method = Some(method.to_owned());
        }
        state.emit("payment_intent.requires_action", &intent, now_secs);
    }
    if state.invoice(id)?.reason == "subscription_create" {
        // Nothing was charged yet, so this does not count as an attempt.
        state.invoice_mut(id)?.attempted = true;
    } else {
        schedule_retry(state, id, now_secs)?;
    }
    state.emit("invoice.payment_action_required", id, now_secs);
    state.emit("invoice.payment_failed", id, now_secs);
    state.emit_update("invoice.updated", id, before, now_secs);
    after_failure(state, id, now_secs)?;
    let error = ApiError::card(
        "invoice_payment_intent_requires_action",
        None,
        "This payment requires additional user action before it can be completed successfully.",
    );
    with_objects(state, id, error)
}

/// Adds the charge and the payment intent, as Stripe's card errors do.
fn with_objects(state: &State, id: &str, mut error: ApiError) -> Result<ApiError, ApiError> {
    let invoice = state.invoice(id)?;
    let mut details = Map::new();
    if let Some(charge) = &invoice.charge {
        details.insert("charge".to_owned(), json!(charge));
    }
    let intent = invoice
        .payment_intent
        .as_deref()
        .and_then(|id| state.payment_intents.get(id));
    if let Some(intent) = intent {
        let intent = intent.render(state, Shape::Basil);
        details.insert("payment_intent".to_owned(), intent);
    }
    error.details = Some(Box::new(details));
    Ok(error)
}

/// Counts the attempt and schedules the next one. The first invoice of a
/// subscription is not retried; the subscription expires instead.
fn schedule_retry(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    const DAY_SECS: i64 = 86_400;
    let days = state.config.dunning_days.clone();
    let invoice = state.invoice_mut(id)?;
    let retries = invoice.auto_advance && invoice.reason != "subscription_create";
    let pause = usize::try_from(invoice.attempt_count)
        .ok()
        .and_then(|index| days.get(index).copied());
    invoice.attempt_count += 1;
    invoice.attempted = true;
    invoice.next_attempt_secs = pause
        .filter(|_| retries)
        .map(|days| now_secs + i64::from(days) * DAY_SECS);
    Ok(())
}

fn after_failure(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let invoice = state.invoice(id)?.clone();
    if invoice.reason != "subscription_create" {
        set_delinquent(state, &invoice.customer, true, now_secs);
    }
    match invoice.subscription() {
        Some(subscription) => status::after_failed(state, subscription, &invoice, now_secs),
        None => Ok(()),
    }
}

fn set_delinquent(state: &mut State, customer: &str, delinquent: bool, now_secs: i64) {
    let before = state.snapshot(customer);
    if let Some(customer) = state.customers.get_mut(customer) {
        customer.delinquent = delinquent;
    }
    state.emit_update("customer.updated", customer, before, now_secs);
}

/// Updates the subscription of a voided invoice: if it was the first one, the
/// subscription expires; if it was past due, the subscription is active again.
pub fn subscription_after_void(
    state: &mut State,
    invoice: &Invoice,
    now_secs: i64,
) -> Result<(), ApiError> {
    match invoice.subscription() {
        Some(subscription) => status::after_void(state, subscription, invoice, now_secs),
        None => Ok(()),
    }
}
