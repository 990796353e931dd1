//! Moves subscriptions from phase to phase, and ends schedules.

use billing_domain::preview::BillingMode;

use crate::discounts::model::Discount;
use crate::error::ApiError;
use crate::ids::IdSource;
use crate::invoices::credits;
use crate::metadata::Metadata;
use crate::state::State;
use crate::subscription_schedules::model::{EndBehavior, Phase, Schedule, Status};
use crate::subscription_schedules::phases;
use crate::subscriptions::change::{self, ChangeRequest, ProrationBehavior};
use crate::subscriptions::model::{Item, Status as SubscriptionStatus, Subscription};
use crate::subscriptions::share::Share;
use crate::subscriptions::{accrued, periods, update};

/// The schedule that drives a subscription.
#[must_use]
pub fn driving<'a>(state: &'a State, subscription: &Subscription) -> Option<&'a Schedule> {
    let schedule = state
        .subscription_schedules
        .get(subscription.schedule.as_ref()?)?;
    (schedule.status == Status::Active).then_some(schedule)
}

/// The phase that begins when the subscription's period ends.
#[must_use]
pub fn at_period_end<'a>(state: &'a State, subscription: &Subscription) -> Option<&'a Phase> {
    driving(state, subscription)?
        .next_phase()
        .filter(|phase| phase.start_secs == subscription.period.end_secs())
}

/// The items of a phase. Items keep their ids as long as their price stays.
#[must_use]
pub fn items_of(
    phase: &Phase,
    subscription: &Subscription,
    ids: &mut IdSource,
    now_secs: i64,
) -> Vec<Item> {
    let of_phase = phase.items.iter().map(|wanted| {
        let kept = subscription
            .items
            .iter()
            .find(|item| item.price == wanted.price);
        let mut item = kept.cloned().unwrap_or_else(|| Item {
            id: ids.next("si"),
            price: wanted.price.clone(),
            quantity: None,
            last_debited: None,
            charged: Share::ALL,
            tax_rates: Vec::new(),
            metered_since_secs: None,
            created_secs: now_secs,
            metadata: Metadata::new(),
        });
        item.quantity = wanted.quantity;
        wanted.metadata.clone().apply(&mut item.metadata);
        item
    });
    of_phase.collect()
}

/// The discounts of a phase that are still to be redeemed, or that the
/// subscription still has.
fn discounts_of(state: &State, phase: &Phase, subscription: &Subscription) -> Vec<Discount> {
    let usable = |discount: &&Discount| {
        let known = state.discounts.get(&discount.id).is_some();
        !known || subscription.discounts.contains(discount)
    };
    phase.discounts.iter().filter(usable).cloned().collect()
}

/// Gives a subscription that begins a phase the payment method of its schedule's default
/// settings, whatever it had.
fn charge_as_scheduled(state: &State, subscription: &mut Subscription) {
    let scheduled =
        driving(state, subscription).and_then(|schedule| schedule.default_payment_method.clone());
    if scheduled.is_some() {
        subscription.default_payment_method = scheduled;
    }
}

/// The subscription as it will be in its next period, in the phase that begins
/// then.
pub fn in_next_period(
    state: &State,
    subscription: &Subscription,
    ids: &mut IdSource,
) -> Result<Subscription, ApiError> {
    let end_secs = subscription.period.end_secs();
    let mut ended = Vec::new();
    for item in &subscription.items {
        let period = periods::of_item(subscription, item, state.catalogue())?;
        if period.end_secs() == end_secs {
            ended.push(item.id.as_str());
        }
    }
    let mut next = subscription.clone();
    if let Some(phase) = at_period_end(state, subscription) {
        next.items = items_of(phase, subscription, ids, end_secs);
        next.discounts = discounts_of(state, phase, subscription);
        next.cadence = periods::shortest_cadence(&next, state.catalogue())?;
        phase.metadata.clone().apply(&mut next.metadata);
        charge_as_scheduled(state, &mut next);
        let restarts = match subscription.mode {
            BillingMode::Classic => next.cadence != subscription.cadence,
            BillingMode::Flexible => false,
        };
        if restarts || phase.anchor == Some("phase_start") {
            next.anchor_secs = end_secs;
        }
    }
    next.period = next
        .cadence
        .period_containing(next.anchor_secs, end_secs)
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    if subscription.on_trial() {
        next.status = SubscriptionStatus::Active;
    }
    let renewed = next.items.iter_mut();
    for item in renewed.filter(|item| ended.contains(&item.id.as_str())) {
        item.last_debited = None;
        item.charged = Share::ALL;
    }
    Ok(next)
}

/// Enters the next phase, whose items the subscription already has.
pub fn advance(state: &mut State, id: &str, now_secs: i64) {
    let before = state.snapshot(id);
    if let Some(schedule) = state.subscription_schedules.get_mut(id) {
        schedule.current += 1;
    }
    state.emit_update("subscription_schedule.updated", id, before, now_secs);
}

/// Enters the next phase within a period, with the phase's own prorations.
pub fn start_next(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let schedule = state.schedule(id)?;
    let subscription = schedule.subscription.clone();
    let phase = schedule.next_phase().cloned();
    advance(state, id, now_secs);
    match phase {
        Some(phase) => enter(state, &subscription, &phase, phase.behavior, now_secs),
        None => Ok(()),
    }
}

/// Gives a subscription the items of a phase, now.
pub fn enter(
    state: &mut State,
    subscription: &str,
    phase: &Phase,
    behavior: ProrationBehavior,
    now_secs: i64,
) -> Result<(), ApiError> {
    let before = state.subscription(subscription, "subscription")?.clone();
    let running = before.status.renews();
    let request = ChangeRequest {
        edits: Vec::new(),
        behavior: if running {
            behavior
        } else {
            ProrationBehavior::None
        },
        proration_secs: now_secs,
        restart: running && phase.anchor == Some("phase_start") && phase.start_secs == now_secs,
        trial_end: None,
        discounts: Some(discounts_of(state, phase, &before)),
    };
    let mut ids = state.ids.clone();
    let items = items_of(phase, &before, &mut ids, now_secs);
    let mut change = change::decide_items(&before, items, &request, state.catalogue(), now_secs)?;
    accrued::charge(state, &before, &mut change, request.behavior, now_secs)?;
    phase.metadata.clone().apply(&mut change.after.metadata);
    charge_as_scheduled(state, &mut change.after);
    credits::link_credits(state, &mut change.prorations);
    state.ids = ids;
    update::apply_by_schedule(state, &before, change, now_secs)
}

/// Fits a direct change of a subscription into the current phase of its schedule: from
/// now on the phase has the new items. Later phases stay as they are.
pub fn follow(state: &mut State, subscription: &str, now_secs: i64) -> Result<(), ApiError> {
    let subscription = state.subscription(subscription, "subscription")?;
    let Some(schedule) = driving(state, subscription) else {
        return Ok(());
    };
    let now = phases::of_subscription(subscription);
    let mut schedule = schedule.clone();
    let at = schedule.current;
    let Some(current) = schedule.phases.get(at) else {
        return Ok(());
    };
    let shown = |phase: &Phase| -> Vec<(String, Option<u64>)> {
        let items = phase.items.iter();
        items
            .map(|item| (item.price.clone(), item.quantity))
            .collect()
    };
    if shown(current) == shown(&now) {
        return Ok(());
    }
    let changed = Phase {
        items: now.items,
        start_secs: now_secs.max(current.start_secs),
        anchor: None,
        ..current.clone()
    };
    if current.start_secs < now_secs {
        schedule.phases[at].end_secs = now_secs;
        schedule.phases.insert(at + 1, changed);
        schedule.current += 1;
    } else {
        schedule.phases[at] = changed;
    }
    let id = schedule.id.clone();
    let before = state.snapshot(&id);
    state.subscription_schedules.insert(schedule);
    state.emit_update("subscription_schedule.updated", &id, before, now_secs);
    Ok(())
}

/// Ends a schedule whose last phase has ended, or that is released.
pub fn release(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let subscription = state.schedule(id)?.subscription.clone();
    end(state, id, Status::Released, now_secs);
    state.change_subscription(&subscription, now_secs, |subscription| {
        subscription.schedule = None;
    })?;
    state.emit("subscription_schedule.released", id, now_secs);
    Ok(())
}

fn end(state: &mut State, id: &str, status: Status, now_secs: i64) {
    let before = state.snapshot(id);
    if let Some(schedule) = state.subscription_schedules.get_mut(id) {
        schedule.status = status;
        schedule.ended_secs = Some(now_secs);
    }
    state.emit_update("subscription_schedule.updated", id, before, now_secs);
}

/// Ends the schedule of a subscription that has ended.
pub fn after_cancellation(state: &mut State, subscription: &str, reason: &str, now_secs: i64) {
    let driving = state
        .subscriptions
        .get(subscription)
        .and_then(|subscription| driving(state, subscription));
    let Some(schedule) = driving else {
        return;
    };
    let id = schedule.id.clone();
    let as_planned = schedule.end_behavior == EndBehavior::Cancel
        && schedule.end_secs().is_some_and(|end| end <= now_secs);
    let (status, event) = match reason {
        _ if as_planned => (Status::Completed, "subscription_schedule.completed"),
        "payment_failed" => (Status::Canceled, "subscription_schedule.aborted"),
        _ => (Status::Canceled, "subscription_schedule.canceled"),
    };
    end(state, &id, status, now_secs);
    state.emit(event, &id, now_secs);
}
