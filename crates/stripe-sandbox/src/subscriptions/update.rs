//! `POST /v1/subscriptions/{id}`: applies a change once it is decided.

use serde_json::Value;

use crate::call::Call;
use crate::discounts::model::Discount;
use crate::discounts::redeem::{self, DiscountChange, Redeemer};
use crate::error::ApiError;
use crate::ids::IdSource;
use crate::invoice_items;
use crate::invoices::{assemble, collect, credits, finalize};
use crate::metadata::MetadataChange;
use crate::params::Params;
use crate::payment_methods;
use crate::state::State;
use crate::subscription_schedules::transition;
use crate::subscriptions::change::{self, Change, ChangeRequest, Invoicing};
use crate::subscriptions::create::MAX_DESCRIPTION_CHARS;
use crate::subscriptions::model::{MissingPaymentMethod, Status, Subscription};
use crate::subscriptions::request::{self, CancellationDetails, PaymentBehavior};
use crate::subscriptions::{accrued, added_items, cancel, edit, payment, pending, periods};
use crate::taxes::request::TaxChange;

/// Parameters that Stripe accepts and the sandbox does not support.
const UNSUPPORTED: [&str; 13] = [
    "application_fee_percent",
    "billing_cycle_anchor_config",
    "billing_schedules",
    "billing_thresholds",
    "coupon",
    "default_source",
    "invoice_settings",
    "on_behalf_of",
    "pause_collection",
    "pending_invoice_item_interval",
    "promotion_code",
    "transfer_data",
    "trial_from_plan",
];

/// The settings that a request changes, apart from items and timing.
#[derive(Debug, Default)]
struct ChangedSettings {
    cancel_at_period_end: Option<bool>,
    cancel_at: Option<Option<i64>>,
    cancellation: CancellationDetails,
    default_payment_method: Option<String>,
    save_method: Option<bool>,
    missing_payment_method: Option<MissingPaymentMethod>,
    description: Option<Option<String>>,
    metadata: MetadataChange,
}

impl ChangedSettings {
    fn take(params: &mut Params) -> Result<Self, ApiError> {
        request::take_fixed_settings(params)?;
        Ok(Self {
            cancel_at_period_end: params.boolean("cancel_at_period_end")?,
            cancel_at: take_cancel_at(params)?,
            cancellation: CancellationDetails::take(params)?,
            default_payment_method: params.text("default_payment_method")?,
            save_method: request::take_payment_settings(params)?,
            missing_payment_method: request::take_trial_settings(params)?,
            description: params.clearable_up_to("description", MAX_DESCRIPTION_CHARS)?,
            metadata: MetadataChange::take(params)?,
        })
    }

    /// Refuses settings that cannot be part of a pending update.
    fn check_pending(&self, behavior: PaymentBehavior) -> Result<(), ApiError> {
        let others = [
            ("cancel_at", self.cancel_at.is_some()),
            ("cancel_at_period_end", self.cancel_at_period_end.is_some()),
            (
                "default_payment_method",
                self.default_payment_method.is_some(),
            ),
            ("description", self.description.is_some()),
            ("payment_settings", self.save_method.is_some()),
            ("trial_settings", self.missing_payment_method.is_some()),
        ];
        match others.iter().find(|(_, given)| *given) {
            Some((name, _)) if behavior == PaymentBehavior::PendingIfIncomplete => {
                Err(not_if_pending(name))
            }
            _ => Ok(()),
        }
    }

    fn apply(self, subscription: &mut Subscription, now_secs: i64) {
        if let Some(ends) = self.cancel_at_period_end {
            subscription.cancel_at_period_end = ends;
            if ends {
                subscription.cancel_at = None;
            }
        }
        if let Some(at) = self.cancel_at {
            subscription.cancel_at = at;
            subscription.cancel_at_period_end &= at.is_none();
        }
        if subscription.cancel_at_period_end || subscription.cancel_at.is_some() {
            subscription.canceled_at.get_or_insert(now_secs);
            subscription.cancel_reason = Some("cancellation_requested");
        } else if !subscription.status.is_final() {
            subscription.canceled_at = None;
            subscription.cancel_reason = None;
        }
        self.cancellation.apply(subscription);
        if let Some(method) = self.default_payment_method {
            subscription.default_payment_method = Some(method);
        }
        if let Some(save) = self.save_method {
            subscription.save_default_payment_method = save;
        }
        if let Some(behavior) = self.missing_payment_method {
            subscription.missing_payment_method = behavior;
        }
        if let Some(description) = self.description {
            subscription.description = description;
        }
        self.metadata.apply(&mut subscription.metadata);
    }
}

fn not_if_pending(name: &str) -> ApiError {
    ApiError::bad_param(
        name,
        format!(
            "You cannot pass `{name}` when `payment_behavior` is set to `pending_if_incomplete`."
        ),
    )
}

/// The discounts after a change, if it changes them.
pub fn resolve_discounts(
    state: &State,
    before: &Subscription,
    request: &ChangeRequest,
    discounts: &DiscountChange,
    ids: &mut IdSource,
    now_secs: i64,
) -> Result<Option<Vec<Discount>>, ApiError> {
    if discounts.is_keep() {
        return Ok(None);
    }
    let catalogue = state.catalogue();
    let items = edit::edit_items(
        before,
        &request.edits,
        catalogue,
        &mut ids.clone(),
        now_secs,
    )?;
    let after = Subscription {
        items,
        ..before.clone()
    };
    let redeemer = Redeemer {
        customer: &before.customer,
        subscription: Some(&before.id),
        current: &before.discounts,
        currency: Some(&before.currency),
        amount: Some(change::full_amount(&after, catalogue)?),
    };
    redeem::resolve(state, discounts, &redeemer, ids, now_secs)
}

/// Takes `cancel_at`; `Some(None)` clears it.
pub fn take_cancel_at(params: &mut Params) -> Result<Option<Option<i64>>, ApiError> {
    let name = params.name("cancel_at");
    match params.clearable("cancel_at")? {
        Some(Some(text)) if text == "min_period_end" || text == "max_period_end" => Err(
            ApiError::unsupported(&name, "`cancel_at` by period; set it to a time"),
        ),
        None => Ok(None),
        Some(None) => Ok(Some(None)),
        Some(Some(text)) => text
            .parse()
            .map(|at| Some(Some(at)))
            .map_err(|_| ApiError::bad_param(&name, format!("Invalid integer: {text}"))),
    }
}

/// Refuses a `cancel_at` in the past.
pub fn check_cancel_at(cancel_at: Option<i64>, now_secs: i64) -> Result<(), ApiError> {
    match cancel_at {
        Some(at) if at <= now_secs => Err(ApiError::bad_param(
            "cancel_at",
            "The subscription `cancel_at` date must be in the future.",
        )),
        _ => Ok(()),
    }
}

/// Takes items, proration and timing, for changes and previews.
pub fn take_change(
    params: &mut Params,
    subscription: &Subscription,
    now_secs: i64,
) -> Result<ChangeRequest, ApiError> {
    let name = params.name("proration_date");
    let proration_secs = params.integer("proration_date")?.unwrap_or(now_secs);
    let period = &subscription.period;
    if proration_secs < period.start_secs() || proration_secs > period.end_secs() {
        return Err(ApiError::bad_param(
            &name,
            "The proration date must lie within the subscription's current period.",
        ));
    }
    Ok(ChangeRequest {
        edits: request::take_items(params)?,
        behavior: request::take_proration_behavior(params)?,
        proration_secs,
        restart: params.choice("billing_cycle_anchor", &["now", "unchanged"])? == Some("now"),
        trial_end: request::take_trial_end(params)?,
        discounts: None,
    })
}

/// `POST /v1/subscriptions/{id}`.
pub fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let params = call.take_params();
    let id = call.id();
    apply_params(call.state, &id, params)?;
    call.render(&id)
}

/// Takes and applies a change. The routes of subscription items use it too.
pub fn apply_params(state: &mut State, id: &str, mut params: Params) -> Result<(), ApiError> {
    let before = state.subscription(id, "id")?.clone();
    let now = state.now_for(&before.customer);
    let mut request = take_change(&mut params, &before, now)?;
    let discounts = DiscountChange::take(&mut params)?;
    let tax = TaxChange::take(&mut params)?;
    let settings = ChangedSettings::take(&mut params)?;
    let behavior = request::take_payment_behavior(&mut params)?;
    let added = added_items::take(&mut params, state, &before, now)?;
    params.finish_rejecting(&UNSUPPORTED)?;
    check_cancel_at(settings.cancel_at.flatten(), now)?;
    check_changeable(state, &before, &request, &settings)?;
    let mut ids = state.ids.clone();
    request.discounts = resolve_discounts(state, &before, &request, &discounts, &mut ids, now)?;
    if let Some(schedule) = &before.schedule {
        check_scheduled(schedule, &request, &settings)?;
    }
    let mut change = change::decide(&before, &request, state.catalogue(), &mut ids, now)?;
    accrued::charge(state, &before, &mut change, request.behavior, now)?;
    change.prorations.extend(added);
    settings.check_pending(behavior)?;
    let at_period_end = settings.cancel_at_period_end == Some(true);
    periods::check_end(&change.after, at_period_end, state.catalogue())?;
    if !tax.is_keep() && behavior == PaymentBehavior::PendingIfIncomplete {
        return Err(not_if_pending("automatic_tax"));
    }
    settings.metadata.check_room(&before.metadata, "metadata")?;
    let also = pending::Also {
        metadata: settings.metadata.pairs(),
        discounts: request.discounts.clone(),
    };
    settings.apply(&mut change.after, now);
    tax.apply(state, &mut change.after)?;
    credits::link_credits(state, &mut change.prorations);
    let ends_trial_without_payment_method = before.on_trial()
        && !change.after.on_trial()
        && payment::payment_method_of(state, &change.after).is_none();
    if ends_trial_without_payment_method && behavior != PaymentBehavior::DefaultIncomplete {
        state.ids = ids;
        return end_trial_without_payment_method(state, &before, change, behavior, now);
    }
    if behavior == PaymentBehavior::ErrorIfIncomplete {
        check_payable(state, &before, &change, now)?;
    }
    state.ids = ids;
    if request.changes_items_or_timing() && pending::discard(state, id, now)? {
        change.after.pending_update = None;
    }
    if behavior == PaymentBehavior::PendingIfIncomplete
        && pending::defer_unless_paid(state, &before, &change, also, now)?
    {
        return Ok(());
    }
    apply(state, &before, change, behavior, now)?;
    transition::follow(state, id, now)
}

/// Ends a trial on request when there is no payment method. The configured
/// behavior applies, but the request fails if an invoice would have to be paid.
fn end_trial_without_payment_method(
    state: &mut State,
    before: &Subscription,
    change: Change,
    behavior: PaymentBehavior,
    now_secs: i64,
) -> Result<(), ApiError> {
    let id = before.id.clone();
    let end_behavior = change.after.missing_payment_method;
    if end_behavior == MissingPaymentMethod::CreateInvoice {
        let draft = assemble::immediate(state, before, &change.after, true, Vec::new(), now_secs)?;
        if payment::due(state, &draft)? > 0 {
            return Err(collect::no_payment_method());
        }
        return apply(state, before, change, behavior, now_secs);
    }
    let pauses = end_behavior == MissingPaymentMethod::Pause;
    let snapshot = state.snapshot(&id);
    state.subscriptions.insert(Subscription {
        period: before.period,
        anchor_secs: before.anchor_secs,
        status: if pauses {
            Status::Paused
        } else {
            before.status
        },
        ..change.after
    });
    state.emit_update("customer.subscription.updated", &id, snapshot, now_secs);
    if pauses {
        state.emit("customer.subscription.paused", &id, now_secs);
        return Ok(());
    }
    cancel::now(state, &id, "cancellation_requested", now_secs)
}

fn check_changeable(
    state: &State,
    before: &Subscription,
    request: &ChangeRequest,
    settings: &ChangedSettings,
) -> Result<(), ApiError> {
    if before.status.is_final() {
        return Err(ApiError::invalid(
            "A canceled subscription can only update its cancellation_details and metadata.",
        ));
    }
    let changes_items = !request.edits.is_empty() || request.restart;
    if before.status == Status::Incomplete && changes_items {
        return Err(ApiError::bad_param(
            "items",
            "The items of an incomplete subscription cannot be changed.",
        ));
    }
    if before.status == Status::Incomplete && settings.cancel_at_period_end == Some(true) {
        return Err(ApiError::invalid(
            "An incomplete subscription cannot be set to end with its period; cancel it instead.",
        )
        .code("status_transition_invalid"));
    }
    match &settings.default_payment_method {
        Some(method) => {
            payment_methods::check_owner(state, method, &before.customer, "default_payment_method")
        }
        None => Ok(()),
    }
}

/// Refuses what the schedule of a subscription decides.
fn check_scheduled(
    schedule: &str,
    request: &ChangeRequest,
    settings: &ChangedSettings,
) -> Result<(), ApiError> {
    if settings.cancel_at_period_end.is_some() || settings.cancel_at.is_some() {
        return Err(cancellation_is_scheduled(schedule));
    }
    if request.changes_timing() {
        return Err(change_beside_schedule("billing_cycle_anchor"));
    }
    if request.discounts.is_some() {
        return Err(change_beside_schedule("discounts"));
    }
    Ok(())
}

/// The error for a cancellation that the schedule would have to make.
#[must_use]
pub fn cancellation_is_scheduled(schedule: &str) -> ApiError {
    ApiError::invalid(format!(
        "The subscription is managed by the subscription schedule `{schedule}`, and updating any cancelation behavior directly is not allowed. Please update the schedule instead."
    ))
}

/// The error for a change of timing or discounts beside a schedule.
fn change_beside_schedule(param: &str) -> ApiError {
    ApiError::unsupported(
        param,
        "changes of a subscription that has a schedule; change the phases of the schedule, or release it first",
    )
}

/// Refuses a change whose invoice would not be paid.
fn check_payable(
    state: &mut State,
    before: &Subscription,
    change: &Change,
    now_secs: i64,
) -> Result<(), ApiError> {
    if change.invoice == Invoicing::Later {
        return Ok(());
    }
    let full = change.invoice == Invoicing::FullPeriod;
    let draft = assemble::immediate(
        state,
        before,
        &change.after,
        full,
        change.prorations.clone(),
        now_secs,
    )?;
    if payment::due(state, &draft)? == 0 {
        return Ok(());
    }
    let method =
        payment::payment_method_of(state, &change.after).ok_or_else(collect::no_payment_method)?;
    payment::refuse_unless_approved(state, &method)
}

fn apply(
    state: &mut State,
    before: &Subscription,
    change: Change,
    behavior: PaymentBehavior,
    now_secs: i64,
) -> Result<(), ApiError> {
    let id = before.id.clone();
    let Some(invoice) = record(state, before, change, now_secs)? else {
        return Ok(());
    };
    finalize::finalize(state, &invoice, now_secs)?;
    if state.invoice(&invoice)?.amount_remaining() == 0 {
        return Ok(());
    }
    if behavior == PaymentBehavior::DefaultIncomplete {
        return state.change_subscription(&id, now_secs, |subscription| {
            subscription.status = Status::PastDue;
        });
    }
    payment::pay(state, &invoice, behavior, now_secs)
}

/// Applies a change that a schedule makes. Its invoice stays a draft for an
/// hour, as that of a renewal does.
pub fn apply_by_schedule(
    state: &mut State,
    before: &Subscription,
    change: Change,
    now_secs: i64,
) -> Result<(), ApiError> {
    if let Some(invoice) = record(state, before, change, now_secs)? {
        let finalizes_at_secs = now_secs + state.config.draft_secs;
        state.invoice_mut(&invoice)?.finalizes_at_secs = Some(finalizes_at_secs);
    }
    Ok(())
}

/// Records the change and drafts its invoice, if it has one.
fn record(
    state: &mut State,
    before: &Subscription,
    change: Change,
    now_secs: i64,
) -> Result<Option<String>, ApiError> {
    let id = before.id.clone();
    let snapshot = state.snapshot(&id);
    for content in change.prorations {
        invoice_items::record(state, &before.customer, content, now_secs);
    }
    let after = change.after.clone();
    state.subscriptions.insert(change.after);
    redeem::record(state, &before.discounts, &after.discounts, now_secs);
    let invoice = match change.invoice {
        Invoicing::Later => None,
        Invoicing::Pending | Invoicing::FullPeriod => {
            let full = change.invoice == Invoicing::FullPeriod;
            let draft = assemble::immediate(state, before, &after, full, Vec::new(), now_secs)?;
            Some(finalize::record(state, draft, now_secs)?)
        }
    };
    state.emit_update("customer.subscription.updated", &id, snapshot, now_secs);
    Ok(invoice)
}
