//! Other seats of the plan that is held.

use super::{ChangeRejection, Quantities, Selection, StripeAction, Target};
use super::{change_pending, later, quantities};
use crate::catalogue::{Catalogue, Plan, When};
use crate::subscriptions::pending::PendingChange;
use crate::subscriptions::state::SubscriptionRow;

/// Prices and terms stay those that were bought, and so does a change that is pending.
pub fn change<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &Catalogue,
    held: Plan,
    before: Option<u32>,
    selection: Selection<'_>,
    when: Option<When>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    if let Some(currency) = subscription.currency.as_deref()
        && selection.currency.is_some()
    {
        selection.check_currency(&held, Some(currency))?;
    }
    let after = selection.seats(&held, before)?;
    if after == before {
        // A migration cannot be called off, so other seats beside it are taken back.
        if let Some(pending) = subscription.pending.as_ref().filter(|one| one.migrates)
            && selection.quantity.is_some()
            && pending.seats != after
            && when != Some(When::Now)
        {
            let target = pending_with(subscription, catalogue, pending, &held, selection)?;
            return later(subscription, target);
        }
        let tier = held.tier;
        return Err(if subscription.ends() {
            ChangeRejection::SamePlanEnding(tier)
        } else if subscription
            .pending
            .as_ref()
            .is_some_and(|one| !one.migrates)
        {
            ChangeRejection::SamePlanPending(tier)
        } else {
            ChangeRejection::SamePlan(tier)
        });
    }
    let when = when.unwrap_or_else(|| catalogue.when_seats(before, after));
    if when == When::Now {
        let following = subscription.pending_with_seats(catalogue, before, after);
        return Ok(keeping(subscription, held, after).now(subscription, following));
    }
    match &subscription.pending {
        Some(pending) if is_another(subscription, pending, &held) => {
            let target = pending_with(subscription, catalogue, pending, &held, selection)?;
            later(subscription, target)
        }
        _ => later(subscription, keeping(subscription, held, after)),
    }
}

fn keeping(subscription: &SubscriptionRow, held: Plan, seats: Option<u32>) -> Target {
    Target {
        quantities: Quantities::of(&held, seats),
        plan: Box::new(held.with_seats(seats)),
        version: subscription.plan_version,
        keeps_prices: true,
    }
}

/// Whether more is pending than other seats.
fn is_another(subscription: &SubscriptionRow, pending: &PendingChange, held: &Plan) -> bool {
    let (interval, version) = (pending.interval, pending.plan_version);
    pending.plan_tier.as_ref() != Some(&held.tier)
        || version.is_some_and(|version| Some(version) != subscription.plan_version)
        || interval.is_some_and(|interval| interval != held.price.interval)
}

/// What is pending already, with the seats that are selected.
fn pending_with(
    subscription: &SubscriptionRow,
    catalogue: &Catalogue,
    pending: &PendingChange,
    held: &Plan,
    selection: Selection<'_>,
) -> Result<Target, ChangeRejection> {
    let terms = pending.terms(catalogue, subscription);
    let (Some(terms), Some(_)) = (terms, pending.interval) else {
        return Err(change_pending(pending));
    };
    let seats = selection.seats(&terms, None)?;
    Ok(Target {
        quantities: quantities(held, &terms, seats),
        plan: Box::new(terms.with_seats(seats)),
        version: pending.plan_version,
        keeps_prices: false,
    })
}
