//! The billing periods that a batch changes, and with them the periods that
//! usage counts in.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::event_order;
use billing_domain::status::SubscriptionStatus;
use sqlx::PgConnection;
use uuid::Uuid;

use super::store;
use super::subscription::{Change, StoredSubscription};
use super::types::Results;
use super::versions::Mirrored as _;
use super::versions::merge::ObjectKey;
use crate::catalogue::Catalogue;
use crate::metering::ledger::{ClosedPeriod, Renewed};
use crate::stripe::event::EventData;
use crate::stripe::objects::Subscription;
use crate::stripe::requests::request_of_key;

/// The subscriptions whose next period begins.
pub fn renewed(
    catalogue: &Catalogue,
    stored: &BTreeMap<ObjectKey, StoredSubscription>,
    changes: &[Change],
) -> Vec<Renewed> {
    let renewed = changes.iter().filter_map(|change| {
        let new = &change.merged.snapshot;
        let key = (change.merged.organization_id, new.id.clone());
        let (known, _) = stored.get(&key)?.counting_period;
        let (start, _) = catalogue.counting_period_of(new);
        let start = start.filter(|start| known.is_some_and(|known| known < *start))?;
        Some(Renewed {
            organization_id: key.0,
            subscription_id: key.1,
            start,
        })
    });
    renewed.collect()
}

/// The organizations whose usage may count in another period than before.
pub fn moved(
    catalogue: &Catalogue,
    stored: &BTreeMap<ObjectKey, StoredSubscription>,
    changes: &[Change],
    told: &[ClosedPeriod],
) -> Vec<Uuid> {
    let differs = |change: &&Change| {
        let new = &change.merged.snapshot;
        let key = (change.merged.organization_id, new.id.clone());
        stored.get(&key).is_none_or(|old| {
            old.period != catalogue.period_of(new)
                || old.counting_period != catalogue.counting_period_of(new)
                || old.status.grants_plan() != change.status.grants_plan()
        })
    };
    let organizations = changes.iter().filter(differs);
    let organizations: BTreeSet<Uuid> = organizations
        .map(|change| change.merged.organization_id)
        .chain(told.iter().map(|told| told.organization_id))
        .collect();
    organizations.into_iter().collect()
}

/// The organizations whose suspended subscription continues.
pub fn resumed(stored: &BTreeMap<ObjectKey, StoredSubscription>, changes: &[Change]) -> Vec<Uuid> {
    let resumes = |change: &&Change| {
        let key = (
            change.merged.organization_id,
            change.merged.snapshot.id.clone(),
        );
        let was = stored.get(&key).map(|old| &old.status);
        was.is_some_and(SubscriptionStatus::is_suspended) && change.status.grants_plan()
    };
    let resumed = changes.iter().filter(resumes);
    resumed
        .map(|change| change.merged.organization_id)
        .collect()
}

/// The organizations whose period ends and whose subscription granted nothing before the
/// batch, because it is past due. Stripe continues its periods, but usage in the meantime
/// belongs to none of them.
pub fn interrupted(
    stored: &BTreeMap<ObjectKey, StoredSubscription>,
    renewed: &[Renewed],
    told: &[ClosedPeriod],
) -> Vec<Uuid> {
    let renewed = renewed.iter().map(|renewed| renewed.organization_id);
    let told = told.iter().map(|told| told.organization_id);
    let concerned: BTreeSet<Uuid> = renewed.chain(told).collect();
    let ended = stored.iter().filter(|(_, row)| row.access.ended);
    let ended: BTreeSet<Uuid> = ended.map(|(key, _)| key.0).collect();
    ended.intersection(&concerned).copied().collect()
}

/// The periods that have ended according to the batch's events, superseded ones
/// included. When a subscription ends beside another, the events of the other
/// count from then on.
pub async fn ended_periods(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    results: &Results<'_>,
    stored: &BTreeMap<ObjectKey, StoredSubscription>,
) -> Result<Vec<ClosedPeriod>, sqlx::Error> {
    let earlier = results.decoded.iter().filter_map(|event| {
        Subscription::of(&event.object)?;
        before(&event.data)
    });
    let earlier: Vec<Subscription> = earlier.collect();
    catalogue.recall(conn, &earlier).await?;
    let mut told = Vec::new();
    let mut beside = BTreeSet::new();
    for event in results.decoded {
        let (Some(owner), Some(subscription)) = (event.owner, Subscription::of(&event.object))
        else {
            continue;
        };
        told.extend(begun(catalogue, owner, &event.data, subscription));
        told.extend(ended(catalogue, owner, subscription));
        if subscription.status.is_ended() {
            let others = stored
                .keys()
                .filter(|(of, id)| *of == owner && *id != subscription.id);
            beside.extend(others.cloned());
        }
    }
    for (owner, id) in beside {
        for kept in store::events_of(conn, owner, &id).await? {
            let read = EventData::read(&kept.payload).ok();
            let read = read.and_then(|data| Some((Subscription::read(&data.object).ok()?, data)));
            if let Some((subscription, data)) = read {
                let earlier = before(&data);
                catalogue
                    .recall(conn, earlier.iter().chain([&subscription]))
                    .await?;
                told.extend(begun(catalogue, owner, &data, &subscription));
                told.extend(ended(catalogue, owner, &subscription));
            }
        }
    }
    Ok(told)
}

/// The subscription before an event that may have begun a period.
fn before(data: &EventData) -> Option<Subscription> {
    let changed = data.previous_attributes.as_ref()?;
    if !changed.contains_key("items") && !changed.contains_key("current_period_start") {
        return None;
    }
    Subscription::read(&event_order::before(&data.object, changed)).ok()
}

/// The period that ended when the event's period began.
fn begun(
    catalogue: &Catalogue,
    owner: Uuid,
    data: &EventData,
    after: &Subscription,
) -> Option<ClosedPeriod> {
    let before = before(data)?;
    let (end, _) = catalogue.counting_period_of(after);
    // Usage of a suspended subscription is free.
    let counted = before.status.grants_plan();
    let told = counted.then(|| over(catalogue, owner, &before, end?.as_second()))??;
    let cause = data.caused_by.as_deref();
    Some(ClosedPeriod {
        ours: cause.and_then(request_of_key).is_some(),
        ..told
    })
}

/// The last period of an ended subscription.
fn ended(catalogue: &Catalogue, owner: Uuid, subscription: &Subscription) -> Option<ClosedPeriod> {
    let canceled = subscription.status == SubscriptionStatus::Canceled;
    let end = subscription.ended_at.filter(|_| canceled)?;
    let told = over(catalogue, owner, subscription, end.as_second())?;
    let by_schedule = subscription.cancel_at == Some(end);
    Some(ClosedPeriod {
        at_once: told.at_once && !by_schedule,
        ..told
    })
}

fn over(
    catalogue: &Catalogue,
    organization_id: Uuid,
    subscription: &Subscription,
    end: i64,
) -> Option<ClosedPeriod> {
    let (start, planned) = catalogue.counting_period_at(subscription, end - 1);
    let start = start?.as_second();
    let items = subscription.items.iter();
    let prices = items.filter_map(|item| {
        let metric = catalogue.item_use(item)?.metric?;
        Some((metric, item.price_id.clone()?))
    });
    (start < end).then(|| ClosedPeriod {
        organization_id,
        subscription_id: subscription.id.clone(),
        created: subscription.created.map_or(start, |at| at.as_second()),
        start,
        end,
        ours: true,
        at_once: planned.is_none_or(|planned| end < planned.as_second()),
        prices: (!subscription.has_more_items).then(|| prices.collect()),
    })
}
