//! Customer balances: every change is a transaction.

use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::metadata::{Metadata, MetadataChange};
use crate::state::State;
use crate::store::Keyed;
use crate::validate;

/// Routes of `/v1/customers/{id}/balance_transactions`.
pub const ROUTES: &[Route] = &[
    post("/v1/customers/{id}/balance_transactions", create),
    get("/v1/customers/{id}/balance_transactions", list),
];

/// One change of a customer's balance.
#[derive(Debug, Clone)]
pub struct CustomerBalanceTransaction {
    id: String,
    customer: String,
    created_secs: i64,
    amount: i64,
    currency: String,
    ending_balance: i64,
    kind: &'static str,
    invoice: Option<String>,
    description: Option<String>,
    metadata: Metadata,
}

impl Keyed for CustomerBalanceTransaction {
    fn id(&self) -> &str {
        &self.id
    }
}

impl CustomerBalanceTransaction {
    /// The API object.
    #[must_use]
    pub fn render(&self) -> Value {
        json!({
            "id": self.id,
            "object": "customer_balance_transaction",
            "amount": self.amount,
            "created": self.created_secs,
            "credit_note": null,
            "currency": self.currency,
            "customer": self.customer,
            "description": self.description,
            "ending_balance": self.ending_balance,
            "invoice": self.invoice,
            "livemode": false,
            "metadata": self.metadata,
            "type": self.kind,
        })
    }
}

/// Changes a customer's balance: a negative invoice becomes credit, and a later
/// one uses it up. An amount of zero records nothing.
pub fn adjust(
    state: &mut State,
    customer_id: &str,
    amount: i64,
    kind: &'static str,
    invoice: Option<&str>,
) -> Result<Option<String>, ApiError> {
    if amount == 0 {
        return Ok(None);
    }
    let customer = state.customer(customer_id, "customer")?;
    let currency = customer
        .currency
        .clone()
        .unwrap_or_else(|| "usd".to_owned());
    let ending_balance = customer
        .balance
        .checked_add(amount)
        .ok_or_else(|| ApiError::bad_param("amount", "The balance does not fit in 64 bits."))?;
    let now = state.now_for(customer_id);
    let before = state.snapshot(customer_id);
    let id = state.ids.next("cbtxn");
    state
        .customer_balance_transactions
        .insert(CustomerBalanceTransaction {
            id: id.clone(),
            customer: customer_id.to_owned(),
            created_secs: now,
            amount,
            currency,
            ending_balance,
            kind,
            invoice: invoice.map(str::to_owned),
            description: None,
            metadata: Metadata::new(),
        });
    if let Some(customer) = state.customers.get_mut(customer_id) {
        customer.balance = ending_balance;
    }
    state.emit_update("customer.updated", customer_id, before, now);
    Ok(Some(id))
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let amount = params
        .integer("amount")?
        .ok_or_else(|| ApiError::missing_param("amount"))
        .and_then(|amount| validate::amount("amount", amount))?;
    let currency = validate::currency("currency", &params.required("currency")?)?;
    let description = params.text_up_to("description", 350)?;
    let metadata = MetadataChange::take(&mut params)?;
    params.finish()?;
    let id = call.id();
    let customer = call.state.customer(&id, "id")?;
    if customer
        .currency
        .as_ref()
        .is_some_and(|existing| *existing != currency)
    {
        return Err(ApiError::bad_param(
            "currency",
            "You cannot combine currencies on a single customer.",
        ));
    }
    if amount == 0 {
        return Err(ApiError::bad_param("amount", "The amount must not be 0."));
    }
    if let Some(customer) = call.state.customers.get_mut(&id) {
        customer.currency = Some(currency);
    }
    let transaction = adjust(call.state, &id, amount, "adjustment", None)?.unwrap_or_default();
    if let Some(stored) = call
        .state
        .customer_balance_transactions
        .get_mut(&transaction)
    {
        stored.description = description;
        stored.metadata = metadata.initial();
    }
    call.render(&transaction)
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    params.finish()?;
    let id = call.id();
    call.state.customer(&id, "id")?;
    let url = format!("/v1/customers/{id}/balance_transactions");
    call.render_page(
        &page,
        "customer balance transaction",
        &url,
        call.state.customer_balance_transactions.iter().rev(),
        |transaction| transaction.customer == id,
    )
}
