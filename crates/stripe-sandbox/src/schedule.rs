//! Everything that happens as time passes: renewals, trial ends, finalization
//! of drafts, payment retries.
//!
//! One function finds the next due event and another performs it. The clock is
//! set to the time of each event, so that the resulting events carry it.

use crate::checkout::complete;
use crate::checkout::model::Status as SessionStatus;
use crate::discounts::{redeem, routes as discounts};
use crate::error::ApiError;
use crate::invoices::assemble;
use crate::invoices::model::{Invoice, Status as InvoiceStatus, apply_balance};
use crate::invoices::{adjust, collect, finalize};
use crate::shape::Shape;
use crate::state::{Origin, State};
use crate::store::Keyed;
use crate::subscription_schedules::model::{EndBehavior, Schedule, Status as ScheduleStatus};
use crate::subscription_schedules::transition;
use crate::subscriptions::model::{MissingPaymentMethod, Status, Subscription};
use crate::subscriptions::{cancel, payment, pending, status};

const DAY_SECS: i64 = 86_400;
/// How long a first payment may take.
const INCOMPLETE_SECS: i64 = 23 * 3_600;
/// How long before its end a schedule is announced to expire.
const SCHEDULE_NOTICE_SECS: i64 = 7 * DAY_SECS;

/// Something that is due. The order applies to events due in the same second.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Finalize(String),
    Retry(String),
    AnnounceTrialEnd(String),
    AnnounceRenewal(String),
    AnnounceScheduleEnd(String),
    Expire(String),
    ExpireCheckout(String),
    Cancel(String),
    DiscardPendingUpdate(String),
    EndDiscount(String),
    EndCustomerDiscount(String),
    StartPhase(String),
    EndPeriod(String),
    ReleaseSchedule(String),
}

/// Performs everything due until `until_secs` on a test clock, or on the wall
/// clock if there is none.
pub fn run(state: &mut State, clock: Option<&str>, until_secs: i64) -> Result<(), ApiError> {
    // These events are caused by time, not by the request that advanced it.
    let origin = std::mem::take(&mut state.origin);
    let wall_secs = state.wall_secs;
    let mut outcome = Ok(());
    while let Some((at_secs, due)) = next_due(state, clock, until_secs) {
        set_time(state, clock, at_secs);
        outcome = perform(state, due, at_secs);
        if outcome.is_err() {
            break;
        }
    }
    state.wall_secs = wall_secs;
    state.origin = origin;
    outcome
}

fn set_time(state: &mut State, clock: Option<&str>, at_secs: i64) {
    match clock.and_then(|id| state.test_clocks.get_mut(id)) {
        Some(clock) => clock.frozen_secs = clock.frozen_secs.max(at_secs),
        None => state.wall_secs = at_secs,
    }
}

fn next_due(state: &State, clock: Option<&str>, until_secs: i64) -> Option<(i64, Due)> {
    let on_clock = |customer: &str| {
        state
            .customers
            .get(customer)
            .is_some_and(|customer| customer.test_clock.as_deref() == clock)
    };
    let invoices = state
        .invoices
        .iter()
        .filter(|invoice| on_clock(&invoice.customer))
        .filter_map(due_for_invoice);
    let subscriptions = state
        .subscriptions
        .iter()
        .filter(|subscription| !subscription.status.is_final() && on_clock(&subscription.customer))
        .flat_map(|subscription| due_for_subscription(state, subscription));
    let schedules = state
        .subscription_schedules
        .iter()
        .filter(|schedule| {
            schedule.status == ScheduleStatus::Active && on_clock(&schedule.customer)
        })
        .flat_map(|schedule| due_for_schedule(state, schedule));
    let discounts = state.customers.iter().filter_map(|customer| {
        let end_secs = customer.discount.as_ref()?.end_secs?;
        let id = customer.id();
        (!customer.deleted && on_clock(id))
            .then(|| (end_secs, Due::EndCustomerDiscount(id.to_owned())))
    });
    // Checkout sessions live on the wall clock.
    let sessions = state.checkout_sessions.iter().filter_map(|session| {
        let is_open = clock.is_none() && session.status == SessionStatus::Open;
        is_open.then(|| {
            (
                session.expires_secs,
                Due::ExpireCheckout(session.id.clone()),
            )
        })
    });
    invoices
        .chain(sessions)
        .chain(subscriptions)
        .chain(schedules)
        .chain(discounts)
        .filter(|(at_secs, _)| *at_secs <= until_secs)
        .min()
}

fn due_for_invoice(invoice: &Invoice) -> Option<(i64, Due)> {
    match invoice.status {
        InvoiceStatus::Draft => Some((
            invoice.finalizes_at_secs?,
            Due::Finalize(invoice.id.clone()),
        )),
        InvoiceStatus::Open => Some((invoice.next_attempt_secs?, Due::Retry(invoice.id.clone()))),
        _ => None,
    }
}

/// A phase that begins with a billing period is started by its renewal.
fn due_for_schedule(state: &State, schedule: &Schedule) -> Vec<(i64, Due)> {
    let (Some(phase), Some(subscription)) = (
        schedule.current_phase(),
        state.subscriptions.get(&schedule.subscription),
    ) else {
        return Vec::new();
    };
    let id = || schedule.id.clone();
    if let Some(next) = schedule.next_phase() {
        let with_renewal =
            subscription.status.renews() && subscription.period.end_secs() == next.start_secs;
        return (!with_renewal)
            .then(|| (next.start_secs, Due::StartPhase(id())))
            .into_iter()
            .collect();
    }
    let mut due = Vec::new();
    let notice_secs = phase.end_secs - SCHEDULE_NOTICE_SECS;
    if !schedule.expiry_announced && notice_secs >= phase.start_secs {
        due.push((notice_secs, Due::AnnounceScheduleEnd(id())));
    }
    if schedule.end_behavior == EndBehavior::Release {
        due.push((phase.end_secs, Due::ReleaseSchedule(id())));
    }
    due
}

fn due_for_subscription(state: &State, subscription: &Subscription) -> Vec<(i64, Due)> {
    let id = || subscription.id.clone();
    let mut due = Vec::new();
    if subscription.status == Status::Incomplete {
        due.push((
            subscription.created_secs + INCOMPLETE_SECS,
            Due::Expire(id()),
        ));
    }
    if let Some(pending) = &subscription.pending_update {
        due.push((pending.expires_secs, Due::DiscardPendingUpdate(id())));
    }
    for discount in &subscription.discounts {
        if let Some(end_secs) = discount.end_secs {
            due.push((end_secs, Due::EndDiscount(id())));
        }
    }
    if let Some(at_secs) = subscription.cancel_at {
        due.push((at_secs, Due::Cancel(id())));
    }
    if !subscription.status.renews() {
        return due;
    }
    let end_secs = subscription.period.end_secs();
    due.push((end_secs, Due::EndPeriod(id())));
    let notice_secs = end_secs - i64::from(state.config.upcoming_days) * DAY_SECS;
    let announced = subscription.upcoming_sent_for == Some(end_secs);
    if !announced
        && !subscription.cancel_at_period_end
        && notice_secs >= subscription.period.start_secs()
    {
        due.push((notice_secs, Due::AnnounceRenewal(id())));
    }
    if let (Status::Trialing, false, Some((start, end))) = (
        subscription.status,
        subscription.trial_end_announced,
        subscription.trial,
    ) {
        due.push((start.max(end - 3 * DAY_SECS), Due::AnnounceTrialEnd(id())));
    }
    due
}

fn perform(state: &mut State, due: Due, now_secs: i64) -> Result<(), ApiError> {
    match due {
        Due::Finalize(id) => finalize_and_collect(state, &id, now_secs),
        Due::Retry(id) => collect_again(state, &id, now_secs),
        Due::AnnounceTrialEnd(id) => {
            state.subscription_mut(&id)?.trial_end_announced = true;
            state.emit("customer.subscription.trial_will_end", &id, now_secs);
            Ok(())
        }
        Due::AnnounceRenewal(id) => announce_renewal(state, &id, now_secs),
        Due::ExpireCheckout(id) => {
            complete::expire(state, &id);
            Ok(())
        }
        Due::Expire(id) => {
            status::expire(state, &id, now_secs)?;
            void_open_invoice(state, &id, now_secs)
        }
        Due::Cancel(id) => cancel_as_scheduled(state, &id, now_secs),
        Due::DiscardPendingUpdate(id) => pending::expire(state, &id, now_secs),
        Due::EndDiscount(id) => discounts::retain(state, &id, now_secs, |discount| {
            discount.applies_at(now_secs)
        }),
        Due::EndCustomerDiscount(id) => {
            discounts::clear_customer(state, &id, now_secs);
            Ok(())
        }
        Due::EndPeriod(id) => end_period(state, &id, now_secs),
        Due::AnnounceScheduleEnd(id) => {
            if let Some(schedule) = state.subscription_schedules.get_mut(&id) {
                schedule.expiry_announced = true;
            }
            state.emit("subscription_schedule.expiring", &id, now_secs);
            Ok(())
        }
        Due::StartPhase(id) => transition::start_next(state, &id, now_secs),
        Due::ReleaseSchedule(id) => transition::release(state, &id, now_secs),
    }
}

fn finalize_and_collect(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    finalize::finalize(state, id, now_secs)?;
    let invoice = state.invoice(id)?;
    if invoice.auto_advance && invoice.amount_remaining() > 0 {
        collect_again(state, id, now_secs)?;
    }
    Ok(())
}

fn collect_again(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let method = collect::method_for(state, state.invoice(id)?);
    // A failed payment is not an error here: it is recorded and retried or
    // abandoned.
    collect::attempt(state, id, method.as_deref(), now_secs)?;
    Ok(())
}

fn void_open_invoice(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let latest = state.subscription(id, "id")?.latest_invoice.clone();
    match latest {
        Some(invoice) if state.invoice(&invoice)?.status == InvoiceStatus::Open => {
            finalize::void(state, &invoice, now_secs)
        }
        _ => Ok(()),
    }
}

fn announce_renewal(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let subscription = state.subscription(id, "id")?.clone();
    let mut ids = state.ids.clone();
    let next = transition::in_next_period(state, &subscription, &mut ids)?;
    let draft = assemble::renewal(state, &subscription, &next, Vec::new())?;
    let mut invoice = adjust::prepare(state, draft, &mut ids, now_secs);
    let balance = state.customer(&invoice.customer, "customer")?.balance;
    invoice.starting_balance = balance;
    invoice.amount_due = apply_balance(invoice.total(), balance, &invoice.currency).amount_due;
    let mut shapes = [Shape::Legacy, Shape::Basil].map(|shape| invoice.render(state, shape));
    for object in &mut shapes {
        // An upcoming invoice does not exist yet, so it has no id.
        if let Some(object) = object.as_object_mut() {
            object.remove("id");
        }
        object["billing_reason"] = "upcoming".into();
    }
    let [legacy, basil] = shapes;
    state.subscription_mut(id)?.upcoming_sent_for = Some(subscription.period.end_secs());
    state.emit_object("invoice.upcoming", legacy, basil, now_secs);
    Ok(())
}

fn end_period(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let subscription = state.subscription(id, "id")?.clone();
    if subscription.cancel_at_period_end {
        return cancel_as_scheduled(state, id, now_secs);
    }
    if subscription.on_trial() && payment::payment_method_of(state, &subscription).is_none() {
        match subscription.missing_payment_method {
            MissingPaymentMethod::CreateInvoice => {}
            MissingPaymentMethod::Cancel => return cancel_as_scheduled(state, id, now_secs),
            MissingPaymentMethod::Pause => return pause(state, id, now_secs),
        }
    }
    let mut ids = state.ids.clone();
    let next = transition::in_next_period(state, &subscription, &mut ids)?;
    state.ids = ids;
    let entered =
        transition::at_period_end(state, &subscription).and_then(|_| subscription.schedule.clone());
    let mut draft = assemble::renewal(state, &subscription, &next, Vec::new())?;
    // Unpaid subscriptions accumulate drafts that are not collected.
    draft.auto_advance = next.status != Status::Unpaid;
    draft.finalizes_at_secs = draft
        .auto_advance
        .then_some(now_secs + state.config.draft_secs);
    let before = state.snapshot(id);
    let discounts = next.discounts.clone();
    state.subscriptions.insert(next);
    redeem::record(state, &subscription.discounts, &discounts, now_secs);
    finalize::record(state, draft, now_secs)?;
    state.emit_update("customer.subscription.updated", id, before, now_secs);
    if let Some(schedule) = entered {
        transition::advance(state, &schedule, now_secs);
    }
    Ok(())
}

/// Pauses a subscription whose trial ended without a payment method.
pub fn pause(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    state.change_subscription(id, now_secs, |subscription| {
        subscription.status = Status::Paused
    })?;
    state.emit("customer.subscription.paused", id, now_secs);
    Ok(())
}

/// Ends a subscription at the requested time. Usage and pending items are
/// invoiced first.
fn cancel_as_scheduled(state: &mut State, id: &str, now_secs: i64) -> Result<(), ApiError> {
    let subscription = state.subscription(id, "id")?.clone();
    let mut draft = cancel::final_draft(state, &subscription, Vec::new(), now_secs)?;
    cancel::now(state, id, "cancellation_requested", now_secs)?;
    if !draft.lines.is_empty() {
        draft.finalizes_at_secs = Some(now_secs + state.config.draft_secs);
        finalize::record(state, draft, now_secs)?;
    }
    Ok(())
}

/// Performs everything due on the wall clock.
pub fn tick(state: &mut State, wall_secs: i64) -> Result<(), ApiError> {
    state.wall_secs = wall_secs;
    state.origin = Origin::default();
    run(state, None, wall_secs)
}
