//! Lays requested phases out in time, and checks that each can be entered.

use billing_domain::period::{Cadence, Interval};
use billing_domain::preview::BillingMode;

use crate::discounts::model::Discount;
use crate::discounts::redeem::{self, Redeemer};
use crate::error::ApiError;
use crate::ids::IdSource;
use crate::metadata::MetadataChange;
use crate::prices::Recurring;
use crate::state::State;
use crate::subscription_schedules::model::{Phase, PhaseItem, Schedule};
use crate::subscription_schedules::request::{Duration, Moment, RequestedPhase};
use crate::subscriptions::change::{Catalogue, ProrationBehavior};
use crate::subscriptions::edit::{self, ExpectedCurrency, ItemEdit};
use crate::subscriptions::model::{Item, Subscription};
use crate::subscriptions::periods;

/// The phase that the subscription is in when it gets a schedule: its items
/// until the end of its period.
#[must_use]
pub fn of_subscription(subscription: &Subscription) -> Phase {
    Phase {
        start_secs: subscription.period.start_secs(),
        end_secs: subscription.period.end_secs(),
        items: subscription.items.iter().map(phase_item).collect(),
        behavior: ProrationBehavior::CreateProrations,
        anchor: None,
        trial_end: subscription
            .trial
            .map(|(_, end)| end)
            .filter(|_| subscription.on_trial()),
        discounts: subscription.discounts.clone(),
        metadata: MetadataChange::Merge(
            subscription
                .metadata
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        ),
    }
}

fn phase_item(item: &Item) -> PhaseItem {
    let metadata = item.metadata.clone().into_iter().collect();
    PhaseItem {
        price: item.price.clone(),
        quantity: item.quantity,
        metadata: MetadataChange::Merge(metadata),
    }
}

/// The phases of a schedule after a request, and the index of the current one.
pub fn lay_out(
    state: &State,
    schedule: &Schedule,
    requested: &[RequestedPhase],
    ids: &mut IdSource,
    now_secs: i64,
) -> Result<(Vec<Phase>, usize), ApiError> {
    let catalogue = state.catalogue();
    let subscription = state.subscription(&schedule.subscription, "subscription")?;
    let mut phases: Vec<Phase> = Vec::new();
    let first = requested.first().and_then(|phase| phase.start);
    if first.is_none() {
        return Err(ApiError::bad_param(
            "phases",
            "The subscription schedule update is missing at least one phase with a `start_date` to anchor end dates to.",
        ));
    }
    for (index, phase) in requested.iter().enumerate() {
        let following = requested.get(index + 1).and_then(|next| next.start);
        let previous_end = phases.last().map(|phase| phase.end_secs);
        let start_secs = start_of(phase, previous_end, now_secs)?;
        let items = checked_items(phase, subscription, catalogue, now_secs)?;
        let end_secs = match phase.end.or(following) {
            None if phase.duration.is_none() => {
                one_interval(phase, start_secs, &items, subscription, catalogue)?
            }
            end => end_of(phase, start_secs, end, now_secs)?,
        };
        check_trial(phase, subscription)?;
        phases.push(Phase {
            start_secs,
            end_secs,
            items,
            behavior: phase.behavior,
            anchor: phase.anchor,
            trial_end: phase.trial_end.map(|end| end.secs(now_secs)),
            discounts: discounts_of(state, phase, subscription, ids, start_secs.max(now_secs))?,
            metadata: phase.metadata.clone(),
        });
    }
    let phases = with_past(schedule, phases, now_secs)?;
    let current = phases
        .iter()
        .position(|phase| phase.start_secs <= now_secs && now_secs < phase.end_secs)
        .ok_or_else(|| {
            ApiError::bad_param(
                "phases",
                "The phases must include the current one, and it must not have ended.",
            )
        })?;
    check_intervals(subscription, &phases[current..], catalogue)?;
    Ok((phases, current))
}

fn start_of(
    phase: &RequestedPhase,
    previous_end: Option<i64>,
    now_secs: i64,
) -> Result<i64, ApiError> {
    let start = phase.start.map(|start| start.secs(now_secs));
    match (start, previous_end) {
        (Some(start), Some(end)) if start != end => Err(ApiError::bad_param(
            &format!("{}[start_date]", phase.param),
            format!(
                "The `start_date` of a phase must equal the `end_date` of the one before it: {end}."
            ),
        )),
        (start, end) => start
            .or(end)
            .ok_or_else(|| ApiError::missing_param(&format!("{}[start_date]", phase.param))),
    }
}

/// The end of the last phase, if it gives neither an end nor a duration.
fn one_interval(
    phase: &RequestedPhase,
    start_secs: i64,
    items: &[PhaseItem],
    subscription: &Subscription,
    catalogue: Catalogue<'_>,
) -> Result<i64, ApiError> {
    cadence(items, subscription, catalogue, &phase.param)?
        .boundary(start_secs, 1)
        .map_err(|error| {
            ApiError::bad_param(&format!("{}[end_date]", phase.param), error.to_string())
        })
}

/// The end of a phase, after its duration, or else at `end`: its own, or the start of the
/// next one.
fn end_of(
    phase: &RequestedPhase,
    start_secs: i64,
    end: Option<Moment>,
    now_secs: i64,
) -> Result<i64, ApiError> {
    let param = format!("{}[end_date]", phase.param);
    let end_secs = match (end, phase.duration) {
        (_, Some(duration)) => cadence_of(duration)?
            .boundary(start_secs, 1)
            .map_err(|error| ApiError::bad_param(&param, error.to_string()))?,
        (Some(end), None) => end.secs(now_secs),
        (None, None) => return Err(ApiError::missing_param(&param)),
    };
    if end_secs <= start_secs {
        return Err(ApiError::bad_param(
            &param,
            "The `end_date` of a phase must be after its `start_date`.",
        ));
    }
    Ok(end_secs)
}

fn cadence_of(duration: Duration) -> Result<Cadence, ApiError> {
    let interval = match duration.interval {
        "day" => Interval::Day,
        "week" => Interval::Week,
        "month" => Interval::Month,
        _ => Interval::Year,
    };
    Cadence::every(duration.count, interval).map_err(|error| ApiError::invalid(error.to_string()))
}

/// The items of a phase, each of which must be valid for the subscription.
fn checked_items(
    phase: &RequestedPhase,
    subscription: &Subscription,
    catalogue: Catalogue<'_>,
    now_secs: i64,
) -> Result<Vec<PhaseItem>, ApiError> {
    let currency = &subscription.currency;
    if phase
        .currency
        .as_ref()
        .is_some_and(|named| named != currency)
    {
        return Err(ApiError::bad_param(
            &format!("{}[currency]", phase.param),
            format!("The currency of a phase must be that of its subscription: `{currency}`."),
        ));
    }
    let mut items: Vec<PhaseItem> = Vec::new();
    let mut unused_ids = IdSource::new(0);
    for (index, item) in phase.items.iter().enumerate() {
        let edit = ItemEdit {
            param: format!("{}[items][{index}]", phase.param),
            price: Some(item.price.clone()),
            quantity: item.quantity,
            ..ItemEdit::default()
        };
        let expected = ExpectedCurrency::Fixed(currency);
        let checked = edit::new_item(&edit, expected, catalogue, &mut unused_ids, now_secs)?;
        if items.iter().any(|other| other.price == item.price) {
            return Err(ApiError::bad_param(
                &edit.param,
                format!(
                    "Cannot add multiple subscription items with the same plan: {}",
                    item.price
                ),
            ));
        }
        items.push(PhaseItem {
            quantity: checked.quantity,
            ..item.clone()
        });
    }
    cadence(&items, subscription, catalogue, &phase.param)?;
    Ok(items)
}

/// The discounts of a phase. A coupon that the subscription has redeemed is not
/// redeemed again.
fn discounts_of(
    state: &State,
    phase: &RequestedPhase,
    subscription: &Subscription,
    ids: &mut IdSource,
    at_secs: i64,
) -> Result<Vec<Discount>, ApiError> {
    let redeemer = Redeemer {
        customer: &subscription.customer,
        subscription: Some(&subscription.id),
        current: &subscription.discounts,
        currency: Some(&subscription.currency),
        amount: None,
    };
    let discounts = redeem::resolve(state, &phase.discounts, &redeemer, ids, at_secs)?;
    let redeemed = |discount: Discount| {
        let mut current = subscription.discounts.iter();
        let known = current.find(|known| known.coupon == discount.coupon);
        known.cloned().unwrap_or(discount)
    };
    Ok(discounts
        .unwrap_or_default()
        .into_iter()
        .map(redeemed)
        .collect())
}

/// The shortest cadence of a phase's prices, which the subscription must be able to have.
fn cadence(
    items: &[PhaseItem],
    subscription: &Subscription,
    catalogue: Catalogue<'_>,
    param: &str,
) -> Result<Cadence, ApiError> {
    let all = recurring(items, catalogue)?;
    periods::shortest_of(&all, subscription.mode, &format!("{param}[items]"))
}

fn recurring<'a>(
    items: &[PhaseItem],
    catalogue: Catalogue<'a>,
) -> Result<Vec<&'a Recurring>, ApiError> {
    let mut all = Vec::new();
    for item in items {
        all.extend(&catalogue.price(&item.price)?.recurring);
    }
    Ok(all)
}

/// Phases begin and end no trials here; a phase may only repeat the trial that
/// the subscription is on.
fn check_trial(phase: &RequestedPhase, subscription: &Subscription) -> Result<(), ApiError> {
    let current = subscription
        .trial
        .filter(|_| subscription.on_trial())
        .map(|(_, end)| Moment::At(end));
    match phase.trial_end {
        Some(end) if Some(end) != current => Err(ApiError::unsupported(
            &format!("{}[trial_end]", phase.param),
            "trials that begin or end with a phase",
        )),
        _ => Ok(()),
    }
}

/// Puts the past phases that a request leaves out before those it gives. The
/// first given phase either repeats a phase that has begun, or begins now and
/// ends the current one.
fn with_past(
    schedule: &Schedule,
    given: Vec<Phase>,
    now_secs: i64,
) -> Result<Vec<Phase>, ApiError> {
    let from_secs = given.first().map_or(now_secs, |phase| phase.start_secs);
    let begun = &schedule.phases[..=schedule.current];
    let repeated = begun.iter().position(|phase| phase.start_secs == from_secs);
    let mut phases = match repeated {
        Some(index) => begun[..index].to_vec(),
        None if from_secs == now_secs => {
            let mut past = begun.to_vec();
            if let Some(last) = past.last_mut() {
                last.end_secs = now_secs;
            }
            past
        }
        None => {
            return Err(ApiError::bad_param(
                "phases[0][start_date]",
                "You can not modify the start date of the current phase.",
            ));
        }
    };
    phases.extend(given);
    Ok(phases)
}

/// In flexible billing, a change of interval that keeps the anchor is refused, as it is
/// for subscriptions, but for one where periods of all the phase's prices begin with it.
fn check_intervals(
    subscription: &Subscription,
    phases: &[Phase],
    catalogue: Catalogue<'_>,
) -> Result<(), ApiError> {
    let mut before = subscription.cadence;
    for phase in phases {
        let cadence = cadence(&phase.items, subscription, catalogue, "phases")?;
        let all = recurring(&phase.items, catalogue)?;
        let begins = |recurring: &&Recurring| {
            let anchor_secs = subscription.anchor_secs;
            let period = recurring
                .cadence
                .period_containing(anchor_secs, phase.start_secs);
            period.is_ok_and(|period| period.start_secs() == phase.start_secs)
        };
        let restarts = phase.anchor == Some("phase_start") || all.iter().all(begins);
        if subscription.mode == BillingMode::Flexible && cadence != before && !restarts {
            return Err(ApiError::unsupported(
                "phases",
                "a change of interval in flexible billing mode without `billing_cycle_anchor=phase_start`",
            ));
        }
        before = cadence;
    }
    Ok(())
}
