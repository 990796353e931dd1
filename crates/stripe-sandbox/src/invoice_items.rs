//! Invoice items: lines that wait for an invoice.

use serde_json::{Value, json};

use crate::call::{Call, Route, delete, get, post};
use crate::error::ApiError;
use crate::invoices::assemble::DraftLine;
use crate::invoices::model::{Content, Status};
use crate::invoices::render;
use crate::list::Page;
use crate::metadata::MetadataChange;
use crate::params::Params;
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;

/// Routes of `/v1/invoiceitems`.
pub const ROUTES: &[Route] = &[
    post("/v1/invoiceitems", create),
    get("/v1/invoiceitems", list),
    get("/v1/invoiceitems/{id}", retrieve),
    delete("/v1/invoiceitems/{id}", remove),
];

/// A line that waits, or that an invoice has picked up.
#[derive(Debug, Clone)]
pub struct InvoiceItem {
    id: String,
    /// The customer.
    pub customer: String,
    /// The invoice that picked it up.
    pub invoice: Option<String>,
    date_secs: i64,
    /// What it says.
    pub content: Content,
}

impl Keyed for InvoiceItem {
    fn id(&self) -> &str {
        &self.id
    }
}

impl InvoiceItem {
    /// The line that it becomes.
    #[must_use]
    pub fn draft_line(&self) -> DraftLine {
        DraftLine {
            invoice_item: Some(self.id.clone()),
            content: self.content.clone(),
        }
    }

    /// The object.
    #[must_use]
    pub fn render(&self, state: &State, shape: Shape) -> Value {
        let content = &self.content;
        let quantity = content.quantity.unwrap_or(1);
        let mut object = json!({
            "id": self.id,
            "object": "invoiceitem",
            "amount": content.amount,
            "currency": content.currency,
            "customer": self.customer,
            "date": self.date_secs,
            "description": content.description,
            "discountable": !content.proration,
            "discounts": [],
            "invoice": self.invoice,
            "livemode": false,
            "metadata": content.metadata,
            "period": { "end": content.period.1, "start": content.period.0 },
            "proration": content.proration,
            "quantity": quantity,
            "tax_rates": [],
            "test_clock": state.customers.get(&self.customer).and_then(|customer| customer.test_clock.as_deref()),
        });
        match shape {
            Shape::Legacy => {
                let price = content.price.as_ref().and_then(|id| state.prices.get(id));
                object["plan"] = price.map_or(Value::Null, |price| price.render_plan(shape));
                object["price"] = price.map_or(Value::Null, |price| price.render(shape));
                object["subscription"] = json!(content.subscription);
                object["subscription_item"] = json!(content.item);
            }
            Shape::Basil => {
                object["parent"] = content.subscription.as_ref().map_or(Value::Null, |subscription| {
                    json!({
                        "subscription_details": { "subscription": subscription, "subscription_item": content.item },
                        "type": "subscription_details",
                    })
                });
                object["pricing"] = render::pricing(content, state);
                object["quantity_decimal"] = json!(quantity.to_string());
            }
        }
        object
    }
}

/// Records a line that waits for an invoice.
pub fn record(state: &mut State, customer: &str, content: Content, now_secs: i64) -> String {
    let id = state.ids.next("ii");
    state.invoice_items.insert(InvoiceItem {
        id: id.clone(),
        customer: customer.to_owned(),
        invoice: None,
        date_secs: now_secs,
        content,
    });
    state.emit("invoiceitem.created", &id, now_secs);
    id
}

/// Takes the parameters of an item that a user adds; the preview takes the
/// same ones.
pub fn take_content(
    params: &mut Params,
    state: &State,
    now_secs: i64,
) -> Result<Content, ApiError> {
    let amount = params.integer("amount")?;
    let currency = params.text("currency")?;
    let quantity = params.count("quantity")?;
    let mut price_id = params.text("price")?;
    if let Some(mut pricing) = params.map("pricing")? {
        price_id = Some(pricing.required("price")?);
        pricing.finish()?;
    }
    let description = params.text("description")?;
    let metadata = MetadataChange::take(params)?.initial();
    let (amount, currency) = match (amount, &price_id) {
        (Some(amount), None) => (
            amount,
            currency.ok_or_else(|| ApiError::missing_param("currency"))?,
        ),
        (None, Some(id)) => {
            let price = state
                .prices
                .get(id)
                .ok_or_else(|| ApiError::no_such("price", id, "pricing[price]"))?;
            if price.recurring.is_some() {
                return Err(ApiError::bad_param(
                    "pricing[price]",
                    "The price specified is set to `type=recurring` but this field only accepts prices with `type=one_time`.",
                ));
            }
            let amount = price.scheme.amount(quantity.unwrap_or(1)).ok_or_else(|| {
                ApiError::bad_param("quantity", "Quantity times unit amount is too large.")
            })?;
            (amount, price.currency.clone())
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_param(
                "amount",
                "You may only specify one of these parameters: amount, price.",
            ));
        }
        (None, None) => return Err(ApiError::missing_param("amount")),
    };
    Ok(Content {
        amount,
        currency: currency.to_lowercase(),
        description,
        period: (now_secs, now_secs),
        price: price_id,
        quantity: Some(quantity.unwrap_or(1)),
        proration: false,
        subscription: None,
        item: None,
        metadata,
    })
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let customer = params.required("customer")?;
    let now = call.state.now_for(&customer);
    let subscription = params.text("subscription")?;
    let invoice = params.text("invoice")?;
    let mut content = take_content(&mut params, call.state, now)?;
    params.finish()?;
    call.state.customer(&customer, "customer")?;
    if let Some(id) = subscription {
        let owned = call.state.subscription(&id, "subscription")?.customer == customer;
        if !owned {
            return Err(ApiError::no_such("subscription", &id, "subscription"));
        }
        content.subscription = Some(id);
    }
    match invoice {
        None => {
            let id = record(call.state, &customer, content, now);
            call.render(&id)
        }
        Some(invoice) => add_to_invoice(call, &customer, &invoice, content, now),
    }
}

fn add_to_invoice(
    call: &mut Call<'_>,
    customer: &str,
    invoice: &str,
    content: Content,
    now_secs: i64,
) -> Result<Value, ApiError> {
    let state = &mut *call.state;
    let draft = state
        .invoices
        .get(invoice)
        .filter(|known| known.customer == customer)
        .ok_or_else(|| ApiError::no_such("invoice", invoice, "invoice"))?;
    if draft.status != Status::Draft {
        return Err(ApiError::bad_param(
            "invoice",
            "The invoice is not editable.",
        ));
    }
    let id = record(state, customer, content, now_secs);
    let before = state.snapshot(invoice);
    let line = state.invoice_items.get_mut(&id).map(|item| {
        item.invoice = Some(invoice.to_owned());
        item.draft_line()
    });
    let line_id = state.ids.next("il");
    if let Some(line) = line {
        state.invoice_mut(invoice)?.add_line(line_id, line);
    }
    state.emit_update("invoice.updated", invoice, before, now_secs);
    call.render(&id)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let item = call.state.invoice_items.get(&id);
    item.map(|item| item.render(call.state, call.shape))
        .ok_or_else(|| ApiError::no_such("invoiceitem", &id, "id"))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    let customer = params.text("customer")?;
    let invoice = params.text("invoice")?;
    let pending = params.boolean("pending")?;
    params.finish()?;
    let filter = |item: &InvoiceItem| {
        created.contains(item.date_secs)
            && customer
                .as_ref()
                .is_none_or(|customer| item.customer == *customer)
            && (invoice.is_none() || item.invoice == invoice)
            && pending.is_none_or(|pending| pending == item.invoice.is_none())
    };
    call.render_page(
        &page,
        "invoiceitem",
        "/v1/invoiceitems",
        call.state.invoice_items.iter().rev(),
        filter,
    )
}

fn remove(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let item = call
        .state
        .invoice_items
        .get(&id)
        .ok_or_else(|| ApiError::no_such("invoiceitem", &id, "id"))?;
    if item.invoice.is_some() {
        return Err(ApiError::invalid(
            "This invoice item is on an invoice and can no longer be deleted.",
        ));
    }
    let now = call.state.now_for(&item.customer);
    let last = call.state.snapshot(&id);
    call.state.invoice_items.remove(&id);
    if let Some(last) = last {
        call.state.emit_snapshot("invoiceitem.deleted", last, now);
    }
    Ok(json!({ "id": id, "object": "invoiceitem", "deleted": true }))
}
