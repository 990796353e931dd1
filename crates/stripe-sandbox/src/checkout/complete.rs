//! What the hosted page does: the customer pays, saves a card, leaves, or lets
//! the session expire.

use super::model::{Mode, PaymentStatus, Session, Status};
use crate::call::Call;
use crate::customers::Customer;
use crate::error::ApiError;
use crate::invoices::collect;
use crate::params::Params;
use crate::payment_methods::{self, PaymentMethod};
use crate::payments::{intents, setup_intents};
use crate::shape::Shape;
use crate::state::State;
use crate::subscriptions::create;
use crate::subscriptions::model::Status as SubscriptionStatus;
use crate::test_cards::{IssuerDecision, TestCard};

/// What came of a form that the customer sent.
#[derive(Debug)]
pub enum Outcome {
    Done,
    /// The cardholder must confirm.
    Challenge,
}

/// Closes a session that was not completed.
pub fn expire(state: &mut State, id: &str) {
    if let Some(session) = state.checkout_sessions.get_mut(id) {
        session.status = Status::Expired;
        session.challenged = None;
    }
    let now = state.wall_secs;
    state.emit("checkout.session.expired", id, now);
}

fn open(state: &State, id: &str) -> Result<Session, ApiError> {
    let session = state.checkout_sessions.get(id).cloned();
    let session = session.ok_or_else(|| ApiError::no_such("checkout.session", id, "id"))?;
    match session.status {
        Status::Open => Ok(session),
        status => Err(ApiError::invalid(format!(
            "This Checkout Session is {}.",
            status.name()
        ))),
    }
}

/// The customer enters a card, or a bank account.
pub fn pay(state: &mut State, id: &str, card: &'static TestCard) -> Result<Outcome, ApiError> {
    let session = open(state, id)?;
    if let IssuerDecision::Decline(decline) = card.attach {
        return Err(decline.error());
    }
    let method = PaymentMethod::entered(state, card);
    if card.charge == IssuerDecision::Authenticate {
        if let Some(session) = state.checkout_sessions.get_mut(id) {
            session.challenged = Some(method);
        }
        return Ok(Outcome::Challenge);
    }
    let charges = session.mode == Mode::Subscription && session.amount_total != Some(0);
    if charges
        && !card.is_bank()
        && let IssuerDecision::Decline(decline) = collect::ask_issuer(state, &method)?
    {
        return Err(decline.error());
    }
    finish(state, &session, Some(&method))?;
    Ok(Outcome::Done)
}

/// The customer enters no card, where the page needs none.
pub fn without_card(state: &mut State, id: &str) -> Result<Outcome, ApiError> {
    let session = open(state, id)?;
    if !session.needs_no_card() {
        return Err(ApiError::invalid("Enter a card number."));
    }
    finish(state, &session, None)?;
    Ok(Outcome::Done)
}

/// The cardholder has answered.
pub fn answer(state: &mut State, id: &str, confirms: bool) -> Result<Outcome, ApiError> {
    let session = open(state, id)?;
    let Some(method) = session.challenged.clone() else {
        return Err(ApiError::invalid("Nobody is asked to confirm a payment."));
    };
    if let Some(session) = state.checkout_sessions.get_mut(id) {
        session.challenged = None;
    }
    if !confirms {
        return Err(ApiError::card(
            "payment_intent_authentication_failure",
            None,
            "We are unable to authenticate your payment method. Please choose a different payment method and try again.",
        ));
    }
    finish(state, &session, Some(&method))?;
    Ok(Outcome::Done)
}

/// The issuer agrees: the method is saved, and the purchase made.
fn finish(state: &mut State, session: &Session, method: Option<&str>) -> Result<(), ApiError> {
    let customer = match &session.customer {
        Some(customer) => customer.clone(),
        None => new_customer(state, session),
    };
    let method = method.map(|method| payment_methods::attach(state, method, &customer));
    let method = method.transpose()?;
    let mut done = Session {
        customer: Some(customer.clone()),
        status: Status::Complete,
        challenged: None,
        ..session.clone()
    };
    let now = state.now_for(&customer);
    match (session.mode, &method) {
        (Mode::Setup, None) => return Err(ApiError::invalid("Enter a card number.")),
        (Mode::Setup, Some(method)) => {
            let metadata = session.intent_metadata.clone();
            let intent = setup_intents::succeeded(state, &customer, method, metadata, now);
            done.setup_intent = Some(intent);
        }
        (Mode::Subscription, method) => {
            subscribe(state, &mut done, &customer, method.as_deref(), now)?;
        }
    }
    let wall = state.wall_secs;
    state.checkout_sessions.insert(done);
    state.emit("checkout.session.completed", &session.id, wall);
    Ok(())
}

fn new_customer(state: &mut State, session: &Session) -> String {
    let now = state.wall_secs;
    let mut customer = Customer::new(state.ids.next("cus"), now);
    if let Some(email) = &session.customer_email {
        customer.set_email(email);
    }
    let id = crate::store::Keyed::id(&customer).to_owned();
    state.customers.insert(customer);
    state.emit("customer.created", &id, now);
    id
}

fn subscribe(
    state: &mut State,
    session: &mut Session,
    customer: &str,
    method: Option<&str>,
    now_secs: i64,
) -> Result<(), ApiError> {
    let mut pairs = session.subscription_params.clone();
    for (name, value) in [
        ("customer", Some(customer)),
        ("default_payment_method", method),
        ("payment_behavior", Some("default_incomplete")),
    ] {
        pairs.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }
    if session.automatic_tax {
        pairs.push(("automatic_tax[enabled]".to_owned(), "true".to_owned()));
    }
    let form = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(&pairs)
        .finish();
    let mut call = Call {
        params: Params::parse(&[form.as_bytes()])?,
        ids: Vec::new(),
        shape: Shape::of(&session.version),
        version: session.version.clone(),
        state: &mut *state,
    };
    let made = create::create(&mut call)?;
    let id = made["id"].as_str().unwrap_or_default().to_owned();
    session.invoice = made["latest_invoice"].as_str().map(str::to_owned);
    session.subscription = Some(id.clone());
    let due = match &session.invoice {
        Some(invoice) => state.invoice(invoice)?.amount_remaining(),
        None => 0,
    };
    if session.amount_total == Some(0) && due == 0 {
        session.payment_status = PaymentStatus::NotRequired;
        return Ok(());
    }
    let method = method.ok_or_else(collect::no_payment_method)?;
    let is_bank = state
        .payment_methods
        .get(method)
        .is_some_and(|method| method.card.is_bank());
    session.payment_status = match (&session.invoice, due, is_bank) {
        (Some(invoice), 1.., true) => {
            let invoice = invoice.clone();
            debit(state, &id, &invoice, method, now_secs)?;
            PaymentStatus::Unpaid
        }
        (Some(invoice), 1.., false) => {
            collect::take_payment(state, &invoice.clone(), method, now_secs)?;
            PaymentStatus::Paid
        }
        _ => PaymentStatus::Paid,
    };
    Ok(())
}

/// A bank takes days. Until then the subscription is active, and its invoice open.
fn debit(
    state: &mut State,
    subscription: &str,
    invoice: &str,
    method: &str,
    now_secs: i64,
) -> Result<(), ApiError> {
    let intent = state.invoice(invoice)?.payment_intent.clone();
    if let Some(intent) = intent {
        if let Some(intent) = state.payment_intents.get_mut(&intent) {
            intent.status = intents::Status::Processing;
            intent.payment_method = Some(method.to_owned());
        }
        state.emit("payment_intent.processing", &intent, now_secs);
    }
    state.change_subscription(subscription, now_secs, |subscription| {
        subscription.status = SubscriptionStatus::Active;
    })
}

/// The bank has answered.
pub fn settle(state: &mut State, id: &str, paid: bool) -> Result<(), ApiError> {
    let session = state.checkout_sessions.get(id).cloned();
    let session = session.filter(|session| {
        session.status == Status::Complete && session.payment_status == PaymentStatus::Unpaid
    });
    let parts = session.as_ref().and_then(|session| {
        let customer = session.customer.clone()?;
        Some((
            session.subscription.clone()?,
            session.invoice.clone()?,
            customer,
        ))
    });
    let Some((subscription, invoice, customer)) = parts else {
        return Err(ApiError::invalid("No bank debit is under way."));
    };
    let intent = state.invoice(&invoice)?.payment_intent.as_deref();
    let intent = intent.and_then(|intent| state.payment_intents.get(intent));
    if intent.is_none_or(|intent| intent.status != intents::Status::Processing) {
        return Err(ApiError::invalid("The bank has answered already."));
    }
    let now = state.now_for(&customer);
    let method = collect::method_for(state, state.invoice(&invoice)?).unwrap_or_default();
    if paid {
        collect::take_payment(state, &invoice, &method, now)?;
        if let Some(session) = state.checkout_sessions.get_mut(id) {
            session.payment_status = PaymentStatus::Paid;
        }
        state.emit(
            "checkout.session.async_payment_succeeded",
            id,
            state.wall_secs,
        );
        return Ok(());
    }
    let decision = IssuerDecision::Decline(crate::test_cards::BANK_REFUSAL);
    collect::attempt_decided(state, &invoice, &method, decision, now)?;
    state.change_subscription(&subscription, now, |subscription| {
        subscription.status = SubscriptionStatus::PastDue;
    })?;
    state.emit("checkout.session.async_payment_failed", id, state.wall_secs);
    Ok(())
}
