//! Refunds of charges, in full or in part. They succeed at once, and may fail later, when
//! the bank cannot take the money.

use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::list::{self, Page};
use crate::metadata::{Metadata, MetadataChange};
use crate::payments::charges::Charge;
use crate::state::State;
use crate::store::Keyed;

/// The route under `/_sandbox` plays the bank.
pub const ROUTES: &[Route] = &[
    post("/v1/refunds", create),
    get("/v1/refunds", list),
    get("/v1/refunds/{id}", retrieve),
    post("/_sandbox/refunds/{id}/fail", fail),
];

const REASONS: [&str; 3] = ["duplicate", "fraudulent", "requested_by_customer"];

/// A full or partial refund of a charge.
#[derive(Debug, Clone)]
pub struct Refund {
    pub id: String,
    pub created_secs: i64,
    pub amount: i64,
    pub currency: String,
    charge: String,
    payment_intent: String,
    reason: Option<&'static str>,
    failure_reason: Option<&'static str>,
    metadata: Metadata,
}

impl Keyed for Refund {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Refund {
    /// The API object.
    #[must_use]
    pub fn render(&self) -> Value {
        json!({
            "id": self.id,
            "object": "refund",
            "amount": self.amount,
            "balance_transaction": self.id.replacen("re_", "txn_", 1),
            "charge": self.charge,
            "created": self.created_secs,
            "currency": self.currency,
            "destination_details": { "card": { "type": "refund" }, "type": "card" },
            "failure_reason": self.failure_reason,
            "metadata": self.metadata,
            "payment_intent": self.payment_intent,
            "reason": self.reason,
            "receipt_number": null,
            "source_transfer_reversal": null,
            "status": if self.failure_reason.is_some() { "failed" } else { "succeeded" },
            "transfer_reversal": null,
        })
    }
}

/// The refunds of a charge, for expansion.
#[must_use]
pub fn of_charge(state: &State, charge: &str) -> Value {
    let data = state
        .refunds
        .iter()
        .rev()
        .filter(|refund| refund.charge == charge)
        .map(Refund::render)
        .collect();
    list::object(data, false, &format!("/v1/charges/{charge}/refunds"))
}

/// Parameters that Stripe accepts and the sandbox does not support.
const UNSUPPORTED: [&str; 6] = [
    "currency",
    "customer",
    "instructions_email",
    "origin",
    "refund_application_fee",
    "reverse_transfer",
];

/// The id of the charge to refund, which the request names directly or by its
/// payment intent.
fn find_charge_id(
    state: &State,
    (charge, intent): (Option<String>, Option<String>),
) -> Result<String, ApiError> {
    match (charge, intent) {
        (Some(charge), _) => Ok(charge),
        (None, Some(intent)) => state
            .payment_intents
            .get(&intent)
            .ok_or_else(|| ApiError::no_such("payment_intent", &intent, "payment_intent"))?
            .latest_charge
            .clone()
            .ok_or_else(|| {
                ApiError::invalid("This PaymentIntent does not have a successful charge to refund.")
            }),
        (None, None) => Err(ApiError::missing_param("charge")),
    }
}

/// The amount to refund, by default everything that was not refunded yet.
fn refundable_amount(charge: &Charge, amount: Option<i64>) -> Result<i64, ApiError> {
    let charge_id = &charge.id;
    if charge.decline.is_some() {
        return Err(ApiError::invalid(format!(
            "Charge {charge_id} did not succeed, so it cannot be refunded."
        )));
    }
    let left = charge.amount - charge.refunded_amount;
    if left == 0 {
        return Err(
            ApiError::invalid(format!("Charge {charge_id} has already been refunded."))
                .code("charge_already_refunded"),
        );
    }
    let amount = amount.unwrap_or(left);
    if amount < 1 {
        return Err(ApiError::bad_param(
            "amount",
            "Invalid positive integer: must be at least 1.",
        ));
    }
    if amount > left {
        return Err(ApiError::bad_param(
            "amount",
            format!(
                "Refund amount ({amount}) is greater than unrefunded amount on charge ({left})."
            ),
        ));
    }
    Ok(amount)
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let named = (params.text("charge")?, params.text("payment_intent")?);
    let amount = params.integer("amount")?;
    let reason = params.choice("reason", &REASONS)?;
    let metadata = MetadataChange::take(&mut params)?.initial();
    params.finish_rejecting(&UNSUPPORTED)?;
    let state = &mut *call.state;
    let charge_id = find_charge_id(state, named)?;
    let charge = state
        .charges
        .get(&charge_id)
        .ok_or_else(|| ApiError::no_such("charge", &charge_id, "charge"))?;
    let amount = refundable_amount(charge, amount)?;
    let (customer, currency, intent) = (
        charge.customer.clone(),
        charge.currency.clone(),
        charge.payment_intent.clone(),
    );
    let now = state.now_for(&customer);
    let id = state.ids.next("re");
    state.refunds.insert(Refund {
        id: id.clone(),
        created_secs: now,
        amount,
        currency,
        charge: charge_id.clone(),
        payment_intent: intent,
        reason,
        failure_reason: None,
        metadata,
    });
    let before = state.snapshot(&charge_id);
    if let Some(charge) = state.charges.get_mut(&charge_id) {
        charge.refunded_amount += amount;
    }
    state.emit("refund.created", &id, now);
    state.emit_update("charge.refunded", &charge_id, before, now);
    call.render(&id)
}

/// The bank sends the money back: the charge is not refunded any more.
fn fail(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let state = &mut *call.state;
    let refund = find(state, &id)?.clone();
    if refund.failure_reason.is_some() {
        return Err(ApiError::invalid("This refund has failed already."));
    }
    let charge = state.charges.get(&refund.charge);
    let now = charge.map_or(state.wall_secs, |charge| state.now_for(&charge.customer));
    let before = state.snapshot(&id);
    if let Some(refund) = state.refunds.get_mut(&id) {
        refund.failure_reason = Some("expired_or_canceled_card");
    }
    if let Some(charge) = state.charges.get_mut(&refund.charge) {
        charge.refunded_amount -= refund.amount;
    }
    for told in ["charge.refund.updated", "refund.updated"] {
        state.emit_update(told, &id, before.clone(), now);
    }
    state.emit("refund.failed", &id, now);
    call.render(&id)
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a Refund, ApiError> {
    state
        .refunds
        .get(id)
        .ok_or_else(|| ApiError::no_such("refund", id, "id"))
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    find(call.state, &id).map(Refund::render)
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    let charge = params.text("charge")?;
    let intent = params.text("payment_intent")?;
    params.finish()?;
    let filter = |refund: &Refund| {
        created.contains(refund.created_secs)
            && charge.as_ref().is_none_or(|id| refund.charge == *id)
            && intent
                .as_ref()
                .is_none_or(|id| refund.payment_intent == *id)
    };
    call.render_page(
        &page,
        "refund",
        "/v1/refunds",
        call.state.refunds.iter().rev(),
        filter,
    )
}
