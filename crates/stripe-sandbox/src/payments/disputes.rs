//! Disputes: the cardholder's bank takes a payment back. Payments with
//! `pm_card_createDispute` succeed and are disputed immediately, as at Stripe.

use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::state::State;
use crate::store::Keyed;

/// The route under `/_sandbox` plays the bank.
pub const ROUTES: &[Route] = &[
    get("/v1/disputes", list),
    get("/v1/disputes/{id}", retrieve),
    post("/v1/disputes/{id}/close", close),
    post("/_sandbox/disputes/{id}/win", win),
];

/// The test card whose payments are disputed.
const DISPUTED_CARD: &str = "createDispute";
const DAY_SECS: i64 = 86_400;
/// How long evidence can be submitted.
const EVIDENCE_DAYS: i64 = 9;

/// A payment that the bank took back.
#[derive(Debug, Clone)]
pub struct Dispute {
    id: String,
    created_secs: i64,
    amount: i64,
    currency: String,
    charge: String,
    payment_intent: String,
    status: &'static str,
}

impl Keyed for Dispute {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Dispute {
    /// The id of the disputed charge.
    #[must_use]
    pub fn charge(&self) -> &str {
        &self.charge
    }

    /// The API object.
    #[must_use]
    pub fn render(&self) -> Value {
        json!({
            "id": self.id,
            "object": "dispute",
            "amount": self.amount,
            "balance_transactions": [],
            "charge": self.charge,
            "created": self.created_secs,
            "currency": self.currency,
            "enhanced_eligibility_types": [],
            "evidence": {},
            "evidence_details": {
                "due_by": self.created_secs + EVIDENCE_DAYS * DAY_SECS,
                "enhanced_eligibility": {},
                "has_evidence": false,
                "past_due": false,
                "submission_count": 0,
            },
            "is_charge_refundable": false,
            "livemode": false,
            "metadata": {},
            "payment_intent": self.payment_intent,
            "payment_method_details": {
                "card": {
                    "brand": "visa",
                    "case_type": "chargeback",
                    "network_reason_code": "10.4",
                },
                "type": "card",
            },
            "reason": "fraudulent",
            "status": self.status,
        })
    }
}

/// Disputes a charge if it was made with the test card for disputes.
pub fn after_charge(state: &mut State, charge_id: &str, now_secs: i64) {
    let Some(charge) = state.charges.get(charge_id) else {
        return;
    };
    let card = state.payment_methods.get(&charge.payment_method);
    if card.is_none_or(|method| method.card.name != DISPUTED_CARD) {
        return;
    }
    let (amount, currency, payment_intent) = (
        charge.amount,
        charge.currency.clone(),
        charge.payment_intent.clone(),
    );
    let id = state.ids.next("dp");
    state.disputes.insert(Dispute {
        id: id.clone(),
        created_secs: now_secs,
        amount,
        currency,
        charge: charge_id.to_owned(),
        payment_intent,
        status: "needs_response",
    });
    state.emit("charge.dispute.created", &id, now_secs);
    state.emit("charge.dispute.funds_withdrawn", &id, now_secs);
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a Dispute, ApiError> {
    state
        .disputes
        .get(id)
        .ok_or_else(|| ApiError::no_such("dispute", id, "id"))
}

/// The merchant accepts the dispute.
fn close(call: &mut Call<'_>) -> Result<Value, ApiError> {
    decide(call, "lost")
}

/// The bank decides in favor of the merchant.
fn win(call: &mut Call<'_>) -> Result<Value, ApiError> {
    decide(call, "won")
}

fn decide(call: &mut Call<'_>, outcome: &'static str) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let state = &mut *call.state;
    let dispute = find(state, &id)?.clone();
    if dispute.status != "needs_response" {
        return Err(ApiError::invalid("This dispute is already closed."));
    }
    let customer = state.charges.get(&dispute.charge);
    let now = customer.map_or(state.wall_secs, |charge| state.now_for(&charge.customer));
    let before = state.snapshot(&id);
    if let Some(dispute) = state.disputes.get_mut(&id) {
        dispute.status = outcome;
    }
    state.emit_update("charge.dispute.closed", &id, before, now);
    if outcome == "won" {
        state.emit("charge.dispute.funds_reinstated", &id, now);
    }
    call.render(&id)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    find(call.state, &id).map(Dispute::render)
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    let charge = params.text("charge")?;
    let intent = params.text("payment_intent")?;
    params.finish()?;
    let filter = |dispute: &Dispute| {
        created.contains(dispute.created_secs)
            && charge.as_ref().is_none_or(|id| dispute.charge == *id)
            && intent
                .as_ref()
                .is_none_or(|id| dispute.payment_intent == *id)
    };
    call.render_page(
        &page,
        "dispute",
        "/v1/disputes",
        call.state.disputes.iter().rev(),
        filter,
    )
}
