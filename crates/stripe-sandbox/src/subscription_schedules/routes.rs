//! The routes of `/v1/subscription_schedules`.

use serde_json::Value;

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::list::{Page, RangeFilter};
use crate::metadata::Metadata;
use crate::state::State;
use crate::subscription_schedules::model::{EndBehavior, Schedule, Status};
use crate::subscription_schedules::{phases, transition, update};
use crate::subscriptions::cancel;
use crate::subscriptions::model::{Status as SubscriptionStatus, Subscription};

pub const ROUTES: &[Route] = &[
    post("/v1/subscription_schedules", create),
    get("/v1/subscription_schedules", list),
    get("/v1/subscription_schedules/{id}", retrieve),
    post("/v1/subscription_schedules/{id}", update::update),
    post("/v1/subscription_schedules/{id}/cancel", cancel_now),
    post("/v1/subscription_schedules/{id}/release", release),
];

/// Parameters that Stripe refuses beside `from_subscription`.
const EXCLUDED: [&str; 8] = [
    "billing_mode",
    "customer",
    "default_settings",
    "end_behavior",
    "metadata",
    "pause_schedules",
    "phases",
    "start_date",
];

/// `POST /v1/subscription_schedules`: a schedule for an existing subscription.
fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let Some(id) = params.text("from_subscription")? else {
        return Err(ApiError::unsupported(
            "from_subscription",
            "schedules that create a subscription; create the subscription first and pass it as `from_subscription`",
        ));
    };
    if let Some(excluded) = EXCLUDED.iter().find(|name| params.has(name)) {
        return Err(ApiError::bad_param(
            excluded,
            format!("You cannot set `{excluded}` if `from_subscription` is set."),
        ));
    }
    params.finish()?;
    let state = &mut *call.state;
    let subscription = state.subscription(&id, "from_subscription")?;
    check_schedulable(subscription)?;
    let now = state.now_for(&subscription.customer);
    let schedule = Schedule {
        id: String::new(),
        created_secs: now,
        customer: subscription.customer.clone(),
        subscription: id.clone(),
        currency: subscription.currency.clone(),
        mode: subscription.mode,
        status: Status::Active,
        end_behavior: EndBehavior::Release,
        phases: vec![phases::of_subscription(subscription)],
        current: 0,
        default_payment_method: subscription.default_payment_method.clone(),
        ended_secs: None,
        expiry_announced: false,
        metadata: Metadata::new(),
    };
    let schedule_id = state.ids.next("sub_sched");
    state.subscription_schedules.insert(Schedule {
        id: schedule_id.clone(),
        ..schedule
    });
    state.change_subscription(&id, now, |subscription| {
        subscription.schedule = Some(schedule_id.clone());
    })?;
    state.emit("subscription_schedule.created", &schedule_id, now);
    call.render(&schedule_id)
}

fn check_schedulable(subscription: &Subscription) -> Result<(), ApiError> {
    const PARAM: &str = "from_subscription";
    if let Some(schedule) = &subscription.schedule {
        return Err(ApiError::bad_param(
            PARAM,
            format!(
                "You cannot migrate a subscription that is already attached to a schedule: `{schedule}`."
            ),
        ));
    }
    if subscription.status.is_final() || subscription.status == SubscriptionStatus::Incomplete {
        return Err(ApiError::bad_param(
            PARAM,
            format!(
                "You cannot migrate a subscription that is in the `{}` status.",
                subscription.status.name()
            ),
        ));
    }
    if subscription.cancel_at_period_end || subscription.cancel_at.is_some() {
        return Err(ApiError::unsupported(
            PARAM,
            "a schedule for a subscription that is set to be canceled",
        ));
    }
    let own_rates = subscription
        .items
        .iter()
        .any(|item| !item.tax_rates.is_empty());
    if own_rates || !subscription.default_tax_rates.is_empty() {
        return Err(ApiError::unsupported(
            PARAM,
            "a schedule for a subscription with tax rates, which each phase would have to name",
        ));
    }
    if subscription.pending_update.is_some() {
        return Err(ApiError::unsupported(
            PARAM,
            "a schedule for a subscription with a pending update",
        ));
    }
    Ok(())
}

/// Refuses to change a schedule that has ended.
pub fn check_active(schedule: &Schedule, action: &str) -> Result<(), ApiError> {
    if schedule.status == Status::Active {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "You cannot {action} a subscription schedule that is currently in the `{}` status. It must be in one of the following statuses: `not_started`, `active`.",
        schedule.status.name()
    )))
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let schedule = call.state.schedule(&call.id())?;
    Ok(schedule.render(call.state, call.shape))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    let customer = params.text("customer")?;
    let scheduled = params.boolean("scheduled")?;
    let mut ended = Vec::new();
    for (name, status) in [
        ("canceled_at", Status::Canceled),
        ("completed_at", Status::Completed),
        ("released_at", Status::Released),
    ] {
        if params.has(name) {
            ended.push((params.range(name)?, status));
        }
    }
    params.finish()?;
    let within = |schedule: &Schedule, (range, status): &(RangeFilter, Status)| {
        schedule
            .ended_as(*status)
            .is_some_and(|at| range.contains(at))
    };
    let filter = |schedule: &Schedule| {
        created.contains(schedule.created_secs)
            && customer.as_ref().is_none_or(|id| schedule.customer == *id)
            // Every schedule here has begun.
            && scheduled != Some(true)
            && ended.iter().all(|wanted| within(schedule, wanted))
    };
    call.render_page(
        &page,
        "subscription_schedule",
        "/v1/subscription_schedules",
        call.state.subscription_schedules.iter().rev(),
        filter,
    )
}

/// The schedule in the path, if it is active, and the current time.
fn target(call: &Call<'_>, action: &str) -> Result<(Schedule, i64), ApiError> {
    let schedule = call.state.schedule(&call.id())?;
    check_active(schedule, action)?;
    let now = call.state.now_for(&schedule.customer);
    Ok((schedule.clone(), now))
}

/// Cancels a schedule and its subscription.
fn cancel_now(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let invoice_now = params.boolean("invoice_now")?.unwrap_or(true);
    let prorate = params.boolean("prorate")?.unwrap_or(true);
    params.finish()?;
    let (schedule, now) = target(call, "cancel")?;
    let state: &mut State = call.state;
    cancel::immediately(state, &schedule.subscription, prorate, invoice_now, now)?;
    call.render(&schedule.id)
}

/// Releases a subscription from its schedule.
fn release(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let keep_end = params.boolean("preserve_cancel_date")?.unwrap_or(false);
    params.finish()?;
    let (schedule, now) = target(call, "release")?;
    let state: &mut State = call.state;
    if schedule.end_behavior == EndBehavior::Cancel && !keep_end {
        state.change_subscription(&schedule.subscription, now, |subscription| {
            update::set_end(subscription, None, now);
        })?;
    }
    transition::release(state, &schedule.id, now)?;
    call.render(&schedule.id)
}
