//! What a subscription has beside its plan after a change, and at which prices.

use std::collections::BTreeMap;

use billing_domain::status::SubscriptionStatus;

use super::{ChangeRejection, StripeAction};
use crate::catalogue::{Addon, Addons, Catalogue, OnPlanChange, Plan, Price, count_addons};
use crate::subscriptions::selection::{AskedAddons, Selection};
use crate::subscriptions::state::{Item, SubscriptionRow, SubscriptionState};

/// An add-on that a subscription is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddonItem {
    pub id: String,
    pub quantity: u32,
    pub price: AddonPrice,
}

/// At which price it is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddonPrice {
    /// The one that it was bought at.
    Held {
        price_id: String,
        /// In minor units; `None` if it is not a whole number of them.
        unit_amount: Option<i64>,
    },
    /// The catalogue's.
    Sold(Price),
}

impl AddonItem {
    /// What one costs in a period.
    pub fn unit_amount(&self) -> Option<i64> {
        match &self.price {
            AddonPrice::Held { unit_amount, .. } => *unit_amount,
            AddonPrice::Sold(price) => Some(price.amount),
        }
    }
}

/// What becomes of the add-ons that nobody speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsaid {
    /// They stay.
    Stay,
    /// The plan changes: the catalogue says which stay.
    ByCatalogue,
}

/// How many of each add-on there are.
pub fn numbers(items: &[AddonItem]) -> Addons {
    let items = items.iter();
    items.map(|item| (item.id.clone(), item.quantity)).collect()
}

/// The add-ons beside `plan`, which is as it is bought, where there were `before`: those
/// that are selected, or else those that stay.
pub(super) fn after(
    subscription: Option<&SubscriptionRow>,
    catalogue: &Catalogue,
    before: &Addons,
    plan: &Plan,
    selection: Selection<'_>,
    unsaid: Unsaid,
) -> Result<Vec<AddonItem>, ChangeRejection> {
    let wanted = match selection.addons {
        Some(asked) => {
            let held = subscription.map(|one| one.addons(catalogue));
            let stay = match unsaid {
                Unsaid::Stay => before.clone(),
                Unsaid::ByCatalogue => Addons::new(),
            };
            selected(catalogue, &held.unwrap_or_default(), &stay, plan, asked)?
        }
        None => match unsaid {
            Unsaid::Stay => before.clone(),
            Unsaid::ByCatalogue => kept(catalogue, before, plan),
        },
    };
    let items = wanted.into_iter();
    let items = items.map(|(id, quantity)| priced(subscription, catalogue, &id, quantity, plan));
    items.collect()
}

/// So many of an add-on beside `plan`, at the price that it was bought at if there is one.
pub fn priced(
    subscription: Option<&SubscriptionRow>,
    catalogue: &Catalogue,
    id: &str,
    quantity: u32,
    plan: &Plan,
) -> Result<AddonItem, ChangeRejection> {
    Ok(AddonItem {
        id: id.to_owned(),
        quantity,
        price: price_of(subscription, catalogue, id, plan)?,
    })
}

/// Those that are asked for, if they can be had. Those of `stay` can, even if they are not
/// sold so.
fn selected(
    catalogue: &Catalogue,
    held: &Addons,
    stay: &Addons,
    plan: &Plan,
    asked: &AskedAddons,
) -> Result<Addons, ChangeRejection> {
    let mut wanted = Addons::new();
    for (id, quantity) in asked {
        let of = |addons: &Addons| addons.get(id).copied().unwrap_or(0);
        let (held, stays) = (of(held).max(of(stay)), of(stay));
        let number = u32::try_from(*quantity).ok().filter(|number| *number > 0);
        if let Some(number) = number.filter(|number| *number <= stays) {
            wanted.insert(id.clone(), number);
            continue;
        }
        let sold = catalogue
            .addon(id)
            .ok_or_else(|| unknown(catalogue, plan, id))?;
        if !sold.goes_with(plan) {
            return Err(excluded(catalogue, sold, plan));
        }
        let most = sold.max_quantity.max(held);
        let number = number.filter(|number| *number <= most);
        let number = number.ok_or_else(|| ChangeRejection::AddonQuantity {
            addon: id.clone(),
            quantity: *quantity,
            most: sold.max_quantity,
        })?;
        if sold.retired && number > held {
            return Err(ChangeRejection::AddonRetired {
                addon: id.clone(),
                held,
            });
        }
        wanted.insert(id.clone(), number);
    }
    Ok(wanted)
}

fn unknown(catalogue: &Catalogue, plan: &Plan, id: &str) -> ChangeRejection {
    let sold = catalogue.addons_for(plan).map(|addon| addon.id.clone());
    ChangeRejection::UnknownAddon {
        addon: id.chars().take(64).collect(),
        plan: plan.tier.clone(),
        addons: sold.collect(),
    }
}

/// Refuses an add-on that does not go with a plan.
pub(super) fn excluded(catalogue: &Catalogue, addon: &Addon, plan: &Plan) -> ChangeRejection {
    let plans = catalogue.plans().iter();
    let plans = plans.filter(|one| !one.retired && addon.goes_with(one));
    ChangeRejection::AddonExcluded {
        addon: addon.id.clone(),
        plan: plan.tier.clone(),
        plans: plans.map(|one| one.tier.clone()).collect(),
    }
}

/// Refuses add-ons beside a plan that needs no subscription.
pub(super) fn check_none(
    catalogue: &Catalogue,
    plan: &Plan,
    selection: Selection<'_>,
) -> Result<(), ChangeRejection> {
    let asked = selection.addons.and_then(|asked| asked.keys().next());
    match asked {
        None => Ok(()),
        Some(id) => match catalogue.addon(id) {
            Some(addon) => Err(excluded(catalogue, addon, plan)),
            None => Err(unknown(catalogue, plan, id)),
        },
    }
}

/// Refuses more add-ons in a trial that nobody can charge: their quotas would be free use.
pub(super) fn check_trial<'a>(
    state: &SubscriptionState,
    catalogue: &Catalogue,
    action: StripeAction<'a>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    let (held, wanted) = match &action {
        StripeAction::Create {
            addons, trial_days, ..
        } if *trial_days > 0 => (Addons::new(), addons),
        StripeAction::Switch {
            subscription,
            addons,
            ..
        } if subscription.status == SubscriptionStatus::Trialing && !subscription.is_payable => {
            (subscription.addons(catalogue), addons)
        }
        _ => return Ok(action),
    };
    let more = difference(&held, &numbers(wanted)).more;
    match more && !state.has_payment_method {
        true => Err(ChangeRejection::AddonsInTrial),
        false => Ok(action),
    }
}

/// Those that stay with another plan.
fn kept(catalogue: &Catalogue, before: &Addons, plan: &Plan) -> Addons {
    let stays = |id: &str| {
        let addon = catalogue.addon(id);
        addon.is_some_and(|addon| {
            addon.on_plan_change == OnPlanChange::Keep && addon.goes_with(plan)
        })
    };
    let before = before.iter();
    let stay = before.filter(|(id, _)| stays(id));
    stay.map(|(id, quantity)| (id.clone(), *quantity)).collect()
}

/// The price that it was bought at, if the plan is paid by that interval, or by the one that
/// it is paid by already; else the catalogue's.
fn price_of(
    subscription: Option<&SubscriptionRow>,
    catalogue: &Catalogue,
    id: &str,
    plan: &Plan,
) -> Result<AddonPrice, ChangeRejection> {
    let interval = Some(plan.price.interval);
    let fee = subscription.and_then(|one| one.base_item(catalogue));
    let stays = fee.and_then(|(item, _)| item.plan_interval()) == interval;
    let held = subscription.map(|one| one.addon_items(catalogue));
    let held = held.and_then(|mut items| items.remove(id));
    let held = held.into_iter().flatten();
    let first = held
        .filter(|item| stays || item.plan_interval() == interval)
        .min_by_key(|item| (item.plan_interval() != interval, &item.id));
    if let Some(price_id) = first.and_then(|item| item.price_id.clone()) {
        return Ok(AddonPrice::Held {
            price_id,
            unit_amount: first.and_then(|item| item.unit_amount),
        });
    }
    let sold = catalogue.addon(id);
    let price = sold.and_then(|addon| addon.price_beside(&plan.price));
    let price = price.ok_or_else(|| ChangeRejection::AddonNotOffered {
        addon: id.to_owned(),
        currency: plan.price.currency.clone(),
        interval: plan.price.interval,
        offered: sold
            .map(|addon| addon.prices.iter().map(Price::display).collect())
            .unwrap_or_default(),
    })?;
    Ok(AddonPrice::Sold(price.clone()))
}

/// How two numbers of add-ons and of seats differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    pub more: bool,
    pub less: bool,
}

pub fn difference(before: &Addons, after: &Addons) -> Difference {
    let ids = before.keys().chain(after.keys());
    let of = |addons: &Addons, id: &String| addons.get(id).copied().unwrap_or(0);
    let mut found = Difference {
        more: false,
        less: false,
    };
    for id in ids {
        found.more |= of(after, id) > of(before, id);
        found.less |= of(after, id) < of(before, id);
    }
    found
}

fn numbers_held(held: &BTreeMap<String, Vec<&Item>>) -> Addons {
    let items = held.iter();
    let items = items.flat_map(|(id, items)| items.iter().map(|item| (id.clone(), item.quantity)));
    count_addons(items)
}

impl SubscriptionRow {
    /// The items that pay for add-ons, by the add-ons' ids.
    pub fn addon_items(&self, catalogue: &Catalogue) -> BTreeMap<String, Vec<&Item>> {
        let mut items = BTreeMap::<String, Vec<&Item>>::new();
        for item in &self.items {
            if let Some(id) = item.used(catalogue).and_then(|used| used.addon) {
                items.entry(id).or_default().push(item);
            }
        }
        items
    }

    /// The add-ons that it has.
    pub fn addons(&self, catalogue: &Catalogue) -> Addons {
        numbers_held(&self.addon_items(catalogue))
    }
}
