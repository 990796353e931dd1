//! Customers: contact data, balance, default payment method.

use serde_json::{Value, json};

use crate::addresses::take_address;
use crate::call::{Call, Route, delete, get, post};
use crate::discounts::customer::{resolve_discount, set_discount, take_coupon};
use crate::discounts::model::Discount;
use crate::discounts::redeem;
use crate::error::ApiError;
use crate::list::{self, Page};
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::payment_methods;
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;
use crate::taxes::automatic::Location;
use crate::validate;
use crate::{customer_balance, subscriptions};

pub const ROUTES: &[Route] = &[
    post("/v1/customers", create),
    get("/v1/customers", list),
    get("/v1/customers/{id}", retrieve),
    post("/v1/customers/{id}", update),
    delete("/v1/customers/{id}", remove),
];

/// Text fields that are only stored and returned, with their maximum length.
const TEXT_FIELDS: [(&str, usize); 4] = [
    ("description", 5_000),
    ("email", 512),
    ("name", 256),
    ("phone", 20),
];
/// Parameters that Stripe accepts and the sandbox does not support.
const UNSUPPORTED: [&str; 15] = [
    "business_name",
    "cash_balance",
    "coupon",
    "default_source",
    "individual_name",
    "invoice_prefix",
    "next_invoice_sequence",
    "preferred_locales",
    "promotion_code",
    "shipping",
    "source",
    "tax",
    "tax_exempt",
    "tax_id_data",
    "validate",
];

/// A customer, to whom invoices are addressed.
#[derive(Debug, Clone)]
pub struct Customer {
    id: String,
    created_secs: i64,
    texts: [Option<String>; 4],
    pub address: Option<Value>,
    metadata: Metadata,
    /// Negative for credit that later invoices use up, positive for debt.
    pub balance: i64,
    /// A coupon for all invoices of subscriptions without one.
    pub discount: Option<Discount>,
    /// The currency of the first charge.
    pub currency: Option<String>,
    /// Charged unless the subscription has a payment method of its own.
    pub default_payment_method: Option<String>,
    invoice_prefix: String,
    next_invoice: u32,
    /// The test clock that determines the customer's time.
    pub test_clock: Option<String>,
    /// Whether the last payment failed.
    pub delinquent: bool,
    /// Deleted customers can still be retrieved.
    pub deleted: bool,
}

impl Keyed for Customer {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Customer {
    /// A customer without any data.
    #[must_use]
    pub fn new(id: String, now_secs: i64) -> Self {
        Self {
            id,
            created_secs: now_secs,
            texts: [const { None }; 4],
            address: None,
            metadata: Metadata::new(),
            balance: 0,
            discount: None,
            currency: None,
            default_payment_method: None,
            invoice_prefix: String::new(),
            next_invoice: 1,
            test_clock: None,
            delinquent: false,
            deleted: false,
        }
    }

    #[must_use]
    pub fn email(&self) -> Option<&str> {
        self.texts[1].as_deref()
    }

    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.texts[2].as_deref()
    }

    pub fn set_email(&mut self, email: &str) {
        self.texts[1] = Some(email.to_owned());
    }

    /// Returns the number of the next invoice and advances the sequence.
    pub fn number_invoice(&mut self) -> String {
        let number = format!("{}-{:04}", self.invoice_prefix, self.next_invoice);
        self.next_invoice += 1;
        number
    }

    /// The API object, or a stub if the customer is deleted.
    #[must_use]
    pub fn render(&self, state: &State, shape: Shape) -> Value {
        if self.deleted {
            return json!({ "id": self.id, "object": "customer", "deleted": true });
        }
        let mut object = json!({
            "id": self.id,
            "object": "customer",
            "address": self.address,
            "balance": self.balance,
            "created": self.created_secs,
            "currency": self.currency,
            "customer_account": null,
            "default_source": null,
            "delinquent": self.delinquent,
            "discount": self.discount.as_ref().map(|discount| discount.render(state, shape)),
            "invoice_prefix": self.invoice_prefix,
            "invoice_settings": {
                "custom_fields": null,
                "default_payment_method": self.default_payment_method,
                "footer": null,
                "rendering_options": null,
            },
            "livemode": false,
            "metadata": self.metadata,
            "next_invoice_sequence": self.next_invoice,
            "preferred_locales": [],
            "shipping": null,
            "tax_exempt": "none",
            "test_clock": self.test_clock,
        });
        for ((name, _), text) in TEXT_FIELDS.iter().zip(&self.texts) {
            object[name] = json!(text);
        }
        object
    }
}

/// The fields that creation and update share.
struct Fields {
    texts: [Option<Option<String>>; 4],
    address: Option<Option<Value>>,
    metadata: MetadataChange,
    balance: Option<i64>,
    default_payment_method: Option<Option<String>>,
}

impl Fields {
    fn take(params: &mut Params) -> Result<Self, ApiError> {
        let mut texts = [const { None }; 4];
        for (slot, (name, max_chars)) in texts.iter_mut().zip(TEXT_FIELDS) {
            *slot = params.clearable_up_to(name, max_chars)?;
        }
        if let [_, Some(Some(email)), ..] = &texts
            && !is_email(email)
        {
            return Err(
                ApiError::bad_param("email", format!("Invalid email address: {email}"))
                    .code("email_invalid"),
            );
        }
        let mut default_payment_method = None;
        if let Some(mut settings) = params.map("invoice_settings")? {
            default_payment_method = settings.clearable("default_payment_method")?;
            settings.finish()?;
        }
        Ok(Self {
            texts,
            address: take_address(params)?,
            metadata: MetadataChange::take(params)?,
            balance: params
                .integer("balance")?
                .map(|balance| validate::amount("balance", balance))
                .transpose()?,
            default_payment_method,
        })
    }

    fn apply(self, customer: &mut Customer) {
        for (old, new) in customer.texts.iter_mut().zip(self.texts) {
            if let Some(new) = new {
                *old = new;
            }
        }
        if let Some(address) = self.address {
            customer.address = address;
        }
        self.metadata.apply(&mut customer.metadata);
        if let Some(method) = self.default_payment_method {
            customer.default_payment_method = method;
        }
    }
}

/// Whether the text has a local part, one `@` and a host with a dot.
fn is_email(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c == '@' || c == ',')
    };
    match text.split_once('@') {
        Some((name, host)) => {
            let labels = host.split('.').all(|label| !label.is_empty());
            plain(name) && plain(host) && host.contains('.') && labels && text.len() <= 512
        }
        None => false,
    }
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let fields = Fields::take(&mut params)?;
    let coupon = take_coupon(&mut params, call.shape)?;
    let test_clock = params.text("test_clock")?;
    let method = params.text("payment_method")?;
    params.finish_rejecting(&UNSUPPORTED)?;
    let state = &mut *call.state;
    if let Some(clock) = &test_clock
        && state.test_clocks.get(clock).is_none()
    {
        return Err(ApiError::no_such("test clock", clock, "test_clock"));
    }
    if let Some(method) = &method {
        payment_methods::check_attachable(state, method, "payment_method")?;
    }
    let now = state.time_on(test_clock.as_deref());
    let mut customer = Customer::new(state.ids.next("cus"), now);
    customer.invoice_prefix = state.ids.token(8).to_uppercase();
    customer.test_clock = test_clock;
    let (balance, id) = (fields.balance.unwrap_or(0), customer.id.clone());
    let requested = fields.default_payment_method.clone().flatten();
    let mut new_ids = state.ids.clone();
    let discount = resolve_discount(state, &customer, &coupon, &mut new_ids, now)?;
    state.ids = new_ids;
    fields.apply(&mut customer);
    // The default can only be the method that this request attaches.
    customer.default_payment_method = None;
    state.customers.insert(customer);
    let attached = method
        .as_deref()
        .map(|method| payment_methods::attach(state, method, &id))
        .transpose();
    let default = attached.and_then(|attached| {
        resolve_default(
            state,
            &id,
            requested.as_deref(),
            method.as_deref(),
            attached,
        )
    });
    match default {
        Ok(default) => {
            if let Some(customer) = state.customers.get_mut(&id) {
                customer.default_payment_method = default;
            }
        }
        Err(error) => {
            state.customers.remove(&id);
            return Err(error);
        }
    }
    set_discount(state, &id, discount.as_ref());
    state.emit("customer.created", &id, now);
    redeem::record(state, &[], &discount.unwrap_or_default(), now);
    customer_balance::adjust(state, &id, balance, "initial", None)?;
    call.render(&id)
}

/// Refuses to remove the address that a subscription is taxed by.
fn check_tax_location(
    state: &State,
    id: &str,
    address: Option<&Option<Value>>,
) -> Result<(), ApiError> {
    let taxed = state.subscriptions.iter().any(|subscription| {
        subscription.customer == id && subscription.automatic_tax && !subscription.status.is_final()
    });
    match address {
        Some(address) if taxed && Location::of(address.as_ref()).is_none() => {
            Err(ApiError::unsupported(
                "address",
                "an address without a tax location while a subscription has automatic tax",
            ))
        }
        _ => Ok(()),
    }
}

/// Resolves the requested default. The name of a shared test card stands for
/// the copy that was just attached.
fn resolve_default(
    state: &State,
    customer: &str,
    requested: Option<&str>,
    method: Option<&str>,
    attached: Option<String>,
) -> Result<Option<String>, ApiError> {
    match requested {
        None => Ok(None),
        Some(requested) if Some(requested) == method => Ok(attached),
        Some(requested) => {
            payment_methods::check_owner(
                state,
                requested,
                customer,
                "invoice_settings[default_payment_method]",
            )?;
            Ok(Some(requested.to_owned()))
        }
    }
}

fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let fields = Fields::take(&mut params)?;
    let coupon = take_coupon(&mut params, call.shape)?;
    params.finish_rejecting(&UNSUPPORTED)?;
    let id = call.id();
    let state = &mut *call.state;
    let customer = state.customer(&id, "id")?;
    let mut ids = state.ids.clone();
    let discount = resolve_discount(state, customer, &coupon, &mut ids, state.now_for(&id))?;
    let balance = customer.balance;
    fields.metadata.check_room(&customer.metadata, "metadata")?;
    if let Some(Some(method)) = &fields.default_payment_method {
        payment_methods::check_owner(
            state,
            method,
            &id,
            "invoice_settings[default_payment_method]",
        )?;
    }
    check_tax_location(state, &id, fields.address.as_ref())?;
    state.ids = ids;
    let now = state.now_for(&id);
    let before = state.snapshot(&id);
    let target = fields.balance;
    if let Some(customer) = state.customers.get_mut(&id) {
        fields.apply(customer);
    }
    let old = set_discount(state, &id, discount.as_ref());
    state.emit_update("customer.updated", &id, before, now);
    if let Some(discounts) = &discount {
        redeem::record(state, &old, discounts, now);
    }
    if let Some(target) = target {
        let change = target
            .checked_sub(balance)
            .ok_or_else(|| ApiError::bad_param("balance", "Invalid integer"))?;
        customer_balance::adjust(state, &id, change, "adjustment", None)?;
    }
    call.render(&id)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let customer = call.state.customers.get(&id);
    customer
        .map(|customer| customer.render(call.state, call.shape))
        .ok_or_else(|| ApiError::no_such("customer", &id, "id"))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    let email = params.text("email")?;
    let clock = params.text("test_clock")?;
    params.finish()?;
    // Customers on a test clock are listed only if the clock is given.
    let filter = |customer: &Customer| {
        !customer.deleted
            && created.contains(customer.created_secs)
            && email
                .as_deref()
                .is_none_or(|email| customer.email() == Some(email))
            && (clock.is_none() && customer.test_clock.is_none() || clock == customer.test_clock)
    };
    call.render_page(
        &page,
        "customer",
        "/v1/customers",
        call.state.customers.iter().rev(),
        filter,
    )
}

fn remove(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    call.state.customer(&id, "id")?;
    erase(call.state, &id)?;
    call.render(&id)
}

/// Deletes a customer and cancels its subscriptions.
pub fn erase(state: &mut State, id: &str) -> Result<(), ApiError> {
    let now = state.now_for(id);
    subscriptions::cancel::all_of(state, id, now)?;
    let last = state.snapshot(id);
    if let Some(customer) = state.customers.get_mut(id) {
        customer.deleted = true;
    }
    if let Some(last) = last {
        state.emit_snapshot("customer.deleted", last, now);
    }
    Ok(())
}

/// Properties of a customer that are returned only when expanded.
#[must_use]
pub fn on_request(state: &State, id: &str, part: &str) -> Option<Value> {
    let customer = state.customers.get(id)?;
    let empty = || list::object(Vec::new(), false, &format!("/v1/customers/{id}/{part}"));
    match part {
        "sources" | "tax_ids" => Some(empty()),
        "cash_balance" => Some(Value::Null),
        // Credit is positive here and negative in `balance`.
        "invoice_credit_balance" => {
            let mut balances = json!({});
            if let (Some(currency), true) = (&customer.currency, customer.balance != 0) {
                balances[currency] = json!(-customer.balance);
            }
            Some(balances)
        }
        "tax" => Some(json!({
            "automatic_tax": if Location::of(customer.address.as_ref()).is_some() {
                "supported"
            } else {
                "unrecognized_location"
            },
            "ip_address": null,
            "location": null,
            "provider": "stripe",
        })),
        _ => None,
    }
}

/// The list of a customer's subscriptions, for expansion.
#[must_use]
pub fn subscriptions_of(state: &State, id: &str, shape: Shape) -> Value {
    let data = state
        .subscriptions
        .iter()
        .rev()
        .filter(|subscription| subscription.customer == id && !subscription.status.is_final())
        .map(|subscription| subscription.render(state, shape))
        .collect();
    list::object(data, false, &format!("/v1/customers/{id}/subscriptions"))
}
