//! Another plan, another interval or other terms for a subscription that runs: now, or with
//! the next period.

use super::addons::{self, AddonItem, Unsaid};
use super::{CancellationDetails, ChangeRejection, StripeAction, seats};
use crate::catalogue::{Catalogue, Interval, Plan, When};
use crate::subscriptions::pending::{Following, PendingChange};
use crate::subscriptions::selection::{Quantities, Selection};
use crate::subscriptions::state::SubscriptionRow;

pub(super) fn change<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &Catalogue,
    plan: &Plan,
    selection: Selection<'_>,
    when: Option<When>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    subscription.check_awaits_nothing()?;
    if !plan.is_billed() {
        return end(subscription, catalogue, plan, selection, when);
    }
    if subscription.is_incomplete() {
        return Err(ChangeRejection::Incomplete);
    }
    let (item, current) = subscription
        .base_item(catalogue)
        .ok_or(ChangeRejection::UnknownItems)?;
    let interval = item.plan_interval();
    let stays = selection
        .interval
        .is_none_or(|asked| Some(asked) == interval);
    let held = held_terms(subscription, catalogue, current, interval);
    let seats = subscription.seats(catalogue, &held);
    if current.tier == plan.tier && stays {
        return seats::change(subscription, catalogue, held, seats, selection, when);
    }
    if plan.retired {
        return Err(ChangeRejection::PlanRetired(plan.tier.clone()));
    }
    // Stripe lets only the schedule itself take its end back.
    if let (Some(at), Some(_)) = (subscription.ends_at(), &subscription.schedule_id) {
        return Err(ChangeRejection::EndsBefore(at));
    }
    let currency = subscription.currency.as_deref();
    let chosen = selection.choose(plan, currency, interval)?;
    let after = selection.seats(&chosen, seats)?;
    let cadence = chosen.price.interval.cadence();
    let unsaid = match current.tier == plan.tier {
        true => Unsaid::Stay,
        false => Unsaid::ByCatalogue,
    };
    let had = subscription.addons(catalogue);
    let beside = addons::after(
        Some(subscription),
        catalogue,
        &had,
        &chosen,
        selection,
        unsaid,
    )?;
    let target = Target {
        quantities: quantities(&held, &chosen, after),
        addons: beside,
        plan: Box::new(chosen.with_seats(after)),
        version: None,
        keeps_prices: false,
    };
    let when = when.unwrap_or_else(|| catalogue.when(&current.tier, &plan.tier));
    if when == When::PeriodEnd {
        return later(subscription, target);
    }
    match &subscription.pending {
        // Stripe restarts no period beside a schedule, and one that was released for a
        // change that is then declined would be lost.
        Some(pending) if item.cadence() != Some(cadence) => Err(change_pending(pending)),
        _ => Ok(target.now(subscription, None)),
    }
}

/// A plan that is not billed takes the place of the subscription.
fn end<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &Catalogue,
    plan: &Plan,
    selection: Selection<'_>,
    when: Option<When>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    let details = CancellationDetails::default();
    selection.seats(plan, None)?;
    addons::check_none(catalogue, plan, selection)?;
    if subscription.is_incomplete() {
        return Ok(StripeAction::EndNow {
            subscription,
            details,
        });
    }
    match subscription.ends_at() {
        Some(at) => Err(ChangeRejection::EndsAlready(at)),
        None if when == Some(When::Now) => Err(ChangeRejection::NotAtOnce),
        None => Ok(StripeAction::EndWithPeriod {
            subscription,
            details,
        }),
    }
}

/// The terms that a subscription has, as they are paid.
pub(super) fn held_terms(
    subscription: &SubscriptionRow,
    catalogue: &Catalogue,
    current: &Plan,
    interval: Option<Interval>,
) -> Plan {
    let tier = current.tier.as_str();
    let version = subscription.plan_version;
    let version = version.or_else(|| catalogue.oldest_version(tier));
    let terms = catalogue.known_terms(tier, version);
    let terms = terms.unwrap_or_else(|| current.clone());
    terms.paid_in(subscription.currency.as_deref(), interval)
}

pub fn change_pending(pending: &PendingChange) -> ChangeRejection {
    if pending.migrates {
        return ChangeRejection::MigrationPending(pending.effective_at);
    }
    ChangeRejection::ChangePending(pending.plan_tier.clone().unwrap_or_default())
}

/// What a subscription is to become.
pub(super) struct Target {
    pub plan: Box<Plan>,
    pub version: Option<i32>,
    pub quantities: Quantities,
    pub addons: Vec<AddonItem>,
    pub keeps_prices: bool,
}

impl Target {
    pub fn now(
        self,
        subscription: &SubscriptionRow,
        following: Option<Following>,
    ) -> StripeAction<'_> {
        StripeAction::Switch {
            subscription,
            plan: self.plan,
            version: self.version,
            quantities: self.quantities,
            addons: self.addons,
            keeps_prices: self.keeps_prices,
            following: following.map(Box::new),
        }
    }
}

/// The quantities after a switch. Where the fee was for each seat and is not any more, it
/// is charged once.
pub(super) fn quantities(held: &Plan, plan: &Plan, seats: Option<u32>) -> Quantities {
    let after = Quantities::of(plan, seats);
    let was_each = held.licensed_seats();
    let was_each = was_each.is_some_and(|seats| seats.prices.is_empty());
    Quantities {
        fee: after.fee.or(was_each.then_some(1)),
        ..after
    }
}

pub(super) fn later(
    subscription: &SubscriptionRow,
    target: Target,
) -> Result<StripeAction<'_>, ChangeRejection> {
    match subscription.ends_at() {
        Some(at) => Err(ChangeRejection::EndsBefore(at)),
        None => Ok(StripeAction::SwitchLater {
            subscription,
            plan: target.plan,
            version: target.version,
            quantities: target.quantities,
            addons: target.addons,
            keeps_prices: target.keeps_prices,
        }),
    }
}

pub(super) fn migrate<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &Catalogue,
    terms: &Plan,
    version: i32,
    when: When,
) -> Result<StripeAction<'a>, ChangeRejection> {
    subscription.check_awaits_nothing()?;
    if subscription.is_incomplete() {
        return Err(ChangeRejection::Incomplete);
    }
    if let Some(at) = subscription.ends_at() {
        return Err(ChangeRejection::EndsAlready(at));
    }
    let (item, current) = subscription
        .base_item(catalogue)
        .ok_or(ChangeRejection::UnknownItems)?;
    if current.tier != terms.tier {
        return Err(ChangeRejection::OtherPlan(current.tier.clone()));
    }
    if subscription.plan_version == Some(version) {
        return Ok(StripeAction::Nothing { subscription });
    }
    let interval = item.plan_interval();
    let held = held_terms(subscription, catalogue, current, interval);
    let seats = subscription.seats(catalogue, &held);
    let had = subscription.addons(catalogue);
    // What the customer has chosen stays.
    let (interval, seats, had) = match &subscription.pending {
        None => (interval, seats, had),
        Some(pending) if pending.plan_tier.as_ref() != Some(&terms.tier) => match when {
            When::Now => (interval, seats, had),
            When::PeriodEnd => return Err(change_pending(pending)),
        },
        Some(pending) => match when {
            // It would have the former prices again.
            When::Now if pending.plan_version != Some(version) => {
                return Err(change_pending(pending));
            }
            When::Now => (interval, seats, had),
            When::PeriodEnd => {
                let interval = pending.interval.or(interval);
                (
                    interval,
                    pending.seats.or(seats),
                    pending.held_addons.clone(),
                )
            }
        },
    };
    // Nobody is moved to another interval than the customer has chosen.
    let selection = Selection {
        interval: Some(interval.ok_or(ChangeRejection::UnknownItems)?),
        ..Selection::from(terms.tier.as_str())
    };
    let plan = selection.choose(terms, subscription.currency.as_deref(), interval)?;
    let seats = selection.seats(&plan, seats)?;
    let one = Some(subscription);
    let target = Target {
        addons: addons::after(one, catalogue, &had, &plan, selection, Unsaid::Stay)?,
        quantities: quantities(&held, &plan, seats),
        plan: Box::new(plan.with_seats(seats)),
        version: Some(version),
        keeps_prices: false,
    };
    match when {
        When::Now => Ok(target.now(subscription, None)),
        When::PeriodEnd => later(subscription, target),
    }
}
