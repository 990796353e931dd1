//! Payment methods: cards, created from test cards and attached to customers.

mod bank_accounts;
use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::state::State;
use crate::store::Keyed;
use crate::test_cards::{self, IssuerDecision, TestCard};
use crate::validate;

/// The route under `/_sandbox` plays the card network, which issues new cards.
pub const ROUTES: &[Route] = &[
    post("/v1/payment_methods", create),
    get("/v1/payment_methods", list),
    get("/v1/payment_methods/{id}", retrieve),
    post("/v1/payment_methods/{id}", update),
    post("/v1/payment_methods/{id}/attach", attach_to_customer),
    post("/v1/payment_methods/{id}/detach", detach),
    post("/_sandbox/payment_methods/{id}/renew", renew),
    get("/v1/customers/{id}/payment_methods", list_of_customer),
    get(
        "/v1/customers/{id}/payment_methods/{method}",
        retrieve_of_customer,
    ),
];

/// The payment method types other than cards.
const OTHER_TYPES: [&str; 24] = [
    "acss_debit",
    "affirm",
    "afterpay_clearpay",
    "alipay",
    "amazon_pay",
    "au_becs_debit",
    "bacs_debit",
    "bancontact",
    "blik",
    "boleto",
    "cashapp",
    "customer_balance",
    "eps",
    "ideal",
    "klarna",
    "link",
    "p24",
    "paypal",
    "pix",
    "revolut_pay",
    "sepa_debit",
    "twint",
    "us_bank_account",
    "wechat_pay",
];
/// How many years a renewed card is valid for in addition.
const RENEWAL_YEARS: i64 = 4;

/// A card.
#[derive(Debug, Clone)]
pub struct PaymentMethod {
    id: String,
    created_secs: i64,
    /// The customer it is attached to.
    pub customer: Option<String>,
    /// The test card, which determines the outcome of charges.
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

    /// What a customer enters on a hosted page.
    pub fn entered(state: &mut State, card: &'static TestCard) -> String {
        let id = state.ids.next("pm");
        let method = Self::new(id.clone(), card, state.wall_secs);
        state.payment_methods.insert(method);
        id
    }

    /// The card details shown on charges.
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

    /// The API object.
    #[must_use]
    pub fn render(&self) -> Value {
        if self.card.is_bank() {
            return self.render_bank_account();
        }
        let mut card = self.card_details();
        if let Some(card) = card.as_object_mut() {
            for of_charge in ["installments", "mandate", "network", "three_d_secure"] {
                card.remove(of_charge);
            }
        }
        card["display_brand"] = json!(self.card.brand);
        card["generated_from"] = Value::Null;
        card["networks"] = json!({ "available": [self.card.brand], "preferred": null });
        card["regulated_status"] = json!("unregulated");
        card["three_d_secure_usage"] = json!({ "supported": true });
        json!({
            "id": self.id,
            "object": "payment_method",
            "allow_redisplay": "unspecified",
            "billing_details": self.billing_details(),
            "card": card,
            "created": self.created_secs,
            "customer": self.customer,
            "customer_account": null,
            "livemode": false,
            "metadata": self.metadata,
            "type": "card",
        })
    }
}

/// The fingerprint of a card number, the same for every holder.
fn fingerprint(number: &str) -> String {
    let seed = number.bytes().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    crate::ids::IdSource::new(seed).token(16)
}

/// Refuses unknown payment methods, those that are already attached, and cards
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
        (None, None) => return Err(no_such_method(id, param)),
    };
    match card.attach {
        IssuerDecision::Decline(decline) => Err(decline.error()),
        IssuerDecision::Approve | IssuerDecision::Authenticate => Ok(()),
    }
}

/// The error for an unknown id, or for a test card that only Stripe has.
fn no_such_method(id: &str, param: &str) -> ApiError {
    if test_cards::is_unsupported(id) {
        return ApiError::unsupported(param, &format!("Stripe's test card {id}"));
    }
    ApiError::no_such("PaymentMethod", id, param)
}

/// Refuses a payment method that is not attached to this customer.
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

/// Attaches a payment method and returns its id. A shared test card is copied
/// first.
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

fn no_such_token(token: &str) -> ApiError {
    if test_cards::is_unsupported(token) {
        return ApiError::unsupported("card[token]", &format!("Stripe's test card {token}"));
    }
    ApiError::no_such("token", token, "card[token]")
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
    if take_type(&mut params)?.ok_or_else(|| ApiError::missing_param("type"))? != "card" {
        return Err(ApiError::unsupported(
            "type",
            "payment methods other than cards",
        ));
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
        (Some(token), None) => test_cards::by_token(token).ok_or_else(|| no_such_token(token))?,
        (None, Some(number)) => test_cards::by_number(number).ok_or_else(|| {
            ApiError::card("incorrect_number", None, "Your card number is incorrect.")
                .param("card[number]")
        })?,
        _ => return Err(ApiError::missing_param("card[token]")),
    };
    let now = call.state.wall_secs;
    let mut method = PaymentMethod::new(String::new(), known, now);
    if number.is_some() || expiry != (None, None) {
        let [month, year] = [(expiry.0, "card[exp_month]"), (expiry.1, "card[exp_year]")]
            .map(|(value, name)| value.ok_or_else(|| ApiError::missing_param(name)));
        method.expiry = (month?, year?);
        validate::expiry(method.expiry.0, method.expiry.1, now)?;
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
        .ok_or_else(|| no_such_method(&id, "payment_method"))
        .map_err(|error| match error.code {
            Some("resource_missing") => ApiError {
                status: 404,
                ..error
            },
            _ => error,
        })?;
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
    let expiry = match params.map("card")? {
        None => (None, None),
        Some(mut card) => {
            let expiry = (card.integer("exp_month")?, card.integer("exp_year")?);
            card.finish_rejecting(&["networks"])?;
            expiry
        }
    };
    let metadata = MetadataChange::take(&mut params)?;
    params.finish_rejecting(&["allow_redisplay", "us_bank_account"])?;
    let owner = method.customer.clone().ok_or_else(|| {
        ApiError::invalid(
            "You must save this PaymentMethod to a customer before you can update it.",
        )
    })?;
    let now = call.state.now_for(&owner);
    if expiry != (None, None) {
        method.expiry = (
            expiry.0.unwrap_or(method.expiry.0),
            expiry.1.unwrap_or(method.expiry.1),
        );
        validate::expiry(method.expiry.0, method.expiry.1, now)?;
    }
    metadata.check_room(&method.metadata, "metadata")?;
    metadata.apply(&mut method.metadata);
    let before = call.state.snapshot(&id);
    call.state.payment_methods.insert(method);
    call.state
        .emit_update("payment_method.updated", &id, before, now);
    call.render(&id)
}

/// Takes `type`: any payment method type that Stripe has.
fn take_type(params: &mut Params) -> Result<Option<&'static str>, ApiError> {
    let mut known = vec!["card"];
    known.extend(OTHER_TYPES);
    params.choice("type", &known)
}

/// Plays the card network, which issues a new card and reports the new expiry.
fn renew(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let before = call.state.snapshot(&id);
    let method = call
        .state
        .payment_methods
        .get_mut(&id)
        .ok_or_else(|| ApiError::no_such("PaymentMethod", &id, "id"))?;
    method.expiry.1 += RENEWAL_YEARS;
    let owner = method.customer.clone().ok_or_else(|| {
        ApiError::invalid("Card networks only update cards that are attached to a customer.")
    });
    let now = call.state.now_for(&owner?);
    call.state
        .emit_update("payment_method.automatically_updated", &id, before, now);
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
        let mut error = no_such_method(&id, "payment_method");
        error.status = 404;
        return Err(error);
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
    let kind = take_type(&mut params)?;
    params.finish()?;
    if let Some(customer) = &customer {
        call.state.customer(customer, "customer")?;
    }
    // Without a customer, Stripe lists only the account's own payment methods.
    let filter = |method: &PaymentMethod| {
        kind.is_none_or(|kind| kind == method.kind())
            && customer.is_some()
            && method.customer == customer
    };
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
    let kind = take_type(&mut params)?;
    params.finish()?;
    let customer = call.id();
    call.state.customer(&customer, "id")?;
    let url = format!("/v1/customers/{customer}/payment_methods");
    call.render_page(
        &page,
        "PaymentMethod",
        &url,
        call.state.payment_methods.iter().rev(),
        |method| {
            kind.is_none_or(|kind| kind == method.kind())
                && method.customer.as_ref() == Some(&customer)
        },
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
