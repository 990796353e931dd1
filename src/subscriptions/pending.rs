//! A change that is still to come: what a subscription's schedule will make of it.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::selection::Quantities;
use super::state::SubscriptionRow;
use crate::catalogue::{Catalogue, Interval, Plan, PriceUse};
use crate::stripe::objects::{PhaseItem, SchedulePhase};

/// The schedule that drives a subscription, as it is mirrored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub current_phase_start: Option<Timestamp>,
    pub phases: Vec<SchedulePhase>,
    /// The change of this service that made it so.
    pub change_id: Option<String>,
}

/// When a pending change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PendingWhen {
    /// When the current period ends.
    PeriodEnd,
    /// At another time, that was set in Stripe.
    Scheduled,
}

/// A change that takes effect later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingChange {
    /// Null if the catalogue has none of the new prices.
    #[schema(required, example = "standard")]
    pub plan_tier: Option<String>,
    /// The version of the plan; null: the one that is sold then.
    #[schema(required)]
    pub plan_version: Option<i32>,
    /// By which the plan is paid then; null if that is not known.
    #[schema(required)]
    pub interval: Option<Interval>,
    /// The seats, all of them, where they are bought; else how many of the plan's price.
    #[schema(required)]
    pub quantity: Option<i64>,
    /// The seats that are bought then.
    #[serde(skip)]
    pub seats: Option<u32>,
    pub effective_at: Timestamp,
    pub when: PendingWhen,
    /// Stripe's schedule that makes the change.
    pub stripe_schedule_id: String,
    /// Whether it is a later version of the plan that is held, by the same interval: an
    /// operator has chosen it, and not the customer.
    #[serde(skip)]
    pub migrates: bool,
}

/// A pending change whose seats follow a change of seats.
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
    items: Vec<PhaseItem>,
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
    /// where it has none yet.
    pub fn items(&self, new: Option<&str>) -> Vec<(String, Option<u64>)> {
        let seat = self.seat_prices.iter().min().map(String::as_str).or(new);
        let mut items = Vec::new();
        for item in &self.items {
            let Some(price) = item.price.clone() else {
                continue;
            };
            if price == self.fee_price {
                let same = item.quantity.and_then(|quantity| quantity.try_into().ok());
                items.push((price, self.quantities.fee.or(same)));
            } else if !self.seat_prices.contains(&price) {
                let same = item.quantity.and_then(|quantity| quantity.try_into().ok());
                items.push((price, same));
            }
        }
        if let (Some(price), Some(seats)) = (seat, self.beside()) {
            items.push((price.to_owned(), Some(seats)));
        }
        items
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
        cost(&self.quantities).saturating_sub(cost(&self.before))
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
        let held = self.base_item(catalogue).filter(|(item, plan)| {
            Some(&plan.tier) == plan_tier.as_ref() && item.plan_interval() == interval
        });
        let held = held.map(|(_, plan)| {
            let oldest = || catalogue.oldest_version(&plan.tier);
            self.plan_version.or_else(oldest)
        });
        Some(PendingChange {
            migrates: held.is_some_and(|version| plan_version > version),
            plan_tier,
            plan_version,
            interval,
            quantity: seats.map(i64::from).or(quantity),
            seats,
            effective_at,
            when: if Some(effective_at) == self.period_end {
                PendingWhen::PeriodEnd
            } else {
                PendingWhen::Scheduled
            },
            stripe_schedule_id: id,
        })
    }

    /// What a pending change becomes where there are `after` seats instead of `before`:
    /// it has as many, if it was to have as many. Others than those were asked for.
    pub(super) fn pending_with_seats(
        &self,
        catalogue: &Catalogue,
        before: Option<u32>,
        after: Option<u32>,
    ) -> Option<Following> {
        let pending = self.pending.as_ref()?;
        let terms = pending.terms(catalogue, self)?;
        let fewest = terms.licensed_seats()?.fewest();
        let (had, seats) = (before?.max(fewest), after?.max(fewest));
        if pending.seats != Some(had) || seats == had {
            return None;
        }
        let mut phases = self.schedule.as_ref()?.phases.iter();
        let phase = phases.find(|phase| phase.start == Some(pending.effective_at))?;
        let (_, fee) = phase_fee(phase, catalogue)?;
        let seat_items = phase.items.iter().filter(|item| is_seat(item, catalogue));
        Some(Following {
            schedule: pending.stripe_schedule_id.clone(),
            starts_at: pending.effective_at,
            renews: pending.when == PendingWhen::PeriodEnd,
            quantities: Quantities::of(&terms, Some(seats)),
            before: Quantities::of(&terms, Some(had)),
            plan: terms.with_seats(Some(seats)),
            version: pending.plan_version,
            fee_price: fee.price.clone()?,
            seat_prices: seat_items.filter_map(|item| item.price.clone()).collect(),
            items: phase.items.clone(),
        })
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
            Some(schedule) => json!([self.schedule_id, schedule.change_id, schedule.phases]),
            None => json!(self.schedule_id),
        }
    }
}

fn used(item: &PhaseItem, catalogue: &Catalogue) -> Option<PriceUse> {
    let mirrored = item.plan_tier.clone().map(|tier| PriceUse {
        tier,
        metric: item.metric.clone(),
        seats: item.seats,
    });
    mirrored.or_else(|| catalogue.price_use(item.lookup_key.as_deref(), item.price.as_deref()))
}
