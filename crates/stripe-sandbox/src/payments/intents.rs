//! Payment intents: one for each invoice with an amount due.

use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::invoices::collect;
use crate::list::Page;
use crate::payment_methods;
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;

/// The route under `/_sandbox` plays the cardholder, who would authenticate in
/// a browser.
pub const ROUTES: &[Route] = &[
    get("/v1/payment_intents", list),
    get("/v1/payment_intents/{id}", retrieve),
    post("/v1/payment_intents/{id}/confirm", confirm),
    post("/_sandbox/payment_intents/{id}/authenticate", authenticate),
];

/// The status of a payment intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// There is no payment method, or it was declined.
    RequiresPaymentMethod,
    /// The cardholder must authenticate.
    RequiresAction,
    /// A bank debit is under way.
    Processing,
    Succeeded,
    Canceled,
}

impl Status {
    const fn name(self) -> &'static str {
        match self {
            Self::RequiresPaymentMethod => "requires_payment_method",
            Self::RequiresAction => "requires_action",
            Self::Processing => "processing",
            Self::Succeeded => "succeeded",
            Self::Canceled => "canceled",
        }
    }
}

/// The intent to pay an invoice.
#[derive(Debug, Clone)]
pub struct PaymentIntent {
    pub id: String,
    pub created_secs: i64,
    pub amount: i64,
    pub currency: String,
    pub customer: String,
    pub invoice: String,
    pub status: Status,
    /// The secret that a browser needs to confirm the intent.
    pub client_secret: String,
    /// The payment method tried last.
    pub payment_method: Option<String>,
    pub latest_charge: Option<String>,
    /// Why the last charge failed.
    pub last_error: Option<ApiError>,
    pub canceled_secs: Option<i64>,
}

impl Keyed for PaymentIntent {
    fn id(&self) -> &str {
        &self.id
    }
}

impl PaymentIntent {
    /// The API object.
    #[must_use]
    pub fn render(&self, state: &State, shape: Shape) -> Value {
        let received = if self.status == Status::Succeeded {
            self.amount
        } else {
            0
        };
        let mut object = json!({
            "id": self.id,
            "object": "payment_intent",
            "amount": self.amount,
            "amount_capturable": 0,
            "amount_received": received,
            "application": null,
            "application_fee_amount": null,
            "automatic_payment_methods": null,
            "canceled_at": self.canceled_secs,
            "cancellation_reason": self.canceled_secs.map(|_| "void_invoice"),
            "capture_method": "automatic",
            "client_secret": self.client_secret,
            "confirmation_method": "automatic",
            "created": self.created_secs,
            "currency": self.currency,
            "customer": self.customer,
            "description": collect::payment_description(state, &self.invoice),
            "last_payment_error": self.last_error.as_ref().map(|error| self.render_error(error, state)),
            "latest_charge": self.latest_charge,
            "livemode": false,
            "metadata": {},
            "next_action": (self.status == Status::RequiresAction)
                .then(|| json!({ "type": "use_stripe_sdk", "use_stripe_sdk": {} })),
            "on_behalf_of": null,
            "payment_method": self.payment_method,
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "processing": null,
            "receipt_email": null,
            "review": null,
            "setup_future_usage": "off_session",
            "shipping": null,
            "source": null,
            "statement_descriptor": null,
            "statement_descriptor_suffix": null,
            "status": self.status.name(),
            "transfer_data": null,
            "transfer_group": null,
        });
        if shape == Shape::Legacy {
            object["invoice"] = json!(self.invoice);
        }
        object
    }

    fn render_error(&self, error: &ApiError, state: &State) -> Value {
        let method = self
            .payment_method
            .as_ref()
            .and_then(|id| state.payment_methods.get(id));
        json!({
            "type": error.kind,
            "code": error.code,
            "decline_code": error.decline_code,
            "message": error.message,
            "charge": self.latest_charge,
            "payment_method": method.map(payment_methods::PaymentMethod::render),
        })
    }
}

/// Creates the payment intent of a newly finalized invoice.
pub fn open_for_invoice(
    state: &mut State,
    invoice_id: &str,
    now_secs: i64,
) -> Result<(), ApiError> {
    let invoice = state.invoice(invoice_id)?.clone();
    let id = state.ids.next("pi");
    let client_secret = format!("{id}_secret_{}", state.ids.token(24));
    state.payment_intents.insert(PaymentIntent {
        id: id.clone(),
        created_secs: now_secs,
        amount: invoice.amount_due,
        currency: invoice.currency,
        customer: invoice.customer,
        invoice: invoice_id.to_owned(),
        status: Status::RequiresPaymentMethod,
        client_secret,
        payment_method: None,
        latest_charge: None,
        last_error: None,
        canceled_secs: None,
    });
    state.invoice_mut(invoice_id)?.payment_intent = Some(id.clone());
    state.emit("payment_intent.created", &id, now_secs);
    Ok(())
}

/// Cancels the payment intent of an invoice that was voided or paid out of
/// band.
pub fn cancel_for_invoice(state: &mut State, invoice_id: &str, now_secs: i64) {
    let id = state
        .invoices
        .get(invoice_id)
        .and_then(|invoice| invoice.payment_intent.clone());
    let Some(intent) = id
        .as_deref()
        .and_then(|id| state.payment_intents.get_mut(id))
    else {
        return;
    };
    if intent.status == Status::Succeeded {
        return;
    }
    intent.status = Status::Canceled;
    intent.canceled_secs = Some(now_secs);
    let id = intent.id.clone();
    state.emit("payment_intent.canceled", &id, now_secs);
}

/// Whether a bank has the payment of an invoice, and has not answered.
pub fn is_processing(state: &State, invoice_id: &str) -> bool {
    let invoice = state.invoices.get(invoice_id);
    let intent = invoice.and_then(|invoice| invoice.payment_intent.as_deref());
    let intent = intent.and_then(|id| state.payment_intents.get(id));
    intent.is_some_and(|intent| intent.status == Status::Processing)
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a PaymentIntent, ApiError> {
    state
        .payment_intents
        .get(id)
        .ok_or_else(|| ApiError::no_such("payment_intent", id, "id"))
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    find(call.state, &id).map(|intent| intent.render(call.state, call.shape))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    let customer = params.text("customer")?;
    params.finish()?;
    let filter = |intent: &PaymentIntent| {
        created.contains(intent.created_secs)
            && customer
                .as_ref()
                .is_none_or(|customer| intent.customer == *customer)
    };
    call.render_page(
        &page,
        "payment_intent",
        "/v1/payment_intents",
        call.state.payment_intents.iter().rev(),
        filter,
    )
}

/// Plays the customer, who enters a card: it is attached and charged.
fn confirm(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let requested = params.text("payment_method")?;
    params.boolean("off_session")?;
    params.text("return_url")?;
    params.finish()?;
    let id = call.id();
    let state = &mut *call.state;
    let intent = find(state, &id)?.clone();
    if matches!(
        intent.status,
        Status::Processing | Status::Succeeded | Status::Canceled
    ) {
        return Err(ApiError::invalid(format!(
            "This PaymentIntent's status is {}, so it cannot be confirmed.",
            intent.status.name()
        ))
        .code("payment_intent_unexpected_state"));
    }
    let invoice = state.invoice(&intent.invoice)?.clone();
    let method = match requested {
        None => collect::method_for(state, &invoice).ok_or_else(|| {
            ApiError::invalid(
                "You cannot confirm this PaymentIntent because it's missing a payment method.",
            )
            .code("payment_intent_unexpected_state")
        })?,
        Some(method) => {
            let owned = state
                .payment_methods
                .get(&method)
                .is_some_and(|known| known.customer.as_ref() == Some(&intent.customer));
            if owned {
                method
            } else {
                payment_methods::attach(state, &method, &intent.customer)?
            }
        }
    };
    let now = state.now_for(&intent.customer);
    match collect::attempt(state, &intent.invoice, Some(&method), now)? {
        collect::AttemptOutcome::Failed(error) => Err(error),
        collect::AttemptOutcome::Paid | collect::AttemptOutcome::ActionRequired(_) => {
            call.render(&id)
        }
    }
}

/// The cardholder answers the bank: confirms, or with `outcome=fail` does not. With
/// `outcome=process` the bank takes its time, and answers with the next call.
fn authenticate(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let outcome = params.choice("outcome", &["succeed", "fail", "process"])?;
    params.finish()?;
    let id = call.id();
    let intent = find(call.state, &id)?.clone();
    let (Status::RequiresAction | Status::Processing, Some(method)) =
        (intent.status, &intent.payment_method)
    else {
        return Err(ApiError::invalid(
            "This PaymentIntent is not waiting for authentication.",
        ));
    };
    let now = call.state.now_for(&intent.customer);
    if outcome == Some("process") {
        if let Some(intent) = call.state.payment_intents.get_mut(&id) {
            intent.status = Status::Processing;
        }
        call.state.emit("payment_intent.processing", &id, now);
    } else if outcome == Some("fail") {
        collect::fail_authentication(call.state, &intent.invoice, method, now)?;
    } else {
        collect::take_payment(call.state, &intent.invoice, method, now)?;
    }
    call.render(&id)
}
