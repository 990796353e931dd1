//! `POST /v1/subscription_schedules/{id}`.

use serde_json::Value;

use crate::call::Call;
use crate::discounts::model as discount;
use crate::error::ApiError;
use crate::metadata::MetadataChange;
use crate::params::Params;
use crate::payment_methods;
use crate::state::State;
use crate::subscription_schedules::model::{EndBehavior, Phase, Schedule};
use crate::subscription_schedules::request::{self, RequestedPhase};
use crate::subscription_schedules::{phases, routes, transition};
use crate::subscriptions::change::ProrationBehavior;
use crate::subscriptions::model::Subscription;
use crate::subscriptions::request::take_proration_behavior;

/// Parameters that Stripe accepts and the sandbox does not support.
const UNSUPPORTED: [&str; 1] = ["pause_schedules"];
/// Default settings that Stripe accepts and the sandbox does not support.
const UNSUPPORTED_SETTINGS: [&str; 9] = [
    "application_fee_percent",
    "automatic_tax",
    "billing_cycle_anchor",
    "billing_thresholds",
    "collection_method",
    "description",
    "invoice_settings",
    "on_behalf_of",
    "transfer_data",
];

struct Requested {
    phases: Option<Vec<RequestedPhase>>,
    end_behavior: Option<EndBehavior>,
    behavior: ProrationBehavior,
    /// The payment method of the default settings; `Some(None)` clears it.
    default_payment_method: Option<Option<String>>,
    metadata: MetadataChange,
}

impl Requested {
    fn take(mut params: Params) -> Result<Self, ApiError> {
        let requested = Self {
            phases: request::take_phases(&mut params)?,
            end_behavior: take_end_behavior(&mut params)?,
            behavior: take_proration_behavior(&mut params)?,
            default_payment_method: take_default_method(&mut params)?,
            metadata: MetadataChange::take(&mut params)?,
        };
        params.finish_rejecting(&UNSUPPORTED)?;
        Ok(requested)
    }
}

fn take_default_method(params: &mut Params) -> Result<Option<Option<String>>, ApiError> {
    let Some(mut settings) = params.map("default_settings")? else {
        return Ok(None);
    };
    let method = settings.clearable("default_payment_method")?;
    settings.finish_rejecting(&UNSUPPORTED_SETTINGS)?;
    Ok(method)
}

fn take_end_behavior(params: &mut Params) -> Result<Option<EndBehavior>, ApiError> {
    match params.choice("end_behavior", &["cancel", "none", "release", "renew"])? {
        None => Ok(None),
        Some("release") => Ok(Some(EndBehavior::Release)),
        Some("cancel") => Ok(Some(EndBehavior::Cancel)),
        Some(other) => Err(ApiError::unsupported(
            "end_behavior",
            &format!("the end behavior `{other}`"),
        )),
    }
}

/// `POST /v1/subscription_schedules/{id}`.
pub fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let requested = Requested::take(call.take_params())?;
    let id = call.id();
    let state = &mut *call.state;
    let mut schedule = state.schedule(&id)?.clone();
    routes::check_active(&schedule, "update")?;
    let now = state.now_for(&schedule.customer);
    requested
        .metadata
        .check_room(&schedule.metadata, "metadata")?;
    requested.metadata.apply(&mut schedule.metadata);
    if let Some(method) = requested.default_payment_method {
        if let Some(method) = &method {
            let param = "default_settings[default_payment_method]";
            payment_methods::check_owner(state, method, &schedule.customer, param)?;
        }
        schedule.default_payment_method = method;
    }
    let old_start = schedule.current_phase().map(|phase| phase.start_secs);
    let mut ids = state.ids.clone();
    if let Some(given) = requested.phases {
        let (phases, current) = phases::lay_out(state, &schedule, &given, &mut ids, now)?;
        schedule.phases = phases;
        schedule.current = current;
        schedule.expiry_announced = false;
    }
    schedule.end_behavior = requested.end_behavior.unwrap_or(schedule.end_behavior);
    let subscription = state.subscription(&schedule.subscription, "subscription")?;
    let entered = changed_phase(&schedule, subscription).map(|phase| {
        // A phase that begins with this request says itself how it is charged.
        let begins = Some(phase.start_secs) != old_start;
        let behavior = if begins {
            phase.behavior
        } else {
            requested.behavior
        };
        (phase.clone(), behavior)
    });
    state.ids = ids;
    record(state, schedule, entered, now)?;
    call.render(&id)
}

/// The current phase, if the subscription does not have its items or discounts.
fn changed_phase<'a>(schedule: &'a Schedule, subscription: &Subscription) -> Option<&'a Phase> {
    let phase = schedule.current_phase()?;
    let same = phase.items.len() == subscription.items.len()
        && phase.items.iter().all(|wanted| {
            let mut items = subscription.items.iter();
            items.any(|item| item.price == wanted.price && item.quantity == wanted.quantity)
        });
    let same = same && discount::ids(&phase.discounts) == discount::ids(&subscription.discounts);
    (!same).then_some(phase)
}

fn record(
    state: &mut State,
    schedule: Schedule,
    entered: Option<(Phase, ProrationBehavior)>,
    now_secs: i64,
) -> Result<(), ApiError> {
    let (id, subscription) = (schedule.id.clone(), schedule.subscription.clone());
    let before = state.snapshot(&id);
    let ends_at = schedule
        .end_secs()
        .filter(|_| schedule.end_behavior == EndBehavior::Cancel);
    if let Some((phase, behavior)) = entered {
        transition::enter(state, &subscription, &phase, behavior, now_secs)?;
    }
    state.subscription_schedules.insert(schedule);
    state.emit_update("subscription_schedule.updated", &id, before, now_secs);
    state.change_subscription(&subscription, now_secs, |subscription| {
        set_end(subscription, ends_at, now_secs);
    })
}

/// Sets or clears the cancellation that a schedule sets on its subscription.
pub fn set_end(subscription: &mut Subscription, ends_at: Option<i64>, now_secs: i64) {
    subscription.cancel_at = ends_at;
    if ends_at.is_some() {
        subscription.canceled_at.get_or_insert(now_secs);
        subscription.cancel_reason = Some("cancellation_requested");
    } else {
        subscription.canceled_at = None;
        subscription.cancel_reason = None;
    }
}
