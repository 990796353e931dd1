//! Finds the metered prices that a batch's subscriptions gain and lose while they go
//! on: what was used at a price that is gone is charged by `metering::charges`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use sqlx::PgConnection;
use uuid::Uuid;

use super::past_due::Accesses;
use super::store::{self, price_swaps::HeldItem};
use super::stripe_response::is_response;
use super::subscription::{Change, StoredSubscription};
use super::versions::merge::ObjectKey;
use crate::catalogue::Catalogue;
use crate::metering::charges::PriceSwap;
use crate::stripe::objects::Subscription;

/// The metadata key of a subscription that names our last change.
const CHANGE_KEY: &str = "billing_change_id";

/// The swaps of metered prices that `changes` make. Call it before they are written.
pub async fn found(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    stored: &BTreeMap<ObjectKey, StoredSubscription>,
    changes: &[Change],
    access: &Accesses,
) -> Result<Vec<PriceSwap>, sqlx::Error> {
    let going_on = changes.iter().filter_map(|change| {
        let key = key_of(change);
        let old = stored.get(&key)?;
        let goes_on =
            old.access.charges_usage(&old.status) && access.of(&key).charges_usage(&change.status);
        goes_on.then_some((key, (change, old)))
    });
    let going_on: BTreeMap<ObjectKey, (&Change, &StoredSubscription)> = going_on.collect();
    if going_on.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<ObjectKey> = going_on.keys().cloned().collect();
    let held = store::price_swaps::items(conn, &keys).await?;
    let mut swaps = Vec::new();
    for (key, (change, old)) in going_on {
        let (items, last_change) = held.get(&key).cloned().unwrap_or_default();
        let metadata = &change.merged.snapshot.metadata;
        let change_id = metadata.get(CHANGE_KEY).and_then(|id| id.as_str());
        // The metadata stays when somebody changes the subscription in Stripe later.
        let new_change = change_id.filter(|id| last_change.as_deref() != Some(*id));
        let ours = new_change.and_then(|id| id.parse::<Uuid>().ok());
        let told_at = told_at(change, old, ours.is_some());
        let of_one = of_subscription(catalogue, change, old, &items, told_at);
        swaps.extend(of_one.into_iter().map(|swap| (swap, ours)));
    }
    let ours: BTreeSet<(Uuid, Uuid)> = swaps
        .iter()
        .filter_map(|(swap, ours)| Some((swap.organization_id, (*ours)?)))
        .collect();
    let charges = store::price_swaps::charges_of(conn, &Vec::from_iter(ours)).await?;
    let swaps = swaps.into_iter().map(|(swap, ours)| {
        let charged = ours.and_then(|id| {
            let charges = charges.get(&(swap.organization_id, id))?;
            Some((id, charges.clone()))
        });
        PriceSwap {
            ours: charged,
            ..swap
        }
    });
    Ok(swaps.collect())
}

/// When a change took place, by what tells of it.
#[derive(Debug, Clone, Copy)]
enum ToldAt {
    Then(Timestamp),
    /// Then, or later.
    After(Timestamp),
}

/// When a change took place. An answer of Stripe's to a question shows what somebody changed
/// before: since what was known last, so that no usage that Stripe has counted at the new
/// price is told a second time.
fn told_at(change: &Change, old: &StoredSubscription, ours: bool) -> ToldAt {
    let version = &change.merged.version;
    if is_response(version) && !ours {
        return ToldAt::After(old.version.last_event_at);
    }
    ToldAt::Then(version.last_event_at)
}

fn key_of(change: &Change) -> ObjectKey {
    let id = change.merged.snapshot.id.clone();
    (change.merged.organization_id, id)
}

fn both(period: (Option<Timestamp>, Option<Timestamp>)) -> Option<(Timestamp, Timestamp)> {
    period.0.zip(period.1)
}

/// A metered item of the subscription as it is now.
struct NewItem<'a> {
    id: &'a str,
    price_id: &'a str,
    /// Whether the stored subscription has it, at the same price.
    stays: bool,
    /// Whether the stored subscription has it, at another price.
    is_changed: bool,
    /// When it was added.
    added: Option<Timestamp>,
}

/// The metered items of a subscription as it is now, by metric.
fn metered_items<'a>(
    catalogue: &Catalogue,
    new: &'a Subscription,
    held: &[HeldItem],
) -> BTreeMap<String, Vec<NewItem<'a>>> {
    let mut now: BTreeMap<String, Vec<NewItem<'a>>> = BTreeMap::new();
    for item in &new.items {
        let metric = catalogue.item_use(item).and_then(|used| used.metric);
        if let (Some(metric), Some(price_id)) = (metric, item.price_id.as_deref()) {
            now.entry(metric).or_default().push(NewItem {
                id: &item.id,
                price_id,
                stays: held
                    .iter()
                    .any(|held| held.id == item.id && held.price_id == price_id),
                is_changed: held
                    .iter()
                    .any(|held| held.id == item.id && held.price_id != price_id),
                added: item.created,
            });
        }
    }
    now
}

/// The stored items that charge a metric.
struct HeldItems<'a>(Vec<&'a HeldItem>);

/// The metered items of a subscription as it is stored, by metric.
fn held_items<'a>(catalogue: &Catalogue, held: &'a [HeldItem]) -> BTreeMap<String, HeldItems<'a>> {
    let mut before = BTreeMap::<String, HeldItems<'a>>::new();
    for item in held {
        let used = || catalogue.price_use(item.lookup_key.as_deref(), Some(&item.price_id));
        if let Some(metric) = item.metric.clone().or_else(|| used()?.metric) {
            let of_metric = before
                .entry(metric)
                .or_insert_with(|| HeldItems(Vec::new()));
            of_metric.0.push(item);
        }
    }
    before
}

impl<'a> HeldItems<'a> {
    /// Those that are gone from a subscription.
    fn gone_from(&self, new: &Subscription) -> Self {
        let is_gone = |held: &&HeldItem| new.items.iter().all(|item| item.id != held.id);
        Self(self.0.iter().copied().filter(is_gone).collect())
    }

    fn price(&self) -> Option<&'a str> {
        self.0.iter().map(|held| held.price_id.as_str()).min()
    }
}

/// The swaps of one subscription, whoever made them. Of several items that charge a
/// metric, the one with the lowest price id counts, as in reports.
fn of_subscription(
    catalogue: &Catalogue,
    change: &Change,
    old: &StoredSubscription,
    held: &[HeldItem],
    told_at: ToldAt,
) -> Vec<PriceSwap> {
    let new = &change.merged.snapshot;
    let all_known = !new.has_more_items && !old.has_more_items;
    let (Some(was), Some(is)) = (
        both(old.counting_period),
        both(catalogue.counting_period_of(new)),
    ) else {
        return Vec::new();
    };
    let now = metered_items(catalogue, new, held);
    let before = held_items(catalogue, held);
    let metrics: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let swapped = metrics.into_iter().filter_map(|metric| {
        let items = now.get(metric).map_or(&[][..], Vec::as_slice);
        let had = before.get(metric);
        // A cut list keeps what it does not show. The whole one after it shows what went
        // meanwhile, and what came in its place, which the cut one may have shown beside it.
        let replaced = had
            .filter(|_| old.has_more_items && !new.has_more_items)
            .map(|had| had.gone_from(new))
            .filter(|gone| !gone.0.is_empty());
        let came = |item: &NewItem<'_>| {
            replaced.is_some() && item.added.is_some_and(|added| added > was.0)
        };
        // Stripe counts by item: one that stays has counted all along.
        if items.iter().any(|item| item.stays && !came(item)) {
            return None;
        }
        // What a cut list leaves out may be there; an item that is shown at another price
        // has changed.
        let changes = items.iter().any(|item| item.is_changed);
        if !all_known && !changes && replaced.is_none() {
            return None;
        }
        let charging = items.iter().min_by_key(|item| item.price_id);
        let is_new = |item: &&NewItem<'_>| came(item) || held.iter().all(|held| held.id != item.id);
        let added = charging.filter(is_new).and_then(|item| item.added);
        let (at, is_known) = match (added, told_at) {
            (Some(at), _) | (None, ToldAt::Then(at)) => (at, true),
            (None, ToldAt::After(at)) => (at, false),
        };
        // Usage has our time, whatever a test clock shows.
        let is_known = is_known && new.test_clock_id.is_none();
        // A renewal may be heard of together with a change before or after it.
        let then = || both(catalogue.counting_period_at(new, at.as_second()));
        let (period_start, period_end) = match is.0 < at {
            true => then().unwrap_or(is),
            false => was,
        };
        let old_price = replaced.as_ref().or(had).and_then(HeldItems::price);
        Some(PriceSwap {
            organization_id: change.merged.organization_id,
            subscription_id: new.id.clone(),
            customer_id: new.customer_id.clone(),
            metric: metric.clone(),
            period_start,
            period_end,
            at,
            // Stripe's times are whole seconds: what was used in that one may be of before.
            counts_anew_from: is_known.then(|| at + SignedDuration::from_secs(1)),
            old_price: old_price.map(str::to_owned),
            new_price: charging.map(|item| item.price_id.to_owned()),
            flexible: new.billing_mode.as_deref() == Some("flexible"),
            ours: None,
            same_period: is.0 != at || is.0 == was.0,
            is_late: replaced.is_some(),
        })
    });
    swapped.collect()
}
