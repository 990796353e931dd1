//! A change that is still to come: what a subscription's schedule will make of it.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::state::SubscriptionRow;
use crate::catalogue::{Catalogue, PriceUse};
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
    /// How many of the plan's price.
    #[schema(required)]
    pub quantity: Option<i64>,
    pub effective_at: Timestamp,
    pub when: PendingWhen,
    /// Stripe's schedule that makes the change.
    pub stripe_schedule_id: String,
}

impl SubscriptionRow {
    /// The next change that its schedule makes of its items.
    pub(super) fn find_pending_change(&self, catalogue: &Catalogue) -> Option<PendingChange> {
        let id = self.schedule_id.clone()?;
        let schedule = self.schedule.as_ref()?;
        let begun = schedule.current_phase_start.max(self.period_start);
        let later = schedule.phases.iter().filter_map(|phase| {
            let at = phase.start.filter(|at| Some(*at) > begun)?;
            (!self.has_items_of(phase)).then_some((at, phase))
        });
        let (effective_at, phase) = later.min_by_key(|(at, _)| *at)?;
        let fees = phase.items.iter().filter_map(|item| {
            let used = used(item, catalogue).filter(|used| used.metric.is_none())?;
            Some((used.tier, item))
        });
        let fee = fees.max_by_key(|(tier, item)| (catalogue.rank(tier), item.price.clone()));
        let (plan_tier, quantity) = match fee {
            Some((tier, item)) => (Some(tier), item.quantity),
            None => (None, None),
        };
        let named = phase.plan_version.as_deref();
        let named = named.and_then(|version| version.rsplit_once('@'));
        let named = named.filter(|(tier, _)| Some(*tier) == plan_tier.as_deref());
        Some(PendingChange {
            plan_version: named.and_then(|(_, version)| version.parse().ok()),
            plan_tier,
            quantity,
            effective_at,
            when: if Some(effective_at) == self.period_end {
                PendingWhen::PeriodEnd
            } else {
                PendingWhen::Scheduled
            },
            stripe_schedule_id: id,
        })
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
    });
    mirrored.or_else(|| catalogue.price_use(item.lookup_key.as_deref(), item.price.as_deref()))
}
