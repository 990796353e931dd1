//! Projects subscription schedules: what subscriptions are to become.

use billing_domain::event_order::EventOrder;
use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::store;
use super::types::{Effects, Results};
use super::versions::{Mirrored, Version, merge};
use crate::catalogue::{Catalogue, Interval, PriceUse};
use crate::stripe::objects::{
    BillingObject, PhaseItem, SchedulePhase, Subscription, SubscriptionSchedule,
};

impl Mirrored for SubscriptionSchedule {
    const RESOURCE: &'static str = "subscription_schedule";

    fn of(object: &BillingObject) -> Option<&Self> {
        match object {
            BillingObject::SubscriptionSchedule(schedule) => Some(schedule),
            _ => None,
        }
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn order(&self, event_type: &str, created: i64) -> EventOrder {
        let rank = match event_type {
            "subscription_schedule.created" => 0,
            "subscription_schedule.updated" => 1,
            _ => 2,
        };
        EventOrder {
            terminal: rank == 2 || self.is_ended(),
            created,
            rank,
        }
    }
}

/// What an audit entry shows.
pub struct Shown {
    pub subscription_id: Option<String>,
    pub status: String,
    pub end_behavior: Option<String>,
    pub current_phase_start: Option<Timestamp>,
    pub current_phase_end: Option<Timestamp>,
    pub phases: Vec<SchedulePhase>,
    pub released_at: Option<Timestamp>,
    pub canceled_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
}

/// Returns the subscriptions whose schedules have prices that are not known: events
/// show no lookup keys of them, and Stripe does.
pub async fn apply(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    results: &mut Results<'_>,
    effects: &mut Effects,
) -> Result<Vec<merge::ObjectKey>, sqlx::Error> {
    let keys = results.by_object::<SubscriptionSchedule>().into_keys();
    let keys: Vec<merge::ObjectKey> = keys.collect();
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let stored = store::schedules::load(conn, &keys).await?;
    let mut merged = merge::merge_events::<SubscriptionSchedule>(
        conn,
        results,
        effects,
        &stored,
        |_, schedule, _| summary(schedule),
    )
    .await?;
    let prices = merged.iter().flat_map(|one| prices_of(&one.snapshot));
    let prices: Vec<&str> = prices.collect();
    catalogue.recall_prices(conn, prices).await?;
    for one in &mut merged {
        name_plans(catalogue, &mut one.snapshot);
    }
    store::schedules::save(conn, &merged).await?;
    let unnamed = merged.iter().filter(|one| {
        let mut items = one.snapshot.phases.iter().flat_map(|phase| &phase.items);
        let is_known = |item: &PhaseItem| item.plan_tier.is_some() || item.addon.is_some();
        !one.snapshot.is_ended() && items.any(|item| !is_known(item))
    });
    let of = |one: &merge::MergedObject<SubscriptionSchedule>| {
        Some((one.organization_id, one.snapshot.subscription_id.clone()?))
    };
    Ok(unnamed.filter_map(of).collect())
}

/// The prices of a schedule's phases.
pub fn prices_of(schedule: &SubscriptionSchedule) -> impl Iterator<Item = &str> {
    let items = schedule.phases.iter().flat_map(|phase| &phase.items);
    items.filter_map(|item| item.price.as_deref())
}

/// Notes what each item is for: who reads it may not read the catalogue's prices.
fn name_plans(catalogue: &Catalogue, schedule: &mut SubscriptionSchedule) {
    let shown = |price: Option<&str>| {
        let mut prices = schedule.prices.iter();
        let shown = prices.find(|one| price.is_some() && one.price_id.as_deref() == price)?;
        Interval::of(shown.interval.as_deref(), shown.interval_count)
    };
    let intervals: Vec<Option<Interval>> = schedule
        .phases
        .iter()
        .flat_map(|phase| &phase.items)
        .map(|item| {
            let (key, price) = (item.lookup_key.as_deref(), item.price.as_deref());
            shown(price).or_else(|| catalogue.price_interval(key, price))
        })
        .collect();
    let items = schedule
        .phases
        .iter_mut()
        .flat_map(|phase| &mut phase.items);
    for (item, interval) in items.zip(intervals) {
        let used = catalogue.price_use(item.lookup_key.as_deref(), item.price.as_deref());
        let tier = used.as_ref().and_then(PriceUse::plan_tier);
        item.plan_tier = tier.map(str::to_owned);
        (item.metric, item.seats, item.addon) = match used {
            Some(used) => (used.metric, used.seats, used.addon),
            None => (None, false, None),
        };
        item.interval = interval.map(|interval| interval.as_str().to_owned());
    }
}

/// Mirrors a schedule from a response that came with `version`, unless what is stored
/// is newer. The catalogue must know its prices.
pub async fn mirror(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organization_id: uuid::Uuid,
    mut schedule: SubscriptionSchedule,
    version: Version,
) -> Result<(), sqlx::Error> {
    let key = (organization_id, schedule.id.clone());
    let stored = store::schedules::load(conn, std::slice::from_ref(&key)).await?;
    let stored = stored.get(&key);
    if stored.is_some_and(|stored| version.order() < stored.version.order()) {
        return Ok(());
    }
    name_plans(catalogue, &mut schedule);
    let written = merge::MergedObject {
        organization_id,
        version,
        snapshot: schedule,
        undecided: false,
    };
    store::schedules::save(conn, &[written]).await
}

/// Subscriptions with a schedule that no event has shown: it may be older than our
/// endpoint, or its events are not sent.
pub async fn unknown_to(
    conn: &mut PgConnection,
    merged: &[merge::MergedObject<Subscription>],
) -> Result<Vec<merge::ObjectKey>, sqlx::Error> {
    let scheduled = merged.iter().filter_map(|one| {
        let schedule = one.snapshot.schedule_id.clone()?;
        (!one.version.order().terminal).then_some((one, (one.organization_id, schedule)))
    });
    let (subscriptions, schedules): (Vec<_>, Vec<merge::ObjectKey>) = scheduled.unzip();
    if schedules.is_empty() {
        return Ok(Vec::new());
    }
    let known = store::schedules::load(conn, &schedules).await?;
    let both = subscriptions.into_iter().zip(schedules);
    let unknown = both.filter(|(_, schedule)| !known.contains_key(schedule));
    Ok(unknown
        .map(|(one, _)| (one.organization_id, one.snapshot.id.clone()))
        .collect())
}

fn summary(schedule: &SubscriptionSchedule) -> Value {
    summary_of(&Shown {
        subscription_id: schedule.subscription_id.clone(),
        status: schedule.status.clone(),
        end_behavior: schedule.end_behavior.clone(),
        current_phase_start: schedule.current_phase_start,
        current_phase_end: schedule.current_phase_end,
        phases: schedule.phases.clone(),
        released_at: schedule.released_at,
        canceled_at: schedule.canceled_at,
        completed_at: schedule.completed_at,
    })
}

pub fn summary_of(shown: &Shown) -> Value {
    let mut phases = shown.phases.clone();
    // Stripe's state alone, whatever the catalogue knew.
    for item in phases.iter_mut().flat_map(|phase| &mut phase.items) {
        (item.plan_tier, item.metric) = (None, None);
        (item.seats, item.addon, item.interval) = (false, None, None);
    }
    json!({
        "stripeSubscriptionId": shown.subscription_id,
        "status": shown.status,
        "endBehavior": shown.end_behavior,
        "currentPhaseStart": shown.current_phase_start,
        "currentPhaseEnd": shown.current_phase_end,
        "phases": phases,
        "releasedAt": shown.released_at,
        "canceledAt": shown.canceled_at,
        "completedAt": shown.completed_at,
    })
}
