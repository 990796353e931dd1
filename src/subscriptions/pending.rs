//! A change that is still to come: what a subscription's schedule will make of it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::command::addons::{self, numbers};
use super::command::{AddonItem, AddonPrice, ChangeRejection};
use super::prices::PricedAddon;
use super::selection::Quantities;
use super::state::SubscriptionRow;
use crate::catalogue::{Addons, Catalogue, Interval, OnPlanChange, Plan, PriceUse, count_addons};
use crate::stripe::objects::{PhaseItem, SchedulePhase};

/// The schedule that drives a subscription, as it is mirrored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub current_phase_start: Option<Timestamp>,
    pub phases: Vec<SchedulePhase>,
    /// The change of this service that made it so.
    pub change_id: Option<String>,
}

impl Schedule {
    /// Whether its last phase has begun, so that nothing follows from it.
    fn is_spent(&self) -> bool {
        let begun = self.current_phase_start;
        begun.is_some() && self.phases.iter().all(|phase| phase.start <= begun)
    }
}

/// When a pending change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PendingWhen {
    /// When the current period ends.
    PeriodEnd,
    /// At another time, that was set in Stripe.
    Scheduled,
    /// When it is paid, which its payer has to do.
    Paid,
}

/// A change that takes effect later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingChange {
    /// `None` if the catalogue has none of the new prices.
    pub plan_tier: Option<String>,
    /// The version of the plan; `None`: the one that is sold then.
    pub plan_version: Option<i32>,
    /// By which the plan is paid then, if that is known.
    pub interval: Option<Interval>,
    /// The seats, all of them, where they are bought; else how many of the plan's price.
    pub quantity: Option<i64>,
    /// The seats that are bought then.
    pub seats: Option<u32>,
    /// The add-ons beside it.
    pub held_addons: Addons,
    pub effective_at: Timestamp,
    pub when: PendingWhen,
    /// Stripe's schedule that makes the change.
    pub stripe_schedule_id: String,
    /// Whether it is a later version of the plan that is held, by the same interval: an
    /// operator has chosen it, and not the customer.
    pub migrates: bool,
}

/// What is bought with the items of a phase, or of a change that waits for its payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub plan_tier: Option<String>,
    pub plan_version: Option<i32>,
    pub interval: Option<Interval>,
    pub quantity: Option<i64>,
    pub seats: Option<u32>,
    pub addons: Addons,
}

impl Terms {
    pub fn of(phase: &SchedulePhase, catalogue: &Catalogue) -> Self {
        let fee = phase_fee(phase, catalogue);
        let plan_tier = fee.as_ref().map(|(tier, _)| tier.clone());
        let quantity = fee.as_ref().and_then(|(_, item)| item.quantity);
        let interval = fee
            .as_ref()
            .and_then(|(_, item)| Interval::of(item.interval.as_deref(), None));
        let plan_version = phase_version(phase, plan_tier.as_deref());
        let terms = plan_tier
            .as_deref()
            .and_then(|tier| catalogue.known_or_sold(tier, plan_version));
        let seats = terms.and_then(|terms| {
            let beside = phase.items.iter().filter(|item| is_seat(item, catalogue));
            let beside = beside.map(|item| item.quantity.unwrap_or(1));
            let beside = beside.fold(0, i64::saturating_add);
            Some(terms.licensed_seats()?.bought(quantity, beside))
        });
        Self {
            plan_tier,
            plan_version,
            interval,
            quantity: seats.map(i64::from).or(quantity),
            seats,
            addons: phase_addons(phase, catalogue),
        }
    }
}

/// A pending change whose seats and add-ons follow a change of those.
#[derive(Debug, Clone)]
pub struct Following {
    pub schedule: String,
    pub starts_at: Timestamp,
    /// Whether it begins with the next period.
    pub renews: bool,
    /// As it is bought then.
    pub plan: Plan,
    pub version: Option<i32>,
    pub quantities: Quantities,
    /// The quantities that it would have had.
    before: Quantities,
    fee_price: String,
    seat_prices: Vec<String>,
    /// The add-ons that follow, with the numbers before and after.
    pub addons: Vec<FollowingAddon>,
    items: Vec<PhaseItem>,
}

/// An add-on of a pending change of which there is another number.
#[derive(Debug, Clone)]
pub struct FollowingAddon {
    /// `None` if there is none any more.
    pub after: Option<AddonItem>,
    /// Its prices in the phase.
    prices: Vec<String>,
    before: u32,
    /// What each of those before would have cost.
    unit_before: Option<i64>,
}

impl PendingChange {
    /// The terms of the plan, as they are paid then.
    pub(super) fn terms(
        &self,
        catalogue: &Catalogue,
        subscription: &SubscriptionRow,
    ) -> Option<Plan> {
        let terms = catalogue.known_or_sold(self.plan_tier.as_deref()?, self.plan_version)?;
        Some(terms.paid_in(subscription.currency.as_deref(), self.interval))
    }
}

impl Following {
    /// Whether it gets seats that are charged by a price which it does not have yet.
    pub fn needs_seat_price(&self) -> bool {
        self.beside().is_some() && self.seat_prices.is_empty()
    }

    fn beside(&self) -> Option<u64> {
        self.quantities.beside.filter(|seats| *seats > 0)
    }

    /// The items of the phase: prices with quantities. `new` is the price of a seat,
    /// where it has none yet; `addons` those of the add-ons that follow.
    pub fn items(&self, new: Option<&str>, addons: &[PricedAddon]) -> Vec<(String, Option<u64>)> {
        let seat = self.seat_prices.iter().min().map(String::as_str).or(new);
        let mut items = Vec::new();
        for item in &self.items {
            let Some(price) = item.price.clone() else {
                continue;
            };
            if price == self.fee_price {
                let same = item.quantity.and_then(|quantity| quantity.try_into().ok());
                items.push((price, self.quantities.fee.or(same)));
            } else if !self.seat_prices.contains(&price) && !self.replaces(&price) {
                let same = item.quantity.and_then(|quantity| quantity.try_into().ok());
                items.push((price, same));
            }
        }
        if let (Some(price), Some(seats)) = (seat, self.beside()) {
            items.push((price.to_owned(), Some(seats)));
        }
        let addons = addons.iter();
        items.extend(addons.map(|one| (one.price_id.clone(), Some(one.quantity.into()))));
        items
    }

    /// Whether a price of the phase is that of an add-on that follows.
    fn replaces(&self, price: &str) -> bool {
        let mut prices = self.addons.iter().flat_map(|addon| &addon.prices);
        prices.any(|one| one == price)
    }

    /// How much more the first invoice is than it would have been.
    pub fn costs_more(&self) -> i64 {
        let cost = |quantities: &Quantities| {
            let fee = (self.plan.price.amount, quantities.fee.unwrap_or(1));
            let seat = self.plan.seat_price().map_or(0, |price| price.amount);
            let parts = [fee, (seat, quantities.beside.unwrap_or(0))];
            parts.into_iter().fold(0_i64, |sum, (amount, quantity)| {
                let quantity = i64::try_from(quantity).unwrap_or(i64::MAX);
                sum.saturating_add(amount.saturating_mul(quantity))
            })
        };
        let seats = cost(&self.quantities).saturating_sub(cost(&self.before));
        self.addons.iter().fold(seats, |sum, addon| {
            let (before, after) = addon.costs();
            sum.saturating_add(after).saturating_sub(before)
        })
    }
}

impl FollowingAddon {
    fn costs(&self) -> (i64, i64) {
        let cost = |unit: i64, quantity: u32| unit.saturating_mul(quantity.into());
        let after = self.after.as_ref();
        let after = after.map_or(0, |one| cost(one.unit_amount().unwrap_or(0), one.quantity));
        (cost(self.unit_before.unwrap_or(0), self.before), after)
    }
}

/// The item that pays for the plan during a phase, and the plan: the highest one's, if
/// there are several.
fn phase_fee<'p>(
    phase: &'p SchedulePhase,
    catalogue: &Catalogue,
) -> Option<(String, &'p PhaseItem)> {
    let fees = phase.items.iter().filter_map(|item| {
        let used = used(item, catalogue).filter(PriceUse::is_fee)?;
        Some((used.tier, item))
    });
    fees.max_by_key(|(tier, item)| (catalogue.rank(tier), item.price.clone()))
}

/// The version of its plan, `tier`, that a phase names.
fn phase_version(phase: &SchedulePhase, tier: Option<&str>) -> Option<i32> {
    let (named, version) = phase.plan_version.as_deref()?.rsplit_once('@')?;
    version.parse().ok().filter(|_| Some(named) == tier)
}

/// The add-ons during a phase.
fn phase_addons(phase: &SchedulePhase, catalogue: &Catalogue) -> Addons {
    let items = phase.items.iter();
    count_addons(items.filter_map(|item| Some((used(item, catalogue)?.addon?, item.quantity))))
}

fn is_seat(item: &PhaseItem, catalogue: &Catalogue) -> bool {
    used(item, catalogue).is_some_and(|used| used.seats)
}

impl SubscriptionRow {
    /// The next change that its schedule makes of its items.
    pub(super) fn find_pending_change(&self, catalogue: &Catalogue) -> Option<PendingChange> {
        let id = self.schedule_id.clone()?;
        let schedule = self.schedule.as_ref()?;
        let begun = schedule.current_phase_start.max(self.period_start);
        let later = schedule.phases.iter().filter_map(|phase| {
            let at = phase.start.filter(|at| Some(*at) > begun)?;
            let differs = !self.has_items_of(phase) || self.has_other_version(phase, catalogue);
            differs.then_some((at, phase))
        });
        let (effective_at, phase) = later.min_by_key(|(at, _)| *at)?;
        let terms = Terms::of(phase, catalogue);
        let (plan_tier, interval) = (terms.plan_tier, terms.interval);
        let held = self.base_item(catalogue).filter(|(item, plan)| {
            Some(&plan.tier) == plan_tier.as_ref() && item.plan_interval() == interval
        });
        let held = held.map(|(_, plan)| {
            let oldest = || catalogue.oldest_version(&plan.tier);
            self.plan_version.or_else(oldest)
        });
        Some(PendingChange {
            held_addons: terms.addons,
            migrates: held.is_some_and(|version| terms.plan_version > version),
            plan_tier,
            plan_version: terms.plan_version,
            interval,
            quantity: terms.quantity,
            seats: terms.seats,
            effective_at,
            when: if Some(effective_at) == self.period_end {
                PendingWhen::PeriodEnd
            } else {
                PendingWhen::Scheduled
            },
            stripe_schedule_id: id,
        })
    }

    /// What a pending change becomes where there are other seats, and `beside` instead of the
    /// add-ons `had`: it has as many, if it was to have as many. Other numbers than those
    /// were asked for.
    pub(super) fn following(
        &self,
        catalogue: &Catalogue,
        (before, after): (Option<u32>, Option<u32>),
        had: &Addons,
        beside: &[AddonItem],
    ) -> Result<Option<Following>, ChangeRejection> {
        let Some((pending, phase)) = self.pending_phase() else {
            return Ok(None);
        };
        let terms = pending.terms(catalogue, self);
        let fee = phase_fee(phase, catalogue).and_then(|(_, fee)| fee.price.clone());
        let (Some(terms), Some(fee_price)) = (terms, fee) else {
            return Ok(None);
        };
        let addons = self.following_addons(catalogue, &terms, had, beside)?;
        let seats = terms.licensed_seats().and_then(|of_plan| {
            let fewest = of_plan.fewest();
            let (had, seats) = (before?.max(fewest), after?.max(fewest));
            (pending.seats == Some(had) && seats != had).then_some(seats)
        });
        if seats.is_none() && addons.is_empty() {
            return Ok(None);
        }
        let seats = seats.or(pending.seats);
        let seat_items = phase.items.iter().filter(|item| is_seat(item, catalogue));
        Ok(Some(Following {
            schedule: pending.stripe_schedule_id.clone(),
            starts_at: pending.effective_at,
            renews: pending.when == PendingWhen::PeriodEnd,
            quantities: Quantities::of(&terms, seats),
            before: Quantities::of(&terms, pending.seats),
            plan: terms.with_seats(seats),
            version: pending.plan_version,
            fee_price,
            seat_prices: seat_items.filter_map(|item| item.price.clone()).collect(),
            addons,
            items: phase.items.clone(),
        }))
    }

    /// The pending change, and the phase of the schedule that makes it.
    fn pending_phase(&self) -> Option<(&PendingChange, &SchedulePhase)> {
        let pending = self.pending.as_ref()?;
        let mut phases = self.schedule.as_ref()?.phases.iter();
        let phase = phases.find(|phase| phase.start == Some(pending.effective_at))?;
        Some((pending, phase))
    }

    /// The add-ons of the pending change that follow a change from `had` to `beside`.
    fn following_addons(
        &self,
        catalogue: &Catalogue,
        terms: &Plan,
        had: &Addons,
        beside: &[AddonItem],
    ) -> Result<Vec<FollowingAddon>, ChangeRejection> {
        let Some((pending, phase)) = self.pending_phase() else {
            return Ok(Vec::new());
        };
        let after = numbers(beside);
        let ids: BTreeSet<&String> = had.keys().chain(after.keys()).collect();
        let number = |addons: &Addons, id: &String| addons.get(id).copied().unwrap_or(0);
        let same_plan = self.plan_tier.as_ref() == Some(&terms.tier);
        let follows = |id: &String| {
            let addon = catalogue.addon(id).filter(|one| one.goes_with(terms));
            addon.is_some_and(|one| same_plan || one.on_plan_change == OnPlanChange::Keep)
        };
        let mut following = Vec::new();
        for id in ids {
            let (before, now) = (number(had, id), number(&after, id));
            let stays_out = before == 0 && !follows(id);
            if before == now || number(&pending.held_addons, id) != before || stays_out {
                continue;
            }
            let of_addon = |item: &&PhaseItem| {
                used(item, catalogue).is_some_and(|used| used.addon.as_ref() == Some(id))
            };
            let prices = phase.items.iter().filter(of_addon);
            let prices: Vec<String> = prices.filter_map(|item| item.price.clone()).collect();
            let unit = |price: &str| {
                let mut items = self.items.iter();
                let held = items.find(|item| item.price_id.as_deref() == Some(price));
                held.and_then(|item| item.unit_amount)
            };
            let sold = catalogue
                .addon(id)
                .and_then(|one| one.price_beside(&terms.price));
            let unit_before = prices.iter().find_map(|price| unit(price));
            let after = match now {
                0 => None,
                quantity => Some(self.priced_then(catalogue, terms, (id, quantity), &prices)?),
            };
            following.push(FollowingAddon {
                after,
                prices,
                before,
                unit_before: unit_before.or(sold.map(|price| price.amount)),
            });
        }
        Ok(following)
    }

    /// An add-on of a pending change, at the price that the phase has, or else as it is to
    /// be had beside those terms.
    fn priced_then(
        &self,
        catalogue: &Catalogue,
        terms: &Plan,
        (id, quantity): (&str, u32),
        prices: &[String],
    ) -> Result<AddonItem, ChangeRejection> {
        let mut item = addons::priced(Some(self), catalogue, id, quantity, terms)?;
        if let Some(price_id) = prices.iter().min() {
            item.price = AddonPrice::Held {
                price_id: price_id.clone(),
                unit_amount: item.unit_amount(),
            };
        }
        Ok(item)
    }

    /// Whether a phase names another version of its plan. Its prices may be the same.
    fn has_other_version(&self, phase: &SchedulePhase, catalogue: &Catalogue) -> bool {
        let tier = phase_fee(phase, catalogue).map(|(tier, _)| tier);
        let version = phase_version(phase, tier.as_deref());
        version.is_some_and(|version| Some(version) != self.plan_version)
    }

    fn has_items_of(&self, phase: &SchedulePhase) -> bool {
        let mut now: Vec<(Option<&str>, Option<i64>)> = self
            .items
            .iter()
            .map(|item| (item.price_id.as_deref(), item.quantity))
            .collect();
        let mut then: Vec<(Option<&str>, Option<i64>)> = phase
            .items
            .iter()
            .map(|item| (item.price.as_deref(), item.quantity))
            .collect();
        now.sort_unstable();
        then.sort_unstable();
        now == then
    }

    /// What a preview promises as long as it stays so.
    pub(super) fn scheduled(&self) -> Value {
        match &self.schedule {
            // A change may release it before it is priced again.
            Some(schedule) if schedule.is_spent() => Value::Null,
            Some(schedule) => json!([self.schedule_id, schedule.change_id, schedule.phases]),
            None => json!(self.schedule_id),
        }
    }
}

fn used(item: &PhaseItem, catalogue: &Catalogue) -> Option<PriceUse> {
    let mirrored = match &item.addon {
        Some(id) => Some(PriceUse::addon(id)),
        // An older replica writes an add-on's empty plan.
        None => (item.plan_tier.clone().filter(|tier| !tier.is_empty())).map(|tier| PriceUse {
            tier,
            metric: item.metric.clone(),
            seats: item.seats,
            addon: None,
        }),
    };
    mirrored.or_else(|| catalogue.price_use(item.lookup_key.as_deref(), item.price.as_deref()))
}
