//! Invoice items: pending lines that the next invoice includes.

use serde_json::{Value, json};

use crate::call::{Call, Route, delete, get, post};
use crate::error::ApiError;
use crate::invoices::adjust;
use crate::invoices::assemble::DraftLine;
use crate::invoices::model::{LineContent, Status};
use crate::invoices::render;
use crate::list::Page;
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::prices;
use crate::pricing::DecimalAmount;
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;
use crate::taxes::rates;
use crate::validate;

pub const ROUTES: &[Route] = &[
    post("/v1/invoiceitems", create),
    get("/v1/invoiceitems", list),
    get("/v1/invoiceitems/{id}", retrieve),
    delete("/v1/invoiceitems/{id}", remove),
];

/// Parameters that Stripe accepts and the sandbox does not support.
pub const UNSUPPORTED: [&str; 7] = [
    "customer_account",
    "discountable",
    "discounts",
    "quantity_decimal",
    "tax_behavior",
    "tax_code",
    "tax_rates",
];

/// A line that is pending, or that an invoice has included.
#[derive(Debug, Clone)]
pub struct InvoiceItem {
    id: String,
    pub customer: String,
    /// The invoice that includes it.
    pub invoice: Option<String>,
    date_secs: i64,
    pub content: LineContent,
}

impl Keyed for InvoiceItem {
    fn id(&self) -> &str {
        &self.id
    }
}

impl InvoiceItem {
    /// The invoice line that it becomes.
    #[must_use]
    pub fn draft_line(&self) -> DraftLine {
        DraftLine {
            invoice_item: Some(self.id.clone()),
            content: self.content.clone(),
        }
    }

    /// The API object.
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
            "customer_account": null,
            "date": self.date_secs,
            "description": content.description,
            "discountable": content.discountable(),
            "discounts": [],
            "invoice": self.invoice,
            "livemode": false,
            "metadata": content.metadata,
            "period": { "end": content.period.1, "start": content.period.0 },
            "proration": content.proration,
            "quantity": quantity,
            "tax_rates": rates::render_all(&content.tax_rates, state),
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

/// Records a pending line.
pub fn record(state: &mut State, customer: &str, content: LineContent, now_secs: i64) -> String {
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

/// Takes the parameters of an invoice item, for creation and for previews.
pub fn take_request(
    params: &mut Params,
    state: &State,
    now_secs: i64,
) -> Result<InvoiceItemRequest, ApiError> {
    let item = ItemParams::take(params, state)?;
    item.check_single_price()?;
    let (amount, currency) = item.amount_and_currency(state)?;
    let unit = item.unit_amount();
    let named = || {
        let product = state.products.get(&item.inline.as_ref()?.product)?;
        Some(product.name.clone())
    };
    let description = item.description.clone().or_else(named);
    let content = LineContent {
        amount: validate::amount("amount", amount)?,
        currency,
        description,
        period: item.period.unwrap_or((now_secs, now_secs)),
        price: item.price_id,
        quantity: Some(item.quantity.unwrap_or(1)),
        proration: false,
        subscription: None,
        item: None,
        unit,
        credited: None,
        tax_rates: Vec::new(),
        metadata: item.metadata,
    };
    Ok(InvoiceItemRequest {
        content,
        inline: item.inline,
    })
}

/// The parameters of an invoice item, as sent.
struct ItemParams {
    amount: Option<i64>,
    unit: Option<DecimalAmount>,
    inline: Option<InlinePrice>,
    currency: Option<String>,
    quantity: Option<u64>,
    price_id: Option<String>,
    description: Option<String>,
    period: Option<(i64, i64)>,
    metadata: Metadata,
}

impl ItemParams {
    fn take(params: &mut Params, state: &State) -> Result<Self, ApiError> {
        let amount = params.integer("amount")?;
        let unit = take_unit(params)?;
        let inline = params
            .map("price_data")?
            .map(|data| InlinePrice::take(data, state))
            .transpose()?;
        let currency = params
            .text("currency")?
            .map(|text| validate::currency("currency", &text))
            .transpose()?;
        let quantity = params.count("quantity")?;
        let mut price_id = params.text("price")?;
        if let Some(mut pricing) = params.map("pricing")? {
            price_id = Some(pricing.required("price")?);
            pricing.finish()?;
        }
        Ok(Self {
            amount,
            unit,
            inline,
            currency,
            quantity,
            price_id,
            description: params.text("description")?,
            period: take_period(params)?,
            metadata: MetadataChange::take(params)?.initial(),
        })
    }

    /// Refuses an item that is priced in more than one way.
    fn check_single_price(&self) -> Result<(), ApiError> {
        let given = [
            ("amount", self.amount.is_some()),
            ("unit_amount_decimal", self.unit.is_some()),
            ("price", self.price_id.is_some()),
            ("price_data", self.inline.is_some()),
        ];
        let mut given = given.iter().filter(|(_, given)| *given);
        match (given.next(), given.next()) {
            (Some((first, _)), Some((second, _))) => Err(ApiError::bad_param(
                first,
                format!("You may only specify one of these parameters: {first}, {second}."),
            )),
            _ => Ok(()),
        }
    }

    fn unit_amount(&self) -> Option<DecimalAmount> {
        self.unit
            .or_else(|| self.inline.as_ref().map(|inline| inline.unit))
    }

    fn currency(&self) -> Result<Option<String>, ApiError> {
        match (&self.inline, &self.currency) {
            (Some(inline), Some(currency)) if inline.currency != *currency => {
                Err(ApiError::bad_param(
                    "currency",
                    "The currency does not match that of `price_data`.",
                ))
            }
            (Some(inline), _) => Ok(Some(inline.currency.clone())),
            (None, currency) => Ok(currency.clone()),
        }
    }

    fn amount_and_currency(&self, state: &State) -> Result<(i64, String), ApiError> {
        let currency = self.currency()?;
        let units = self.quantity.unwrap_or(1);
        let amount = match self.unit_amount() {
            None => self.amount,
            Some(unit) => Some(unit.times(units).ok_or_else(too_large)?),
        };
        match (amount, &self.price_id) {
            (Some(amount), None) => {
                let currency = currency.ok_or_else(|| ApiError::missing_param("currency"))?;
                Ok((amount, currency))
            }
            (None, Some(id)) => one_time_amount(state, id, units),
            _ => Err(ApiError::missing_param("amount")),
        }
    }
}

/// Takes `period`: the time that the item is for.
fn take_period(params: &mut Params) -> Result<Option<(i64, i64)>, ApiError> {
    let Some(mut period) = params.map("period")? else {
        return Ok(None);
    };
    let mut time = |name: &str| {
        let param = period.name(name);
        period
            .integer(name)?
            .ok_or_else(|| ApiError::missing_param(&param))
    };
    let (start, end) = (time("start")?, time("end")?);
    period.finish()?;
    if end < start {
        return Err(ApiError::bad_param(
            "period[end]",
            "The end of the period cannot be before its start.",
        ));
    }
    Ok(Some((start, end)))
}

/// The amount and currency of `units` at a one-time price.
fn one_time_amount(state: &State, price_id: &str, units: u64) -> Result<(i64, String), ApiError> {
    let price = state
        .prices
        .get(price_id)
        .ok_or_else(|| ApiError::no_such("price", price_id, "pricing[price]"))?;
    if price.recurring.is_some() {
        return Err(ApiError::bad_param(
            "pricing[price]",
            "The price specified is set to `type=recurring` but this field only accepts prices with `type=one_time`.",
        ));
    }
    let amount = price.scheme.amount(units).ok_or_else(too_large)?;
    Ok((amount, price.currency.clone()))
}

/// Takes `unit_amount_decimal`, or `unit_amount` as it was called before basil.
/// A negative amount is a discount.
fn take_unit(params: &mut Params) -> Result<Option<DecimalAmount>, ApiError> {
    let whole = params.integer("unit_amount")?;
    let decimal = params.text("unit_amount_decimal")?;
    match (whole, decimal) {
        (Some(_), Some(_)) => Err(ApiError::bad_param(
            &params.name("unit_amount"),
            "You may only specify one of these parameters: unit_amount, unit_amount_decimal.",
        )),
        (Some(whole), None) => Ok(Some(DecimalAmount::whole(whole))),
        (None, Some(text)) => DecimalAmount::parse_signed(&text).map(Some).ok_or_else(|| {
            ApiError::bad_param(
                &params.name("unit_amount_decimal"),
                format!("Invalid decimal: {text}; must contain at maximum twelve decimal places."),
            )
        }),
        (None, None) => Ok(None),
    }
}

fn too_large() -> ApiError {
    ApiError::bad_param("quantity", "Quantity times unit amount is too large.")
}

/// The invoice item that a request asks for.
#[derive(Debug)]
pub struct InvoiceItemRequest {
    pub content: LineContent,
    inline: Option<InlinePrice>,
}

/// `price_data`: a price created for this item alone.
#[derive(Debug)]
struct InlinePrice {
    product: String,
    currency: String,
    unit: DecimalAmount,
}

impl InlinePrice {
    fn take(mut data: Params, state: &State) -> Result<Self, ApiError> {
        let name = data.name("currency");
        let currency = validate::currency(&name, &data.required("currency")?)?;
        let (name, product) = (data.name("product"), data.required("product")?);
        let unit = take_unit(&mut data)?
            .ok_or_else(|| ApiError::missing_param(&data.name("unit_amount")))?;
        data.choice("tax_behavior", &["exclusive", "inclusive", "unspecified"])?;
        data.finish()?;
        if state.products.get(&product).is_none() {
            return Err(ApiError::no_such("product", &product, &name));
        }
        Ok(Self {
            product,
            currency,
            unit,
        })
    }
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let customer = params.required("customer")?;
    let now = call.state.now_for(&customer);
    let subscription = params.text("subscription")?;
    let invoice = params.text("invoice")?;
    let InvoiceItemRequest {
        mut content,
        inline,
    } = take_request(&mut params, call.state, now)?;
    params.finish_rejecting(&UNSUPPORTED)?;
    call.state.customer(&customer, "customer")?;
    if let Some(id) = subscription {
        let subscription = call.state.subscription(&id, "subscription")?;
        if subscription.customer != customer {
            return Err(ApiError::no_such("subscription", &id, "subscription"));
        }
        if subscription.status.is_final() {
            return Err(ApiError::bad_param(
                "subscription",
                "You cannot add an invoice item to a subscription that has ended.",
            ));
        }
        content.subscription = Some(id);
    }
    if let Some(inline) = inline {
        let InlinePrice {
            product,
            currency,
            unit,
        } = inline;
        content.price = Some(prices::add_inline(call.state, product, currency, unit));
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
    content: LineContent,
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
        adjust::refresh(state, invoice)?;
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
