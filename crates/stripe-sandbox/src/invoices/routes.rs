//! The routes of `/v1/invoices`.

use serde_json::{Value, json};

use crate::call::{Call, Route, delete, get, post};
use crate::error::ApiError;
use crate::invoice_items::InvoiceItem;
use crate::invoices::assemble::{self, Draft};
use crate::invoices::collect::{self, AttemptOutcome};
use crate::invoices::model::{Invoice, Status};
use crate::invoices::{finalize, lines, preview, upcoming};
use crate::list::Page;
use crate::metadata::MetadataChange;
use crate::payment_methods;
use crate::payments::intents;
use crate::state::State;
use crate::subscriptions::request;
use crate::taxes::request::take_automatic;
use crate::validate;

pub const ROUTES: &[Route] = &[
    post("/v1/invoices", create),
    get("/v1/invoices", list),
    post("/v1/invoices/create_preview", preview::create_preview),
    get("/v1/invoices/upcoming", upcoming::retrieve),
    get("/v1/invoices/upcoming/lines", upcoming::lines),
    get("/v1/invoices/{id}", retrieve),
    post("/v1/invoices/{id}", update),
    delete("/v1/invoices/{id}", remove),
    get("/v1/invoices/{id}/lines", lines::list),
    post("/v1/invoices/{id}/finalize", finalize_now),
    post("/v1/invoices/{id}/pay", pay),
    post("/v1/invoices/{id}/send", send),
    post("/v1/invoices/{id}/void", void),
    post("/v1/invoices/{id}/mark_uncollectible", mark_uncollectible),
];

/// Parameters that Stripe accepts and the sandbox does not support.
const UNSUPPORTED: [&str; 22] = [
    "account_tax_ids",
    "application_fee_amount",
    "custom_fields",
    "customer_account",
    "default_source",
    "default_tax_rates",
    "discounts",
    "due_date",
    "effective_at",
    "from_invoice",
    "issuer",
    "number",
    "on_behalf_of",
    "payment_settings",
    "rendering",
    "shipping_cost",
    "shipping_details",
    "statement_descriptor",
    "transfer_data",
    "automatically_finalizes_at",
    "automatic_tax",
    "days_until_due",
];

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let customer_id = params.required("customer")?;
    let subscription = params.text("subscription")?;
    let auto_advance = params.boolean("auto_advance")?.unwrap_or(false);
    let behavior = params.choice("pending_invoice_items_behavior", &["exclude", "include"])?;
    let description = params.text("description")?;
    let footer = params.text("footer")?;
    let currency = params.text("currency")?;
    let method = params.text("default_payment_method")?;
    let metadata = MetadataChange::take(&mut params)?.initial();
    request::take_fixed_settings(&mut params)?;
    if take_automatic(&mut params)? == Some(true) {
        return Err(ApiError::unsupported(
            "automatic_tax[enabled]",
            "automatic tax of invoices without a subscription",
        ));
    }
    params.finish_rejecting(&UNSUPPORTED)?;
    let state = &mut *call.state;
    let customer = state.customer(&customer_id, "customer")?;
    let currency = currency
        .map(|text| validate::currency("currency", &text))
        .transpose()?
        .or_else(|| customer.currency.clone())
        .unwrap_or_else(|| "usd".to_owned());
    if let Some(method) = &method {
        payment_methods::check_owner(state, method, &customer_id, "default_payment_method")?;
    }
    let now = state.now_for(&customer_id);
    let mut draft = match subscription {
        Some(id) => draft_for_subscription(state, &customer_id, &id, now)?,
        None => {
            let include_pending = behavior == Some("include");
            draft_for_customer(state, customer_id, currency, include_pending, now)
        }
    };
    draft.auto_advance = auto_advance;
    draft.finalizes_at_secs = auto_advance.then_some(now + state.config.draft_secs);
    let id = finalize::record(state, draft, now)?;
    let invoice = state.invoice_mut(&id)?;
    invoice.description = description;
    invoice.footer = footer;
    invoice.default_payment_method = method;
    invoice.metadata = metadata;
    call.render(&id)
}

/// A draft of the subscription's pending items.
fn draft_for_subscription(
    state: &State,
    customer_id: &str,
    id: &str,
    now_secs: i64,
) -> Result<Draft, ApiError> {
    let subscription = state.subscription(id, "subscription")?;
    if subscription.customer != customer_id {
        return Err(ApiError::no_such("subscription", id, "subscription"));
    }
    let lines = assemble::pending(state, subscription);
    if lines.is_empty() {
        return Err(ApiError::invalid("Nothing to invoice for subscription")
            .code("invoice_no_subscription_line_items"));
    }
    let period = (now_secs, now_secs);
    Ok(Draft::for_subscription(
        subscription,
        "subscription_update",
        period,
        lines,
    ))
}

/// A draft without a subscription, empty or with the customer's pending items.
fn draft_for_customer(
    state: &State,
    customer: String,
    currency: String,
    include_pending: bool,
    now_secs: i64,
) -> Draft {
    // Pending items come newest first, and later additions at the end.
    let lines = state
        .invoice_items
        .iter()
        .rev()
        .filter(|item| {
            include_pending
                && item.invoice.is_none()
                && item.customer == customer
                && item.content.subscription.is_none()
                && item.content.currency == currency
        })
        .map(InvoiceItem::draft_line)
        .collect();
    Draft {
        customer,
        parent: None,
        reason: "manual",
        period: (now_secs, now_secs),
        currency,
        lines,
        discounts: Vec::new(),
        automatic_tax: false,
        default_tax_rates: Vec::new(),
        auto_advance: false,
        finalizes_at_secs: None,
    }
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let invoice = call.state.invoice(&id).map_err(with_invoice_param)?;
    Ok(invoice.render(call.state, call.shape))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    let customer = params.text("customer")?;
    let subscription = params.text("subscription")?;
    let status = params.choice(
        "status",
        &["draft", "open", "paid", "uncollectible", "void"],
    )?;
    params.finish()?;
    let filter = |invoice: &Invoice| {
        created.contains(invoice.created_secs)
            && customer.as_ref().is_none_or(|id| invoice.customer == *id)
            && (subscription.is_none() || invoice.subscription() == subscription.as_deref())
            && status.is_none_or(|status| invoice.status.name() == status)
    };
    call.render_page(
        &page,
        "invoice",
        "/v1/invoices",
        call.state.invoices.iter().rev(),
        filter,
    )
}

fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let description = params.clearable("description")?;
    let footer = params.clearable("footer")?;
    let auto_advance = params.boolean("auto_advance")?;
    let method = params.clearable("default_payment_method")?;
    let metadata = MetadataChange::take(&mut params)?;
    params.finish_rejecting(&UNSUPPORTED)?;
    let id = call.id();
    let state = &mut *call.state;
    metadata.check_room(&state.invoice(&id)?.metadata, "metadata")?;
    let (customer, created, status) = {
        let invoice = state.invoice(&id)?;
        (
            invoice.customer.clone(),
            invoice.created_secs,
            invoice.status,
        )
    };
    if let Some(Some(method)) = &method {
        payment_methods::check_owner(state, method, &customer, "default_payment_method")?;
    }
    if status != Status::Draft && (description.is_some() || footer.is_some()) {
        return Err(ApiError::invalid(
            "Finalized invoices can't be updated in this way: description and footer.",
        )
        .code("invoice_not_editable"));
    }
    let now = state.now_for(&customer);
    let draft_secs = state.config.draft_secs;
    let before = state.snapshot(&id);
    let invoice = state.invoice_mut(&id)?;
    if let Some(description) = description {
        invoice.description = description;
    }
    if let Some(footer) = footer {
        invoice.footer = footer;
    }
    if let Some(auto_advance) = auto_advance {
        invoice.auto_advance = auto_advance;
        let draft = status == Status::Draft;
        invoice.finalizes_at_secs = (auto_advance && draft).then_some(created + draft_secs);
    }
    if let Some(method) = method {
        invoice.default_payment_method = method;
    }
    metadata.apply(&mut invoice.metadata);
    state.emit_update("invoice.updated", &id, before, now);
    call.render(&id)
}

fn remove(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let (id, now) = target(call).map_err(with_invoice_param)?;
    let invoice = call.state.invoice(&id)?;
    if invoice.status != Status::Draft {
        return Err(ApiError::invalid("You can only delete draft invoices."));
    }
    if invoice.parent.is_some() {
        return Err(ApiError::invalid(
            "You can't delete invoices created by subscriptions.",
        ));
    }
    // Invoice items are deleted with the draft; they do not become pending
    // again.
    let used: Vec<String> = invoice
        .lines
        .iter()
        .filter_map(|line| line.invoice_item.clone())
        .collect();
    let last = call.state.snapshot(&id);
    call.state.invoices.remove(&id);
    for item in used {
        call.state.invoice_items.remove(&item);
    }
    if let Some(last) = last {
        call.state.emit_snapshot("invoice.deleted", last, now);
    }
    Ok(json!({ "id": id, "object": "invoice", "deleted": true }))
}

/// Reports errors under the name `invoice`, as Stripe does on these routes.
fn with_invoice_param(error: ApiError) -> ApiError {
    error.param("invoice")
}

/// Sending always fails, because every invoice is charged automatically.
fn send(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    target(call).map_err(with_invoice_param)?;
    Err(ApiError::invalid(
        "You can only manually send an invoice if its collection method is 'send_invoice'. This Stripe stand-in has no such invoices.",
    ))
}

/// The id in the path, and the current time of the invoice's customer.
fn target(call: &Call<'_>) -> Result<(String, i64), ApiError> {
    let id = call.id();
    let now = call.state.now_for(&call.state.invoice(&id)?.customer);
    Ok((id, now))
}

fn finalize_now(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let auto_advance = params.boolean("auto_advance")?;
    params.finish()?;
    let (id, now) = target(call)?;
    if let Some(auto_advance) = auto_advance {
        call.state.invoice_mut(&id)?.auto_advance = auto_advance;
    }
    finalize::finalize(call.state, &id, now)?;
    call.render(&id)
}

fn pay(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let out_of_band = params.boolean("paid_out_of_band")?.unwrap_or(false);
    let method = params.text("payment_method")?;
    params.boolean("off_session")?;
    params.finish()?;
    let (id, now) = target(call)?;
    let state = &mut *call.state;
    if let Some(method) = &method {
        payment_methods::check_owner(
            state,
            method,
            &state.invoice(&id)?.customer,
            "payment_method",
        )?;
    }
    match state.invoice(&id)?.status {
        Status::Draft => finalize::finalize(state, &id, now)?,
        Status::Open | Status::Uncollectible => {}
        Status::Paid => {
            return Err(ApiError::invalid("Invoice is already paid"));
        }
        Status::Void => {
            return Err(ApiError::invalid("Voided invoices cannot be paid."));
        }
    }
    if state.invoice(&id)?.amount_remaining() == 0 {
        return call.render(&id);
    }
    if out_of_band {
        let due = state.invoice(&id)?.amount_due;
        state.invoice_mut(&id)?.paid_out_of_band = true;
        intents::cancel_for_invoice(state, &id, now);
        collect::mark_paid(state, &id, due, now)?;
        return call.render(&id);
    }
    let method = method.or_else(|| collect::method_for(state, state.invoices.get(&id)?));
    if method.is_none() {
        return Err(collect::no_payment_method());
    }
    match collect::attempt(state, &id, method.as_deref(), now)? {
        AttemptOutcome::Paid => call.render(&id),
        AttemptOutcome::Failed(error) | AttemptOutcome::ActionRequired(error) => Err(error),
    }
}

fn void(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let (id, now) = target(call)?;
    if intents::is_processing(call.state, &id) {
        return Err(ApiError::invalid(
            "You cannot void this invoice while its payment is processing.",
        ));
    }
    finalize::void(call.state, &id, now)?;
    call.render(&id)
}

fn mark_uncollectible(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let (id, now) = target(call)?;
    finalize::mark_uncollectible(call.state, &id, now)?;
    call.render(&id)
}
