//! Invoice payments: the links between invoices and payment intents. In the
//! basil shape neither object refers to the other.

use serde_json::{Value, json};

use crate::call::{Call, Route, get};
use crate::error::ApiError;
use crate::invoices::model::{Invoice, Status};
use crate::list::{self, Page};
use crate::payments::intents::PaymentIntent;
use crate::state::State;

pub const ROUTES: &[Route] = &[
    get("/v1/invoice_payments", list),
    get("/v1/invoice_payments/{id}", retrieve),
];

impl PaymentIntent {
    /// The id of the invoice payment for this intent.
    #[must_use]
    pub fn invoice_payment_id(&self) -> String {
        self.id.replacen("pi_", "inpay_", 1)
    }

    fn payment_status(&self, invoice: &Invoice) -> &'static str {
        match invoice.status {
            Status::Paid => "paid",
            Status::Void => "canceled",
            _ => "open",
        }
    }

    /// The API object of the invoice payment for this intent.
    #[must_use]
    pub fn render_invoice_payment(&self, invoice: &Invoice) -> Value {
        let status = self.payment_status(invoice);
        json!({
            "id": self.invoice_payment_id(),
            "object": "invoice_payment",
            "amount_paid": (status == "paid").then_some(invoice.amount_paid),
            "amount_requested": self.amount,
            "created": self.created_secs,
            "currency": self.currency,
            "invoice": invoice.id,
            "is_default": true,
            "livemode": false,
            "payment": { "payment_intent": self.id, "type": "payment_intent" },
            "status": status,
            "status_transitions": {
                "canceled_at": invoice.transitions.voided,
                "paid_at": invoice.transitions.paid,
            },
        })
    }
}

fn rows(state: &State) -> impl Iterator<Item = (&PaymentIntent, &Invoice)> {
    state
        .payment_intents
        .iter()
        .rev()
        .filter_map(|intent| Some((intent, state.invoices.get(&intent.invoice)?)))
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let found = rows(call.state).find(|(intent, _)| intent.invoice_payment_id() == id);
    found
        .map(|(intent, invoice)| intent.render_invoice_payment(invoice))
        .ok_or_else(|| ApiError::no_such("invoice_payment", &id, "id"))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    // Cursors are invoice payment ids, but the list is searched by intent id.
    let page = Page::take(&mut params)?.with_prefix("inpay_", "pi_");
    let created = params.range("created")?;
    let invoice = params.text("invoice")?;
    let status = params.choice("status", &["canceled", "open", "paid"])?;
    let mut intent_id = None;
    if let Some(mut payment) = params.map("payment")? {
        if payment.choice("type", &["payment_intent"])?.is_none() {
            return Err(ApiError::missing_param("payment[type]"));
        }
        intent_id = payment.text("payment_intent")?;
        payment.finish()?;
    }
    params.finish()?;
    let state = &*call.state;
    let matches = |intent: &PaymentIntent| {
        state.invoices.get(&intent.invoice).is_some_and(|owner| {
            created.contains(intent.created_secs)
                && invoice.as_ref().is_none_or(|id| owner.id == *id)
                && intent_id.as_ref().is_none_or(|id| intent.id == *id)
                && status.is_none_or(|status| intent.payment_status(owner) == status)
        })
    };
    let (intents, has_more) = page.select(
        "invoice_payment",
        state.payment_intents.iter().rev(),
        matches,
    )?;
    let data = intents
        .into_iter()
        .filter_map(|intent| {
            Some(intent.render_invoice_payment(state.invoices.get(&intent.invoice)?))
        })
        .collect();
    Ok(list::object(data, has_more, "/v1/invoice_payments"))
}
