//! Other seats of the plan that is held, or other add-ons beside it.

use super::addons::{self, AddonItem, Difference, Unsaid, difference};
use super::switch::{Target, change_pending, later, quantities};
use super::{ChangeRejection, Quantities, Selection, StripeAction};
use crate::catalogue::{Addons, Catalogue, Plan, When};
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
    let had = subscription.addons(catalogue);
    let beside = keeping_addons(subscription, catalogue, &had, &held, selection)?;
    let differ = difference(&had, &addons::numbers(&beside));
    let differ = Difference {
        more: differ.more || after > before,
        less: differ.less || after < before,
    };
    if !differ.more && !differ.less {
        return keep(subscription, catalogue, held, after, selection, when);
    }
    // Whoever gets more of anything has asked for more.
    let when = when.unwrap_or_else(|| catalogue.when_more(differ.more));
    if when == When::Now {
        let seats = (before, after);
        let following = subscription.following(catalogue, seats, &had, &beside)?;
        let target = keeping(subscription, held, after, beside);
        return Ok(target.now(subscription, following));
    }
    match &subscription.pending {
        Some(pending) if is_another(subscription, pending, &held) => {
            let target = pending_with(subscription, catalogue, pending, &held, selection)?;
            later(subscription, target)
        }
        // What was asked for already, and is not spoken of now, stays asked for.
        Some(pending) => {
            let seats = selection.seats(&held, pending.seats.or(before))?;
            let had = &pending.held_addons;
            let beside = keeping_addons(subscription, catalogue, had, &held, selection)?;
            later(subscription, keeping(subscription, held, seats, beside))
        }
        None => later(subscription, keeping(subscription, held, after, beside)),
    }
}

/// Nothing changes now.
fn keep<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &Catalogue,
    held: Plan,
    seats: Option<u32>,
    selection: Selection<'_>,
    when: Option<When>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    // A migration cannot be called off, so other seats or add-ons beside it are taken back.
    let migration = subscription.pending.as_ref().filter(|one| one.migrates);
    if let Some(pending) = migration.filter(|_| when != Some(When::Now)) {
        let other_seats = selection.quantity.is_some() && pending.seats != seats;
        let other_addons = selection
            .addons
            .is_some_and(|asked| !is_of(&pending.held_addons, asked));
        if other_seats || other_addons {
            let target = pending_with(subscription, catalogue, pending, &held, selection)?;
            return later(subscription, target);
        }
    }
    let tier = held.tier;
    let pending = subscription.pending.as_ref();
    Err(if subscription.ends() {
        ChangeRejection::SamePlanEnding(tier)
    } else if pending.is_some_and(|one| !one.migrates) {
        ChangeRejection::SamePlanPending(tier)
    } else {
        ChangeRejection::SamePlan(tier)
    })
}

fn is_of(held: &Addons, asked: &crate::subscriptions::selection::AskedAddons) -> bool {
    let same = |(id, quantity): (&String, &u32)| asked.get(id) == Some(&i64::from(*quantity));
    held.len() == asked.len() && held.iter().all(same)
}

fn keeping_addons(
    subscription: &SubscriptionRow,
    catalogue: &Catalogue,
    before: &Addons,
    plan: &Plan,
    selection: Selection<'_>,
) -> Result<Vec<AddonItem>, ChangeRejection> {
    let one = Some(subscription);
    addons::after(one, catalogue, before, plan, selection, Unsaid::Stay)
}

fn keeping(
    subscription: &SubscriptionRow,
    held: Plan,
    seats: Option<u32>,
    addons: Vec<AddonItem>,
) -> Target {
    Target {
        quantities: Quantities::of(&held, seats),
        addons,
        plan: Box::new(held.with_seats(seats)),
        version: subscription.plan_version,
        keeps_prices: true,
    }
}

/// Whether more is pending than other seats and add-ons.
fn is_another(subscription: &SubscriptionRow, pending: &PendingChange, held: &Plan) -> bool {
    let (interval, version) = (pending.interval, pending.plan_version);
    pending.plan_tier.as_ref() != Some(&held.tier)
        || version.is_some_and(|version| Some(version) != subscription.plan_version)
        || interval.is_some_and(|interval| interval != held.price.interval)
}

/// What is pending already, with the seats and add-ons that are selected.
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
    let seats = match selection.quantity {
        Some(_) => selection.seats(&terms, None)?,
        None => selection.seats(&terms, pending.seats)?,
    };
    let had = &pending.held_addons;
    Ok(Target {
        quantities: quantities(held, &terms, seats),
        addons: keeping_addons(subscription, catalogue, had, &terms, selection)?,
        plan: Box::new(terms.with_seats(seats)),
        version: pending.plan_version,
        keeps_prices: false,
    })
}
