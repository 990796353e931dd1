//! Payment methods: cards, made from test cards and attached to customers.

use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::state::State;
use crate::store::Keyed;
use crate::test_cards::{self, TestCard, Verdict};

/// Routes of `/v1/payment_methods`, and a customer's own.
pub const ROUTES: &[Route] = &[
    post("/v1/payment_methods", create),
    get("/v1/payment_methods", list),
    get("/v1/payment_methods/{id}", retrieve),
    post("/v1/payment_methods/{id}", update),
    post("/v1/payment_methods/{id}/attach", attach_to_customer),
    post("/v1/payment_methods/{id}/detach", detach),
    get("/v1/customers/{id}/payment_methods", list_of_customer),
    get(
        "/v1/customers/{id}/payment_methods/{method}",
        retrieve_of_customer,
    ),
];

/// A card.
#[derive(Debug, Clone)]
pub struct PaymentMethod {
    id: String,
    created_secs: i64,
    /// The customer it is attached to.
    pub customer: Option<String>,
    /// What it does when charged.
    pub card: &'static TestCard,
    expiry: (i64, i64),
    billing_name: Option<String>,
    billing_email: Option<String>,
    metadata: Metadata,
}

impl Keyed for PaymentMethod {
    fn id(&self) -> &str {
        &self.id
    }
}

impl PaymentMethod {
    fn new(id: String, card: &'static TestCard, created_secs: i64) -> Self {
        Self {
            id,
            created_secs,
            customer: None,
            card,
            expiry: (12, 2034),
            billing_name: None,
            billing_email: None,
            metadata: Metadata::new(),
        }
    }

    /// The card's details as charges show them.
    #[must_use]
    pub fn card_details(&self) -> Value {
        json!({
            "brand": self.card.brand,
            "checks": {
                "address_line1_check": null,
                "address_postal_code_check": null,
                "cvc_check": "pass",
            },
            "country": "US",
            "exp_month": self.expiry.0,
            "exp_year": self.expiry.1,
            "fingerprint": fingerprint(self.card.number),
            "funding": "credit",
            "last4": self.card.last4(),
            "installments": null,
            "mandate": null,
            "network": self.card.brand,
            "three_d_secure": null,
            "wallet": null,
        })
    }

    /// The billing details.
    #[must_use]
    pub fn billing_details(&self) -> Value {
        json!({
            "address": {
                "city": null, "country": null, "line1": null,
                "line2": null, "postal_code": null, "state": null,
            },
            "email": self.billing_email,
            "name": self.billing_name,
            "phone": null,
            "tax_id": null,
        })
    }

    /// The object.
    #[must_use]
    pub fn render(&self) -> Value {
        let mut card = self.card_details();
        if let Some(card) = card.as_object_mut() {
            for of_charge in ["installments", "mandate", "network", "three_d_secure"] {
                card.remove(of_charge);
            }
        }
        card["display_brand"] = json!(self.card.brand);
        card["generated_from"] = Value::Null;
        card["networks"] = json!({ "available": [self.card.brand], "preferred": null });
        card["three_d_secure_usage"] = json!({ "supported": true });
        json!({
            "id": self.id,
            "object": "payment_method",
            "allow_redisplay": "unspecified",
            "billing_details": self.billing_details(),
            "card": card,
            "created": self.created_secs,
            "customer": self.customer,
            "livemode": false,
            "metadata": self.metadata,
            "type": "card",
        })
    }
}

/// The same number has the same fingerprint, whoever holds it.
fn fingerprint(number: &str) -> String {
    let seed = number.bytes().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    crate::ids::IdSource::new(seed).token(16)
}

/// Refuses what is no payment method, is another customer's, or is a card
/// that cannot be attached.
pub fn check_attachable(state: &State, id: &str, param: &str) -> Result<(), ApiError> {
    let card = match (
        state.payment_methods.get(id),
        test_cards::by_payment_method(id),
    ) {
        (Some(method), _) if method.customer.is_some() => {
            return Err(ApiError::bad_param(
                param,
                "The payment method you provided has already been attached to a customer.",
            ));
        }
        (Some(method), _) => method.card,
        (None, Some(card)) => card,
        (None, None) => return Err(ApiError::no_such("PaymentMethod", id, param)),
    };
    match card.attach {
        Verdict::Decline(decline) => Err(decline.error()),
        Verdict::Approve | Verdict::Authenticate => Ok(()),
    }
}

/// Refuses what is not attached to this customer.
pub fn check_owner(state: &State, id: &str, customer: &str, param: &str) -> Result<(), ApiError> {
    match state.payment_methods.get(id) {
        Some(method) if method.customer.as_deref() == Some(customer) => Ok(()),
        Some(_) => Err(ApiError::bad_param(
            param,
            format!("The customer does not have a payment method with the ID {id}. The payment method must be attached to the customer."),
        )
        .code("resource_missing")),
        None => Err(ApiError::no_such("PaymentMethod", id, param)),
    }
}

/// Attaches a method; one of the shared test cards is copied first. Returns
/// the id of what is now attached.
pub fn attach(state: &mut State, id: &str, customer: &str) -> Result<String, ApiError> {
    check_attachable(state, id, "payment_method")?;
    let now = state.now_for(customer);
    let attached = match test_cards::by_payment_method(id) {
        Some(card) => {
            let copy = PaymentMethod::new(state.ids.next("pm"), card, now);
            let copied = copy.id.clone();
            state.payment_methods.insert(copy);
            copied
        }
        None => id.to_owned(),
    };
    if let Some(method) = state.payment_methods.get_mut(&attached) {
        method.customer = Some(customer.to_owned());
    }
    state.emit("payment_method.attached", &attached, now);
    Ok(attached)
}

fn take_billing(params: &mut Params, method: &mut PaymentMethod) -> Result<(), ApiError> {
    if let Some(mut details) = params.map("billing_details")? {
        if let Some(name) = details.clearable("name")? {
            method.billing_name = name;
        }
        if let Some(email) = details.clearable("email")? {
            method.billing_email = email;
        }
        details.finish()?;
    }
    Ok(())
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    match params.choice("type", &["card"])? {
        Some(_) => {}
        None => return Err(ApiError::missing_param("type")),
    }
    let mut card = params
        .map("card")?
        .ok_or_else(|| ApiError::missing_param("card"))?;
    let token = card.text("token")?;
    let number = card.text("number")?;
    let expiry = (card.integer("exp_month")?, card.integer("exp_year")?);
    card.text("cvc")?;
    card.finish()?;
    let known = match (&token, &number) {
        (Some(token), None) => test_cards::by_token(token)
            .ok_or_else(|| ApiError::no_such("token", token, "card[token]"))?,
        (None, Some(number)) => test_cards::by_number(number).ok_or_else(|| {
            ApiError::card("incorrect_number", None, "Your card number is incorrect.")
                .param("card[number]")
        })?,
        _ => return Err(ApiError::missing_param("card[token]")),
    };
    let now = call.state.wall_secs;
    let mut method = PaymentMethod::new(String::new(), known, now);
    if let (Some(month), Some(year)) = expiry {
        method.expiry = (month, year);
    }
    take_billing(&mut params, &mut method)?;
    let metadata = MetadataChange::take(&mut params)?;
    params.finish()?;
    metadata.apply(&mut method.metadata);
    method.id = call.state.ids.next("pm");
    let id = method.id.clone();
    call.state.payment_methods.insert(method);
    call.render(&id)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    if let Some(method) = call.state.payment_methods.get(&id) {
        return Ok(method.render());
    }
    let card = test_cards::by_payment_method(&id)
        .ok_or_else(|| ApiError::no_such("PaymentMethod", &id, "id"))?;
    Ok(PaymentMethod::new(id, card, call.state.wall_secs).render())
}

fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let id = call.id();
    let mut method = call
        .state
        .payment_methods
        .get(&id)
        .cloned()
        .ok_or_else(|| ApiError::no_such("PaymentMethod", &id, "id"))?;
    take_billing(&mut params, &mut method)?;
    let metadata = MetadataChange::take(&mut params)?;
    params.finish()?;
    metadata.apply(&mut method.metadata);
    let owner = method.customer.clone().unwrap_or_default();
    let before = call.state.snapshot(&id);
    call.state.payment_methods.insert(method);
    let now = call.state.now_for(&owner);
    call.state
        .emit_update("payment_method.updated", &id, before, now);
    call.render(&id)
}

fn attach_to_customer(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let customer = params.required("customer")?;
    params.finish()?;
    call.state.customer(&customer, "customer")?;
    let id = call.id();
    let exists = call.state.payment_methods.get(&id).is_some()
        || test_cards::by_payment_method(&id).is_some();
    if !exists {
        return Err(ApiError::no_such("PaymentMethod", &id, "id"));
    }
    let attached = attach(call.state, &id, &customer)?;
    call.render(&attached)
}

fn detach(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let state = &mut *call.state;
    let owner = state
        .payment_methods
        .get(&id)
        .ok_or_else(|| ApiError::no_such("PaymentMethod", &id, "id"))?
        .customer
        .clone()
        .ok_or_else(|| {
            ApiError::invalid("The payment method you provided is not attached to a customer so detachment is impossible.")
        })?;
    let now = state.now_for(&owner);
    let (before, customer_before) = (state.snapshot(&id), state.snapshot(&owner));
    if let Some(method) = state.payment_methods.get_mut(&id) {
        method.customer = None;
    }
    if let Some(customer) = state.customers.get_mut(&owner)
        && customer.default_payment_method.as_ref() == Some(&id)
    {
        customer.default_payment_method = None;
    }
    for subscription in state.subscriptions.iter_mut() {
        if subscription.default_payment_method.as_ref() == Some(&id) {
            subscription.default_payment_method = None;
        }
    }
    state.emit_update("payment_method.detached", &id, before, now);
    state.emit_update("customer.updated", &owner, customer_before, now);
    call.render(&id)
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let customer = params.text("customer")?;
    params.choice("type", &["card"])?;
    params.finish()?;
    if let Some(customer) = &customer {
        call.state.customer(customer, "customer")?;
    }
    // Without a customer Stripe lists only methods of the account itself.
    let filter = |method: &PaymentMethod| customer.is_some() && method.customer == customer;
    call.render_page(
        &page,
        "PaymentMethod",
        "/v1/payment_methods",
        call.state.payment_methods.iter().rev(),
        filter,
    )
}

fn list_of_customer(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    params.choice("type", &["card"])?;
    params.finish()?;
    let customer = call.id();
    call.state.customer(&customer, "id")?;
    let url = format!("/v1/customers/{customer}/payment_methods");
    call.render_page(
        &page,
        "PaymentMethod",
        &url,
        call.state.payment_methods.iter().rev(),
        |method| method.customer.as_ref() == Some(&customer),
    )
}

fn retrieve_of_customer(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let customer = call.id();
    call.state.customer(&customer, "id")?;
    let id = call.ids.get(1).cloned().unwrap_or_default();
    check_owner(call.state, &id, &customer, "id")
        .map_err(|_| ApiError::no_such("PaymentMethod", &id, "id"))?;
    call.render(&id)
}
