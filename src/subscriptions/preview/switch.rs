//! A change of plan or seats as Stripe is asked for it, and what it leaves.

use billing_domain::preview::ProrationBehavior;
use jiff::Timestamp;

use super::addons;
use super::usage_lines::UsagePrices;
use crate::catalogue::{Catalogue, Plan};
use crate::metering::charges::UsageCharge;
use crate::stripe::client::{FLEXIBLE, Params};
use crate::subscriptions::command;
use crate::subscriptions::command::addons::difference;
use crate::subscriptions::pending::Following;
use crate::subscriptions::prices::{PlanPrices, SwitchTo};
use crate::subscriptions::selection::Quantities;
use crate::subscriptions::state::{Item, SubscriptionRow};
use crate::subscriptions::usage_charges::BillableUsage;

/// A change of plan as parameters for Stripe. Preview and change send the same
/// ones, so that their amounts cannot differ.
pub struct Switch<'a> {
    pub subscription: &'a SubscriptionRow,
    catalogue: &'a Catalogue,
    /// The item that pays for the plan.
    item_id: &'a str,
    pub prices: &'a PlanPrices,
    quantities: Quantities,
    /// Another item that has the new price already. It then stays and this one is
    /// removed, since Stripe accepts no price twice.
    base_is_there: Option<&'a str>,
    /// Whether only quantities change: prices stay, and so does a scheduled end.
    keeps_prices: bool,
    others: Vec<Other<'a>>,
    /// Usage that the change leaves without a price, to be charged with it.
    pub(super) usage: Vec<BillableUsage>,
    pub proration_behavior: ProrationBehavior,
    /// The start of proration.
    pub at: Timestamp,
    pub changes_interval: bool,
    /// Whether a new interval, of the fee or of usage, restarts the period.
    pub(super) restarts: bool,
    /// Whether it leaves a fee by the year beside usage by the month.
    pub(super) mixes: bool,
    /// Whether the subscription has to be put into flexible billing for that.
    pub needs_flexible: bool,
    /// The new fee; `None` if it is not a whole number of minor units.
    fee: Option<i64>,
    /// What a seat beside it costs.
    seat: Option<i64>,
    pub currency: String,
    /// How much more the next invoice is as a pending change follows this one.
    pub(super) more_later: Option<i64>,
    /// Whether the change keeps the plan, and with it what is to become of it.
    pub(super) keeps_plan: bool,
    /// Whether it takes effect when the period ends.
    later: bool,
}

/// An item that a subscription has after a change.
#[derive(Debug, PartialEq, Eq)]
pub struct ItemAfter<'a> {
    pub price_id: &'a str,
    /// `None` if it is charged by usage.
    pub quantity: Option<i64>,
    /// The price that it takes the place of.
    pub replaces: Option<&'a str>,
    /// In minor units; `None` if it is not a whole number of them.
    pub unit_amount: Option<i64>,
}

/// A change of another item than the plan's. A metered item is never given another
/// price: the new item says from when on Stripe counts usage at it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Other<'a> {
    Added {
        price_id: &'a str,
    },
    Removed {
        item_id: &'a str,
    },
    /// Of a licensed price; a new item without an id.
    Licensed {
        item_id: Option<&'a str>,
        price_id: &'a str,
        quantity: u64,
    },
}

impl Other<'_> {
    fn set(&self, params: Params, name: impl Fn(&str) -> String) -> Params {
        match self {
            Self::Added { price_id } => params.set(name("price"), price_id),
            Self::Removed { item_id } => params.set(name("id"), item_id).set(name("deleted"), true),
            Self::Licensed {
                item_id,
                price_id,
                quantity,
            } => params
                .set_if(&name("id"), *item_id)
                .set(name("price"), price_id)
                .set(name("quantity"), quantity),
        }
    }
}

/// The changes of metered items and of other plans' fees. An item that has the
/// right price already stays, whichever plan it belonged to: somebody may have
/// changed only the fee in Stripe.
fn others<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &'a Catalogue,
    base: &'a Item,
    prices: &'a PlanPrices,
    quantities: Quantities,
) -> Vec<Other<'a>> {
    let mut others = seats(subscription, catalogue, prices, quantities);
    others.extend(addons::changed(subscription, catalogue, prices));
    for metric in catalogue.metrics().keys() {
        let new = prices.metered.get(metric).map(String::as_str);
        let mut old = subscription.metered_items(catalogue, metric);
        let kept = new.and_then(|price| {
            let has_it = |item: &&Item| item.price_id.as_deref() == Some(price);
            old.iter().position(has_it).or_else(|| {
                // The item may have the price without its lookup key.
                let mut items = subscription.items.iter();
                items.any(|item| has_it(&item)).then_some(usize::MAX)
            })
        });
        match (kept, new) {
            (Some(position), _) => {
                if position < old.len() {
                    old.remove(position);
                }
            }
            (None, Some(price_id)) => others.push(Other::Added { price_id }),
            (None, None) => {}
        }
        others.extend(
            old.into_iter()
                .map(|item| Other::Removed { item_id: &item.id }),
        );
    }
    // Exactly one fee remains.
    let fees = subscription.items.iter().filter(|item| {
        let plan = catalogue.plan_of_price(item.lookup_key.as_deref(), item.price_id.as_deref());
        item.id != base.id && !item.metered && plan.is_some()
    });
    let fees = fees.filter(|item| item.price_id.as_ref() != Some(&prices.base));
    others.extend(fees.map(|item| Other::Removed { item_id: &item.id }));
    others
}

/// The changes of items that charge seats beside the fee: one item is left, or none.
fn seats<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &Catalogue,
    prices: &'a PlanPrices,
    quantities: Quantities,
) -> Vec<Other<'a>> {
    let mut had = subscription.seat_items(catalogue);
    had.sort_by_key(|item| (item.price_id != prices.seats, &item.id));
    let beside = quantities.beside.filter(|quantity| *quantity > 0);
    let wanted = prices.seats.as_deref().zip(beside);
    let kept = wanted.and(had.first()).map(|item| item.id.as_str());
    let left = wanted.map(|(price_id, quantity)| Other::Licensed {
        item_id: kept,
        price_id,
        quantity,
    });
    let gone = had
        .into_iter()
        .filter(|item| Some(item.id.as_str()) != kept);
    let gone = gone.map(|item| Other::Removed { item_id: &item.id });
    left.into_iter().chain(gone).collect()
}

/// When a switch is charged: fewer seats or add-ons of the same plan as a change to a lower
/// one.
pub fn proration_behavior(
    subscription: &SubscriptionRow,
    catalogue: &Catalogue,
    current: &Plan,
    switch: SwitchTo<'_>,
) -> ProrationBehavior {
    let units = |items: Vec<&Item>| {
        let units = items.into_iter().map(|item| item.quantity.unwrap_or(1));
        u64::try_from(units.fold(0, i64::saturating_add)).unwrap_or(0)
    };
    let fee = subscription.base_item(catalogue).map(|(item, _)| item);
    let before = (
        units(fee.into_iter().collect()),
        units(subscription.seat_items(catalogue)),
    );
    let after = (
        switch.quantities.fee.unwrap_or(before.0),
        switch.quantities.beside.unwrap_or(0),
    );
    let beside = difference(
        &subscription.addons(catalogue),
        &command::addons::numbers(switch.addons),
    );
    let more = after.0 > before.0 || after.1 > before.1 || beside.more;
    let fewer = !more && (after.0 < before.0 || after.1 < before.1 || beside.less);
    match switch.plan.tier == current.tier && switch.keeps_prices && fewer {
        true => catalogue.proration_of_less(),
        false => catalogue.proration_behavior(&current.tier, &switch.plan.tier),
    }
}

impl<'a> Switch<'a> {
    /// Returns `None` if the subscription has no item of the catalogue.
    pub fn new(
        subscription: &'a SubscriptionRow,
        catalogue: &'a Catalogue,
        switch: SwitchTo<'_>,
        prices: &'a PlanPrices,
        at: Timestamp,
    ) -> Option<Self> {
        let (item, current) = subscription.base_item(catalogue)?;
        let quantities = switch.quantities;
        let plan = switch.plan;
        let interval = plan.price.interval.cadence();
        let changes_interval = !switch.keeps_prices && item.cadence() != Some(interval);
        let by_usage = |item: &&Item| item.metered && item.plan_interval().is_some();
        let usage = subscription.items.iter().filter(by_usage);
        let usage_interval = usage.map(Item::plan_interval).next().flatten();
        let changes_usage_interval = !switch.keeps_prices
            && !prices.metered.is_empty()
            && usage_interval.is_some_and(|interval| interval != plan.usage_interval());
        let mixes = match switch.keeps_prices {
            true => subscription.mixes_intervals(),
            false => prices.billing_mode(plan) == FLEXIBLE,
        };
        let is_flexible = subscription.billing_mode.as_deref() == Some(FLEXIBLE);
        let mut items = subscription.items.iter();
        let there = items
            .find(|other| other.id != item.id && other.price_id.as_ref() == Some(&prices.base));
        Some(Self {
            subscription,
            catalogue,
            item_id: &item.id,
            base_is_there: there.map(|other| other.id.as_str()),
            prices,
            quantities,
            others: others(subscription, catalogue, item, prices, quantities),
            usage: Vec::new(),
            proration_behavior: proration_behavior(subscription, catalogue, current, switch),
            at,
            changes_interval,
            fee: match switch.keeps_prices {
                true => item.unit_amount,
                false => Some(plan.price.amount),
            },
            seat: plan.seat_price().map(|price| price.amount),
            currency: plan.price.currency.clone(),
            keeps_plan: current.tier == plan.tier,
            more_later: switch
                .following
                .filter(|one| one.renews)
                .map(Following::costs_more),
            later: false,
            keeps_prices: switch.keeps_prices,
            restarts: (changes_interval || changes_usage_interval) && !subscription.on_trial(),
            mixes,
            needs_flexible: mixes && !is_flexible,
        })
    }

    /// The same change, when the period ends.
    pub fn at_period_end(self) -> Self {
        Self {
            later: true,
            restarts: false,
            ..self
        }
    }

    /// The items after the change, each price once.
    pub fn items_after(&self) -> Vec<ItemAfter<'a>> {
        let mut after: Vec<ItemAfter<'a>> = Vec::new();
        let mut add = |item: ItemAfter<'a>| {
            if !after.iter().any(|known| known.price_id == item.price_id) {
                after.push(item);
            }
        };
        for item in &self.subscription.items {
            let Some(price_id) = item.price_id.as_deref() else {
                continue;
            };
            let mut kept = ItemAfter {
                price_id,
                quantity: (!item.metered).then(|| item.quantity.unwrap_or(1)),
                replaces: Some(price_id),
                unit_amount: item.unit_amount,
            };
            let fee = self.quantities.fee.and_then(|fee| i64::try_from(fee).ok());
            if item.id == self.item_id {
                // Another item has the price already, and stays.
                if self.base_is_there.is_none() {
                    add(ItemAfter {
                        price_id: &self.prices.base,
                        quantity: fee.or(kept.quantity),
                        unit_amount: self.fee,
                        ..kept
                    });
                }
            } else if Some(item.id.as_str()) == self.base_is_there {
                kept.quantity = fee.or(kept.quantity);
                add(kept);
            } else if let Some((price_id, quantity)) = self.licensed(&item.id) {
                add(ItemAfter {
                    price_id,
                    quantity: i64::try_from(quantity).ok(),
                    unit_amount: self.amount_beside(price_id),
                    ..kept
                });
            } else if !self.removes(&item.id) {
                add(kept);
            }
        }
        for other in &self.others {
            let (price_id, quantity, unit_amount) = match other {
                Other::Added { price_id } => (price_id, None, None),
                Other::Licensed {
                    item_id: None,
                    price_id,
                    quantity,
                } => {
                    let quantity = i64::try_from(*quantity).ok();
                    (price_id, quantity, self.amount_beside(price_id))
                }
                _ => continue,
            };
            add(ItemAfter {
                price_id,
                quantity,
                replaces: None,
                unit_amount,
            });
        }
        after
    }

    /// The price and quantity of a seats' item that stays.
    fn licensed(&self, id: &str) -> Option<(&'a str, u64)> {
        self.others.iter().find_map(|other| match other {
            Other::Licensed {
                item_id: Some(item_id),
                price_id,
                quantity,
            } if *item_id == id => Some((*price_id, *quantity)),
            _ => None,
        })
    }

    /// What a seat or an add-on of this price costs: as it is, or as it is sold.
    fn amount_beside(&self, price_id: &str) -> Option<i64> {
        let mut items = self.subscription.items.iter();
        let held = items.find(|item| item.price_id.as_deref() == Some(price_id));
        let mut addons = self.prices.addons.iter();
        match (held, addons.find(|addon| addon.price_id == price_id)) {
            (Some(item), _) => item.unit_amount,
            (None, Some(addon)) => addon.unit_amount,
            (None, None) => self.seat,
        }
    }

    /// The same change with what it charges for usage.
    pub fn charging(self, usage: Vec<BillableUsage>) -> Self {
        Self { usage, ..self }
    }

    /// The metered prices that it removes, keeps and adds.
    pub fn usage_prices(&self) -> UsagePrices<'_> {
        UsagePrices::of(Some(self.subscription), Some(self.prices), self.catalogue)
    }

    /// What it charges for usage.
    pub fn usage(&self) -> Vec<UsageCharge> {
        self.usage.iter().map(|one| one.charge.clone()).collect()
    }

    /// The prices of the metered items that it removes.
    pub fn removed_prices(&self) -> Vec<&str> {
        let items = self.subscription.items.iter();
        let removed = items.filter(|item| item.metered && self.removes(&item.id));
        removed
            .filter_map(|item| item.price_id.as_deref())
            .collect()
    }

    /// Whether it begins the period anew.
    pub fn restarts(&self) -> bool {
        self.restarts
    }

    /// Whether the metric of a metered item that it removes keeps a price.
    pub fn has_price_for(&self, metric: &str) -> bool {
        self.prices.metered.contains_key(metric)
    }

    pub(super) fn removes(&self, id: &str) -> bool {
        let removed =
            |other: &Other<'_>| matches!(other, Other::Removed { item_id } if *item_id == id);
        self.others.iter().any(removed)
    }

    /// Whether Stripe is asked for a change of another item. It previews the change as the
    /// subscription is: without flexible billing there is no usage by the month beside a fee
    /// by the year, and with it the next invoice would be that of a month's usage, before
    /// the change takes effect. Usage charges nothing in advance, so that the amounts are
    /// the same.
    fn is_asked(&self, other: &Other<'_>, previews: bool) -> bool {
        let misleads = self.needs_flexible || (self.later && self.mixes);
        !(previews && misleads && matches!(other, Other::Added { .. }))
    }

    /// Whether a change at the period's end is previewed as if it were now, since Stripe
    /// previews no other interval later.
    pub(super) fn is_previewed_anew(&self) -> bool {
        self.later && self.changes_interval && !self.subscription.on_trial()
    }

    /// The items that a preview leaves out for that, and the change keeps.
    fn left_out(&self, previews: bool) -> Vec<Other<'a>> {
        let items = self.subscription.items.iter();
        items
            .filter(|item| previews && self.needs_flexible && item.metered)
            .filter(|item| !self.removes(&item.id))
            .map(|item| Other::Removed { item_id: &item.id })
            .collect()
    }

    /// The parameters nested under `prefix`, such as `subscription_details`; an
    /// empty prefix is for the change itself.
    pub fn parameters(&self, prefix: &str, proration_behavior: ProrationBehavior) -> Params {
        let name = |name: &str| match (prefix, name.split_once('[')) {
            ("", _) => name.to_owned(),
            (prefix, Some((first, rest))) => format!("{prefix}[{first}][{rest}"),
            (prefix, None) => format!("{prefix}[{name}]"),
        };
        let behavior = match proration_behavior {
            ProrationBehavior::AlwaysInvoice => "always_invoice",
            ProrationBehavior::CreateProrations => "create_prorations",
            ProrationBehavior::None => "none",
        };
        let mut params = Params::new()
            .set(name("items[0][id]"), self.item_id)
            .set(name("proration_behavior"), behavior);
        let fee = self.quantities.fee;
        let there = self.base_is_there.map(|item_id| Other::Licensed {
            item_id: Some(item_id),
            price_id: &self.prices.base,
            quantity: fee.unwrap_or(1),
        });
        params = if there.is_some() {
            params.set(name("items[0][deleted]"), true)
        } else {
            params
                .set(name("items[0][price]"), &self.prices.base)
                .set_if(&name("items[0][quantity]"), fee)
        };
        let there = there.iter().filter(|_| fee.is_some());
        let previews = !prefix.is_empty();
        let left_out = self.left_out(previews);
        let others = self
            .others
            .iter()
            .filter(|other| self.is_asked(other, previews));
        for (n, other) in (1..).zip(others.chain(there).chain(&left_out)) {
            params = other.set(params, |field| name(&format!("items[{n}][{field}]")));
        }
        // A trial has nothing to prorate.
        if !self.subscription.on_trial() && !self.later {
            params = params.set(name("proration_date"), self.at.as_second());
        }
        if self.restarts || self.is_previewed_anew() {
            params = params.set(name("billing_cycle_anchor"), "now");
        }
        // Without prorations, it is asked what the renewal comes to by itself.
        let charged = proration_behavior != ProrationBehavior::None;
        for (n, usage) in self.usage.iter().filter(|_| charged).enumerate() {
            params = match prefix {
                "" => usage.added(params, n, self.at),
                _ => usage.previewed(params, n, self.at),
            };
        }
        // Choosing a plan cancels a scheduled end.
        if self.keeps_prices {
            return params;
        }
        if self.subscription.cancel_at_period_end {
            params = params.set(name("cancel_at_period_end"), false);
        } else if self.subscription.cancel_at.is_some() {
            params = params.set(name("cancel_at"), "");
        }
        params
    }
}
