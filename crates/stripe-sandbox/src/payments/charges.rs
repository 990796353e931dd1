//! Charges: every attempt to take money, including failed ones.

use serde_json::{Value, json};

use crate::call::{Call, Route, get};
use crate::error::ApiError;
use crate::list::Page;
use crate::payment_methods::PaymentMethod;
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;
use crate::test_cards::Decline;

pub const ROUTES: &[Route] = &[get("/v1/charges", list), get("/v1/charges/{id}", retrieve)];

/// An attempt to take money.
#[derive(Debug, Clone)]
pub struct Charge {
    pub id: String,
    pub created_secs: i64,
    pub amount: i64,
    pub currency: String,
    pub customer: String,
    pub payment_intent: String,
    pub invoice: String,
    /// The card that was charged.
    pub payment_method: String,
    /// A description for people, such as `Subscription update`.
    pub description: &'static str,
    /// Why the charge failed, if it did.
    pub decline: Option<Decline>,
    pub refunded_amount: i64,
}

impl Keyed for Charge {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Charge {
    /// The API object.
    #[must_use]
    pub fn render(&self, state: &State, shape: Shape) -> Value {
        let method = state.payment_methods.get(&self.payment_method);
        let paid = self.decline.is_none();
        let mut object = json!({
            "id": self.id,
            "object": "charge",
            "amount": self.amount,
            "amount_captured": if paid { self.amount } else { 0 },
            "amount_refunded": self.refunded_amount,
            "application": null,
            "application_fee": null,
            "application_fee_amount": null,
            "balance_transaction": paid.then(|| self.id.replacen("ch_", "txn_", 1)),
            "billing_details": method.map_or(Value::Null, PaymentMethod::billing_details),
            "calculated_statement_descriptor": "SANDBOX",
            "captured": paid,
            "created": self.created_secs,
            "currency": self.currency,
            "customer": self.customer,
            "description": self.description,
            "disputed": state.disputes.iter().any(|dispute| dispute.charge() == self.id),
            "failure_balance_transaction": null,
            "failure_code": self.decline.map(|decline| decline.code),
            "failure_message": self.decline.map(|decline| decline.message),
            "fraud_details": {},
            "livemode": false,
            "metadata": {},
            "on_behalf_of": null,
            "outcome": self.outcome(),
            "paid": paid,
            "payment_intent": self.payment_intent,
            "payment_method": self.payment_method,
            "payment_method_details": {
                "card": method.map_or(Value::Null, PaymentMethod::card_details),
                "type": "card",
            },
            "receipt_email": null,
            "receipt_number": null,
            "receipt_url": null,
            "refunded": paid && self.refunded_amount == self.amount,
            "review": null,
            "shipping": null,
            "source": null,
            "source_transfer": null,
            "statement_descriptor": null,
            "statement_descriptor_suffix": null,
            "status": if paid { "succeeded" } else { "failed" },
            "transfer_data": null,
            "transfer_group": null,
        });
        if shape == Shape::Legacy {
            object["invoice"] = json!(self.invoice);
        }
        object
    }

    fn outcome(&self) -> Value {
        match self.decline {
            None => json!({
                "network_status": "approved_by_network",
                "reason": null,
                "risk_level": "normal",
                "risk_score": 7,
                "seller_message": "Payment complete.",
                "type": "authorized",
            }),
            Some(decline) => json!({
                "network_status": "declined_by_network",
                "reason": decline.decline_code.unwrap_or(decline.code),
                "risk_level": "normal",
                "risk_score": 7,
                "seller_message": format!(
                    "The bank returned the decline code `{}`.",
                    decline.decline_code.unwrap_or(decline.code)
                ),
                "type": "issuer_declined",
            }),
        }
    }
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let charge = call.state.charges.get(&id);
    charge
        .map(|charge| charge.render(call.state, call.shape))
        .ok_or_else(|| ApiError::no_such("charge", &id, "id"))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    let customer = params.text("customer")?;
    let intent = params.text("payment_intent")?;
    params.finish()?;
    let filter = |charge: &Charge| {
        created.contains(charge.created_secs)
            && customer
                .as_ref()
                .is_none_or(|customer| charge.customer == *customer)
            && intent
                .as_ref()
                .is_none_or(|intent| charge.payment_intent == *intent)
    };
    call.render_page(
        &page,
        "charge",
        "/v1/charges",
        call.state.charges.iter().rev(),
        filter,
    )
}
