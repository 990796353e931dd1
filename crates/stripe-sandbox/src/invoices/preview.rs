//! `POST /v1/invoices/create_preview`: the invoice that a change would produce.
//! It uses the same decision and assembly as the change itself and records
//! nothing.

use serde_json::Value;

use crate::call::Call;
use crate::customers::Customer;
use crate::discounts::redeem::DiscountChange;
use crate::error::ApiError;
use crate::ids::IdSource;
use crate::invoice_items;
use crate::invoices::assemble::{self, Draft, DraftLine};
use crate::invoices::model::{Invoice, LineContent, apply_balance};
use crate::invoices::{adjust, credits};
use crate::metadata::MetadataChange;
use crate::params::Params;
use crate::state::State;
use crate::subscription_schedules::transition;
use crate::subscriptions::change::{self, Invoicing, ProrationBehavior};
use crate::subscriptions::model::{Status, Subscription};
use crate::subscriptions::{accrued, cancel, create, periods, request, update};
use crate::taxes::request::TaxChange;
use crate::validate;

/// Parameters that Stripe accepts and the sandbox does not support.
const UNSUPPORTED: [&str; 5] = [
    "customer_account",
    "customer_details",
    "issuer",
    "on_behalf_of",
    "schedule_details",
];
/// The number of previews kept so that their lines can be paged.
const MAX_KEPT: usize = 100;

pub fn create_preview(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let params = call.take_params();
    let version = call.version.clone();
    let invoice = preview(call.state, params, &version)?;
    Ok(keep(call, invoice))
}

/// Returns the preview and keeps it, so that its lines can be paged.
pub fn keep(call: &mut Call<'_>, invoice: Invoice) -> Value {
    let response = invoice.render(call.state, call.shape);
    call.state.previews.push_back(invoice);
    if call.state.previews.len() > MAX_KEPT {
        call.state.previews.pop_front();
    }
    response
}

/// Computes a preview. A new subscription needs no customer: whoever is not known
/// yet has no balance, no discount and no pending items.
pub fn preview(state: &mut State, mut params: Params, version: &str) -> Result<Invoice, ApiError> {
    let known = ["customer", "subscription", "schedule"];
    if known.iter().any(|name| params.has(name)) || !params.has("subscription_details") {
        return compute(state, params, version);
    }
    let customer = "cus_unknown";
    let nobody = Customer::new(customer.to_owned(), state.wall_secs);
    state.customers.insert(nobody);
    params.put("customer", customer);
    let computed = compute(state, params, version);
    state.customers.remove(customer);
    computed.map(|invoice| Invoice {
        customer: String::new(),
        ..invoice
    })
}

fn compute(state: &mut State, mut params: Params, version: &str) -> Result<Invoice, ApiError> {
    let customer = params.text("customer")?;
    let mut subscription = params.text("subscription")?;
    if let Some(schedule) = params.text("schedule")? {
        subscription = Some(of_schedule(state, &schedule, subscription)?);
    }
    params.choice("preview_mode", &["next"])?;
    let currency = params
        .text("currency")?
        .map(|text| validate::currency("currency", &text))
        .transpose()?;
    let mut tax = TaxChange::take_automatic_only(&mut params)?;
    let mut details = params
        .map("subscription_details")?
        .unwrap_or_else(|| Params::empty("subscription_details"));
    tax.take_rates(&mut details)?;
    let extras = params.list("invoice_items")?.unwrap_or_default();
    let discounts = DiscountChange::take(&mut params)?;
    params.finish_rejecting(&UNSUPPORTED)?;
    // Draw ids from a copy, so that a preview does not affect later ids.
    let mut ids = state.ids.clone();
    // An empty list keeps out the customer's discount as well.
    let inherits_none = matches!(discounts, DiscountChange::Clear);
    let (draft, owner) = match subscription {
        Some(id) => {
            let customer = customer.as_deref();
            for_subscription(state, &id, customer, details, (&discounts, &tax), &mut ids)?
        }
        None => {
            let customer = customer.ok_or_else(|| ApiError::missing_param("customer"))?;
            (
                for_new_subscription(
                    state,
                    customer.clone(),
                    currency.clone(),
                    (discounts, tax),
                    details,
                    version,
                    &mut ids,
                )?,
                customer,
            )
        }
    };
    if currency.is_some_and(|currency| currency != draft.currency) {
        return Err(ApiError::bad_param(
            "currency",
            "The currency does not match the subscription's.",
        ));
    }
    let draft = with_extras(state, draft, extras, &owner)?;
    let now = state.now_for(&owner);
    let balance = state.customer(&owner, "customer")?.balance;
    let mut invoice = adjust::prepare(state, draft, &mut ids, now);
    if inherits_none {
        invoice.discounts.clear();
        adjust::adjust(state, &mut invoice);
    }
    // Draw the preview's own id from the real source, so that each preview has
    // a distinct one.
    invoice.id = state.ids.next("upcoming_in");
    let applied = apply_balance(invoice.total(), balance, &invoice.currency);
    invoice.starting_balance = balance;
    invoice.amount_due = applied.amount_due;
    invoice.ending_balance = Some(applied.ending_balance);
    Ok(invoice)
}

/// The subscription of a schedule.
fn of_schedule(state: &State, id: &str, subscription: Option<String>) -> Result<String, ApiError> {
    let schedule = state
        .schedule(id)
        .map_err(|_| ApiError::no_such("subscription_schedule", id, "schedule"))?;
    if subscription.is_some_and(|named| named != schedule.subscription) {
        return Err(ApiError::bad_param(
            "schedule",
            "The schedule does not belong to the subscription.",
        ));
    }
    Ok(schedule.subscription.clone())
}

fn with_extras(
    state: &State,
    mut draft: Draft,
    extras: Vec<Params>,
    owner: &str,
) -> Result<Draft, ApiError> {
    let now = state.now_for(owner);
    for mut params in extras {
        let request = invoice_items::take_request(&mut params, state, now)?;
        params.finish_rejecting(&invoice_items::UNSUPPORTED)?;
        draft.lines.push(DraftLine::from(request.content));
    }
    Ok(draft)
}

fn for_subscription(
    state: &State,
    id: &str,
    customer: Option<&str>,
    mut details: Params,
    (discounts, tax): (&DiscountChange, &TaxChange),
    ids: &mut IdSource,
) -> Result<(Draft, String), ApiError> {
    let before = state.subscription(id, "subscription")?;
    if customer.is_some_and(|customer| before.customer != customer) {
        return Err(ApiError::no_such("subscription", id, "subscription"));
    }
    if before.status.is_final() {
        return Err(none_upcoming(&before.customer));
    }
    let now = state.now_for(&before.customer);
    let dated = details.has("proration_date") || details.has("items");
    let cancel_now = details.boolean("cancel_now")?.unwrap_or(false);
    let ends = details.boolean("cancel_at_period_end")?;
    periods::check_end(before, ends == Some(true), state.catalogue())?;
    let cancel_at = update::take_cancel_at(&mut details)?;
    if let (Some(schedule), true) = (&before.schedule, ends.is_some() || cancel_at.is_some()) {
        return Err(update::cancellation_is_scheduled(schedule));
    }
    update::check_cancel_at(cancel_at.flatten(), now)?;
    let metadata = MetadataChange::take(&mut details)?;
    let mut request = update::take_change(&mut details, before, now)?;
    details.finish()?;
    request.discounts = update::resolve_discounts(state, before, &request, discounts, ids, now)?;
    let mut draft = if cancel_now {
        for_cancellation(state, before, request.behavior, now)?
    } else {
        let mut change = change::decide(before, &request, state.catalogue(), ids, now)?;
        accrued::charge(state, before, &mut change, request.behavior, now)?;
        credits::link_credits(state, &mut change.prorations);
        tax.apply(state, &mut change.after)?;
        if let Some(at) = cancel_at {
            change.after.cancel_at = at;
        }
        match change.invoice {
            Invoicing::Later => {
                next_renewal(state, before, change.after, change.prorations, ends, ids)?
            }
            Invoicing::Pending | Invoicing::FullPeriod => {
                let full = change.invoice == Invoicing::FullPeriod;
                assemble::immediate(state, before, &change.after, full, change.prorations, now)?
            }
        }
    };
    if let Some(parent) = &mut draft.parent {
        metadata.apply(&mut parent.metadata);
        parent.proration_secs = dated.then_some(request.proration_secs);
    }
    Ok((draft, before.customer.clone()))
}

/// The next renewal invoice, including the change.
fn next_renewal(
    state: &State,
    before: &Subscription,
    after: Subscription,
    prorations: Vec<LineContent>,
    ends: Option<bool>,
    ids: &mut IdSource,
) -> Result<Draft, ApiError> {
    let period_end = after.period.end_secs();
    let at_secs = after.cancel_at.unwrap_or(period_end).min(period_end);
    let ends = ends.unwrap_or(after.cancel_at_period_end)
        || after.cancel_at.is_some_and(|at| at <= period_end);
    let renews = matches!(
        before.status,
        Status::Active | Status::Trialing | Status::PastDue
    );
    if ends || !renews {
        let draft = cancel::final_invoice(state, before, prorations, at_secs)?;
        return if draft.lines.is_empty() {
            Err(none_upcoming(&before.customer))
        } else {
            Ok(draft)
        };
    }
    // Usage is charged at the prices in effect when the period ends.
    let next = transition::in_next_period(state, &after, ids)?;
    assemble::renewal(state, &after, &next, prorations)
}

fn for_cancellation(
    state: &State,
    before: &Subscription,
    behavior: ProrationBehavior,
    now_secs: i64,
) -> Result<Draft, ApiError> {
    let mut credits = if behavior == ProrationBehavior::None || before.on_trial() {
        Vec::new()
    } else {
        cancel::unused_time(before, state.catalogue(), now_secs)?
    };
    credits::link_credits(state, &mut credits);
    let draft = cancel::final_invoice(state, before, credits, now_secs)?;
    if draft.lines.is_empty() {
        Err(none_upcoming(&before.customer))
    } else {
        Ok(draft)
    }
}

fn for_new_subscription(
    state: &State,
    customer: String,
    currency: Option<String>,
    (discounts, tax): (DiscountChange, TaxChange),
    mut details: Params,
    version: &str,
    ids: &mut IdSource,
) -> Result<Draft, ApiError> {
    state.customer(&customer, "customer")?;
    if !details.has("items") {
        return Err(none_upcoming(&customer));
    }
    let now = state.now_for(&customer);
    // A subscription that has not begun has nothing to prorate.
    request::take_proration_behavior(&mut details)?;
    let mut new = create::take_new(&mut details, customer, version, now)?;
    new.currency = currency;
    new.discounts = discounts;
    new.tax = tax;
    details.finish()?;
    let subscription = create::build(state, new, ids, now)?;
    create::first_invoice(state, &subscription)
}

fn none_upcoming(customer: &str) -> ApiError {
    let mut error = ApiError::invalid(format!("No upcoming invoices for customer: {customer}"))
        .code("invoice_upcoming_none");
    error.status = 404;
    error
}
