//! Customers.

use serde_json::{Value, json};

use crate::call::{Call, Route, delete, get, post};
use crate::error::ApiError;
use crate::list::{self, Page};
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::payment_methods;
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;
use crate::validate;
use crate::{balance_transactions, subscriptions};

/// Routes of `/v1/customers`.
pub const ROUTES: &[Route] = &[
    post("/v1/customers", create),
    get("/v1/customers", list),
    get("/v1/customers/{id}", retrieve),
    post("/v1/customers/{id}", update),
    delete("/v1/customers/{id}", remove),
];

/// Texts that only need to be kept and given back, and their longest.
const TEXTS: [(&str, usize); 4] = [
    ("description", 5_000),
    ("email", 512),
    ("name", 256),
    ("phone", 20),
];
/// What Stripe takes here and the stand-in does not.
const LACKING: [&str; 15] = [
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
const ADDRESS: [&str; 6] = ["city", "country", "line1", "line2", "postal_code", "state"];

/// Whom invoices are for.
#[derive(Debug, Clone)]
pub struct Customer {
    id: String,
    created_secs: i64,
    texts: [Option<String>; 4],
    address: Option<Value>,
    metadata: Metadata,
    /// Negative: credit that later invoices use up. Positive: a debt.
    pub balance: i64,
    /// The currency of the first charge.
    pub currency: Option<String>,
    /// Where charges go unless the subscription says otherwise.
    pub default_payment_method: Option<String>,
    invoice_prefix: String,
    next_invoice: u32,
    /// The clock the customer lives on.
    pub test_clock: Option<String>,
    /// Whether the last invoice's payment failed.
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
    /// The email address.
    #[must_use]
    pub fn email(&self) -> Option<&str> {
        self.texts[1].as_deref()
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.texts[2].as_deref()
    }

    /// The number of the customer's next invoice; each is given once.
    pub fn number_invoice(&mut self) -> String {
        let number = format!("{}-{:04}", self.invoice_prefix, self.next_invoice);
        self.next_invoice += 1;
        number
    }

    /// The object, or the stub that stands for a deleted one.
    #[must_use]
    pub fn render(&self, shape: Shape) -> Value {
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
        for ((name, _), text) in TEXTS.iter().zip(&self.texts) {
            object[name] = json!(text);
        }
        if shape == Shape::Legacy {
            object["discount"] = Value::Null;
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
        for (slot, (name, most)) in texts.iter_mut().zip(TEXTS) {
            *slot = params.clearable_within(name, most)?;
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

/// One `@`, something before it, and a host with a point after it.
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

fn take_address(params: &mut Params) -> Result<Option<Option<Value>>, ApiError> {
    let Some(pairs) = params.pairs("address")? else {
        return Ok(None);
    };
    let Some(pairs) = pairs else {
        return Ok(Some(None));
    };
    let mut address = json!({});
    for name in ADDRESS {
        address[name] = Value::Null;
    }
    for (name, value) in pairs {
        if !ADDRESS.contains(&name.as_str()) {
            return Err(ApiError::unknown_param(&format!("address[{name}]")));
        }
        if name == "country" && !value.is_empty() {
            validate::country("address[country]", &value)?;
        }
        address[&name] = json!(value);
    }
    Ok(Some(Some(address)))
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let fields = Fields::take(&mut params)?;
    let test_clock = params.text("test_clock")?;
    let method = params.text("payment_method")?;
    params.finish_lacking(&LACKING)?;
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
    let mut customer = Customer {
        id: state.ids.next("cus"),
        created_secs: now,
        texts: [const { None }; 4],
        address: None,
        metadata: Metadata::new(),
        balance: 0,
        currency: None,
        default_payment_method: None,
        invoice_prefix: state.ids.token(8).to_uppercase(),
        next_invoice: 1,
        test_clock,
        delinquent: false,
        deleted: false,
    };
    let (balance, id) = (fields.balance.unwrap_or(0), customer.id.clone());
    let wished = fields.default_payment_method.clone().flatten();
    fields.apply(&mut customer);
    // The default may only be the method attached by this very request.
    customer.default_payment_method = None;
    state.customers.insert(customer);
    let attached = method
        .as_deref()
        .map(|method| payment_methods::attach(state, method, &id))
        .transpose();
    let default = attached.and_then(|attached| {
        default_for(state, &id, wished.as_deref(), method.as_deref(), attached)
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
    state.emit("customer.created", &id, now);
    balance_transactions::adjust(state, &id, balance, "initial", None)?;
    call.render(&id)
}

/// The default asked for, allowing a shared test card's name for the copy
/// of it that was just attached.
fn default_for(
    state: &State,
    customer: &str,
    wished: Option<&str>,
    method: Option<&str>,
    attached: Option<String>,
) -> Result<Option<String>, ApiError> {
    match wished {
        None => Ok(None),
        Some(wished) if Some(wished) == method => Ok(attached),
        Some(wished) => {
            payment_methods::check_owner(
                state,
                wished,
                customer,
                "invoice_settings[default_payment_method]",
            )?;
            Ok(Some(wished.to_owned()))
        }
    }
}

fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let fields = Fields::take(&mut params)?;
    params.finish_lacking(&LACKING)?;
    let id = call.id();
    let state = &mut *call.state;
    let customer = state.customer(&id, "id")?;
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
    let now = state.now_for(&id);
    let before = state.snapshot(&id);
    let target = fields.balance;
    if let Some(customer) = state.customers.get_mut(&id) {
        fields.apply(customer);
    }
    state.emit_update("customer.updated", &id, before, now);
    if let Some(target) = target {
        let change = target
            .checked_sub(balance)
            .ok_or_else(|| ApiError::bad_param("balance", "Invalid integer"))?;
        balance_transactions::adjust(state, &id, change, "adjustment", None)?;
    }
    call.render(&id)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let customer = call.state.customers.get(&id);
    customer
        .map(|customer| customer.render(call.shape))
        .ok_or_else(|| ApiError::no_such("customer", &id, "id"))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    let email = params.text("email")?;
    let clock = params.text("test_clock")?;
    params.finish()?;
    // Customers on a clock are listed only when the clock is named.
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

/// Deletes a customer and cancels what it subscribes to.
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

/// What of a customer is there only when asked for.
#[must_use]
pub fn included(state: &State, id: &str, part: &str) -> Option<Value> {
    let customer = state.customers.get(id)?;
    let empty = || list::object(Vec::new(), false, &format!("/v1/customers/{id}/{part}"));
    match part {
        "sources" | "tax_ids" => Some(empty()),
        "cash_balance" => Some(Value::Null),
        // Credit is positive here, and negative in `balance`.
        "invoice_credit_balance" => {
            let mut balances = json!({});
            if let (Some(currency), true) = (&customer.currency, customer.balance != 0) {
                balances[currency] = json!(-customer.balance);
            }
            Some(balances)
        }
        "tax" => Some(json!({
            "automatic_tax": "unrecognized_location",
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
