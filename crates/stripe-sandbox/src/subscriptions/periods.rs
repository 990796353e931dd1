//! The billing periods of items. In flexible billing, prices of different
//! intervals may be in one subscription: each item has a period of its own,
//! counted from the common anchor, and the subscription renews with the
//! shortest.

use billing_domain::period::{Cadence, Period};
use billing_domain::preview::BillingMode;

use crate::error::ApiError;
use crate::prices::Recurring;
use crate::subscriptions::change::Catalogue;
use crate::subscriptions::model::{Item, Subscription};

/// The first API version in which intervals can be mixed.
pub const MIXED_SINCE: &str = "2025-07-30";

fn recurring<'a>(item: &Item, catalogue: Catalogue<'a>) -> Result<&'a Recurring, ApiError> {
    catalogue
        .price(&item.price)?
        .recurring
        .as_ref()
        .ok_or_else(|| ApiError::no_such("price", &item.price, "price"))
}

/// The current period of an item.
pub fn of_item(
    subscription: &Subscription,
    item: &Item,
    catalogue: Catalogue<'_>,
) -> Result<Period, ApiError> {
    let cadence = recurring(item, catalogue)?.cadence;
    if subscription.on_trial() || cadence == subscription.cadence {
        return Ok(subscription.period);
    }
    cadence
        .period_containing(subscription.anchor_secs, subscription.period.start_secs())
        .map_err(|error| ApiError::invalid(error.to_string()))
}

/// Whether the items have different intervals.
pub fn mixed(subscription: &Subscription, catalogue: Catalogue<'_>) -> Result<bool, ApiError> {
    for item in &subscription.items {
        if recurring(item, catalogue)?.cadence != subscription.cadence {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The months of an interval; `None` for days and weeks.
fn months(recurring: &Recurring) -> Option<u16> {
    match recurring.interval {
        "month" => Some(recurring.count),
        "year" => recurring.count.checked_mul(12),
        _ => None,
    }
}

/// The shortest cadence of a subscription's prices.
pub fn shortest_cadence(
    subscription: &Subscription,
    catalogue: Catalogue<'_>,
) -> Result<Cadence, ApiError> {
    let all = subscription
        .items
        .iter()
        .map(|item| recurring(item, catalogue))
        .collect::<Result<Vec<_>, _>>()?;
    shortest_of(&all, subscription.mode, "items")
}

/// The shortest cadence of several prices, in a billing mode that lets them into one
/// subscription; `param` names them.
pub fn shortest_of(
    all: &[&Recurring],
    mode: BillingMode,
    param: &str,
) -> Result<Cadence, ApiError> {
    let first = all.first().ok_or_else(|| ApiError::missing_param(param))?;
    if all.iter().all(|other| other.cadence == first.cadence) {
        return Ok(first.cadence);
    }
    if mode == BillingMode::Classic {
        return Err(ApiError::bad_param(
            param,
            "All prices of a subscription in classic billing mode must have the same billing interval. Use flexible billing mode to mix intervals.",
        ));
    }
    let unsupported = || {
        ApiError::unsupported(
            param,
            "mixed intervals other than months and years that are multiples of the shortest",
        )
    };
    let shortest = all
        .iter()
        .min_by_key(|recurring| months(recurring))
        .ok_or_else(unsupported)?;
    let unit = months(shortest).ok_or_else(unsupported)?;
    let fits = |recurring: &&Recurring| months(recurring).is_some_and(|months| months % unit == 0);
    if all.iter().all(fits) {
        Ok(shortest.cadence)
    } else {
        Err(unsupported())
    }
}

/// Refuses changes of mixed intervals that are not modelled: within a period, items keep
/// their interval. Returns whether intervals are mixed, before or after.
pub fn check_mixed_change(
    before: &Subscription,
    after: &Subscription,
    catalogue: Catalogue<'_>,
) -> Result<bool, ApiError> {
    if !mixed(before, catalogue)? && !mixed(after, catalogue)? {
        return Ok(false);
    }
    if before.on_trial() {
        // All items have the trial's period, and begin theirs when it ends.
        return Ok(true);
    }
    let mut changes = false;
    for item in &after.items {
        if let Some(old) = before.items.iter().find(|old| old.id == item.id) {
            changes |= recurring(old, catalogue)?.cadence != recurring(item, catalogue)?.cadence;
        }
    }
    if changes {
        return Err(ApiError::unsupported(
            "items",
            "a change of an item's interval where intervals are mixed, without `billing_cycle_anchor=now`",
        ));
    }
    Ok(true)
}

/// The period that the subscription is in once its shortest interval is another one: items
/// keep their periods, which are counted from the same anchor.
pub fn of_shortest(
    before: &Subscription,
    cadence: Cadence,
    now_secs: i64,
) -> Result<Period, ApiError> {
    cadence
        .period_containing(before.anchor_secs, now_secs)
        .map_err(|error| ApiError::invalid(error.to_string()))
}

/// Refuses the end of the period where items have different ones.
pub fn check_end(
    subscription: &Subscription,
    at_period_end: bool,
    catalogue: Catalogue<'_>,
) -> Result<(), ApiError> {
    if at_period_end && mixed(subscription, catalogue)? {
        return Err(ApiError::unsupported(
            "cancel_at_period_end",
            "the end of the period where intervals are mixed; set `cancel_at` to a time",
        ));
    }
    Ok(())
}
