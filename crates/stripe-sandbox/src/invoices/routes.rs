//! Routes of `/v1/invoices`.

use serde_json::{Value, json};

use crate::call::{Call, Route, delete, get, post};
use crate::error::ApiError;
use crate::invoices::assemble::{self, Draft};
use crate::invoices::collect::{self, Attempt};
use crate::invoices::model::{Invoice, Status};
use crate::invoices::{finalize, lines, preview, upcoming};
use crate::list::Page;
use crate::metadata::MetadataChange;
use crate::payment_methods;
use crate::payments::intents;
use crate::validate;

/// Routes of `/v1/invoices`.
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

/// What Stripe takes here and the stand-in does not.
const LACKING: [&str; 22] = [
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
    crate::subscriptions::request::take_fixed_settings(&mut params)?;
    params.finish_lacking(&LACKING)?;
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
    let mut draft = Draft {
        customer: customer_id.clone(),
        parent: None,
        reason: "manual",
        period: (now, now),
        currency: currency.clone(),
        lines: Vec::new(),
        auto_advance,
        finalizes_at_secs: None,
    };
    if let Some(id) = subscription {
        let subscription = state.subscription(&id, "subscription")?;
        if subscription.customer != customer_id {
            return Err(ApiError::no_such("subscription", &id, "subscription"));
        }
        let lines = assemble::pending(state, subscription);
        if lines.is_empty() {
            return Err(ApiError::invalid("Nothing to invoice for subscription")
                .code("invoice_no_subscription_line_items"));
        }
        draft = Draft::for_subscription(subscription, "subscription_update", (now, now), lines);
    } else if behavior == Some("include") {
        // What was pending comes newest first; what is added later, last.
        draft.lines = state
            .invoice_items
            .iter()
            .rev()
            .filter(|item| {
                item.invoice.is_none()
                    && item.customer == customer_id
                    && item.content.subscription.is_none()
                    && item.content.currency == currency
            })
            .map(crate::invoice_items::InvoiceItem::draft_line)
            .collect();
    }
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

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let invoice = call.state.invoice(&id).map_err(named_invoice)?;
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
    params.finish_lacking(&LACKING)?;
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
    let (id, now) = target(call).map_err(named_invoice)?;
    let invoice = call.state.invoice(&id)?;
    if invoice.status != Status::Draft {
        return Err(ApiError::invalid("You can only delete draft invoices."));
    }
    if invoice.parent.is_some() {
        return Err(ApiError::invalid(
            "You can't delete invoices created by subscriptions.",
        ));
    }
    // What it billed goes with it, and is not pending again.
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

/// These routes call what is in their path `invoice`.
fn named_invoice(error: ApiError) -> ApiError {
    error.param("invoice")
}

/// Nothing goes by mail here: every invoice is charged automatically.
fn send(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    target(call).map_err(named_invoice)?;
    Err(ApiError::invalid(
        "You can only manually send an invoice if its collection method is 'send_invoice'. This Stripe stand-in has no such invoices.",
    ))
}

/// The invoice in the path, and the time it lives in.
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
    let elsewhere = params.boolean("paid_out_of_band")?.unwrap_or(false);
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
    if elsewhere {
        let due = state.invoice(&id)?.amount_due;
        state.invoice_mut(&id)?.paid_out_of_band = true;
        intents::cancel_for_invoice(state, &id, now);
        collect::settle_paid(state, &id, due, now)?;
        return call.render(&id);
    }
    let method = method.or_else(|| collect::method_for(state, state.invoices.get(&id)?));
    if method.is_none() {
        return Err(collect::no_payment_method());
    }
    match collect::attempt(state, &id, method.as_deref(), now)? {
        Attempt::Paid => call.render(&id),
        Attempt::Failed(error) | Attempt::ActionRequired(error) => Err(error),
    }
}

fn void(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let (id, now) = target(call)?;
    finalize::void(call.state, &id, now)?;
    call.render(&id)
}

fn mark_uncollectible(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let (id, now) = target(call)?;
    finalize::mark_uncollectible(call.state, &id, now)?;
    call.render(&id)
}
