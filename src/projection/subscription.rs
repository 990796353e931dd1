//! Projects subscriptions and their items, and the plan that follows from them.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::event_order::EventOrder;
use billing_domain::past_due::Access;
use billing_domain::status::SubscriptionStatus;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::invoice::Payment;
use super::known_tier::{self, KnownTier};
use super::past_due::Accesses;
use super::payment_status::{late_payments, status_of};
use super::plan_assignment::PlanSource;
use super::subscription_change::change_of;
use super::types::{Effects, NewAlert, Results};
use super::versions::merge::{self, ObjectKey, Stored, StoredRows};
use super::versions::{Mirrored, Version};
use super::{
    invoice, items, periods, plan_assignment, price_swaps, schedule, store, stripe_response,
};
use crate::catalogue::allowance::Bounds;
use crate::catalogue::{Bought, Catalogue};
use crate::metering::charges;
use crate::metering::ledger::{self, ClosedPeriod};
use crate::stripe::objects::{BillingObject, Subscription, SubscriptionItem};
use crate::tenancy::SAMPLE;

impl Mirrored for Subscription {
    const RESOURCE: &'static str = "subscription";

    fn of(object: &BillingObject) -> Option<&Self> {
        match object {
            BillingObject::Subscription(subscription) => Some(subscription),
            _ => None,
        }
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn order(&self, event_type: &str, created: i64) -> EventOrder {
        // An ended subscription can still be updated, in its metadata for one.
        let rank = match event_type {
            "customer.subscription.created" => 0,
            "customer.subscription.deleted" => 1,
            _ => 2,
        };
        let terminal = self.status.is_ended() || event_type == "customer.subscription.deleted";
        EventOrder {
            terminal,
            created,
            rank,
        }
    }
}

/// A stored subscription.
pub struct StoredSubscription {
    pub status: SubscriptionStatus,
    pub stripe_status: SubscriptionStatus,
    pub access: Access,
    pub plan_tier: Option<String>,
    pub plan_version: Option<i32>,
    pub bought: Bought,
    /// The current billing period's start and end.
    pub period: Bounds,
    /// The period in which its usage counts.
    pub counting_period: Bounds,
    /// Its summary for audit entries.
    pub summary: Value,
    pub pending_update: bool,
    pub has_more_items: bool,
    /// `None` until its events were searched.
    pub known_tier: Option<KnownTier>,
    pub version: Version,
}

/// A subscription to write.
pub struct Change {
    pub merged: merge::MergedObject<Subscription>,
    pub status: SubscriptionStatus,
    pub plan_tier: Option<String>,
    pub plan_version: Option<i32>,
    pub bought: Bought,
    pub known_tier: Option<KnownTier>,
}

impl Change {
    pub fn key(&self) -> (Uuid, &str) {
        (self.merged.organization_id, &self.merged.snapshot.id)
    }
}

pub async fn apply(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    results: &mut Results<'_>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let organizations = affected(results);
    if organizations.is_empty() {
        return Ok(());
    }
    let shown = results.decoded.iter();
    // The prices of sample events are nobody's.
    let shown = shown.filter(|event| event.owner != Some(SAMPLE));
    let shown = shown.filter_map(|event| Subscription::of(&event.object));
    catalogue.learn(conn, &organizations, shown).await?;
    let stored = store::subscriptions::load(conn, &organizations).await?;
    let payments = store::subscriptions::payments(conn, &organizations).await?;
    let rows = summaries(&stored);
    let mut merged = merge::merge_events(
        conn,
        results,
        effects,
        &rows,
        |key, subscription: &Subscription, version| {
            let status = status_of(subscription, version, payments.get(key));
            summary(catalogue, status, subscription)
        },
    )
    .await?;
    items::revisit(conn, results, &stored, &mut merged).await?;
    // Superseded events raise alerts too, so that alerts do not depend on the
    // order of delivery.
    for event in results.decoded {
        if let (Some(owner), Some(subscription)) = (event.owner, Subscription::of(&event.object)) {
            let alert = unknown_plan(catalogue, owner, subscription, event.stored.created);
            effects.alerts.extend(alert);
        }
    }
    let doubtful = stripe_response::possibly_stale(results, &stored);
    let tiers = known_tier::update_known_tiers(catalogue, results, &stored);
    let cut = merged.iter().filter(|one| {
        one.snapshot.has_more_items || (one.undecided && !one.version.order().terminal)
    });
    let cut: Vec<ObjectKey> = cut
        .map(|one| (one.organization_id, one.snapshot.id.clone()))
        .collect();
    let unscheduled = schedule::unknown_to(conn, &merged).await?;
    let told = periods::ended_periods(conn, catalogue, results, &stored).await?;
    write(
        conn,
        catalogue,
        &organizations,
        Known {
            stored,
            payments,
            tiers,
            told,
        },
        merged,
        effects,
    )
    .await?;
    store::subscriptions::mark_stale(conn, &[doubtful, cut, unscheduled].concat()).await
}

/// The stored state that subscriptions are written over.
pub struct Known {
    pub stored: BTreeMap<ObjectKey, StoredSubscription>,
    pub payments: BTreeMap<ObjectKey, Payment>,
    /// The known tiers of the batch's subscriptions.
    pub tiers: BTreeMap<ObjectKey, KnownTier>,
    /// Periods that have ended.
    pub told: Vec<ClosedPeriod>,
}

/// Writes `merged` with its consequences: the status of subscriptions whose
/// payment failed, and the plan and quotas of `organizations`.
pub async fn write(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    known: Known,
    merged: Vec<merge::MergedObject<Subscription>>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let Known {
        mut stored,
        payments,
        tiers,
        told,
    } = known;
    let changes: Vec<Change> = merged
        .into_iter()
        .map(|merged| change_of(catalogue, &stored, &payments, &tiers, merged))
        .collect();
    let late = late_payments(&stored, &changes, &payments, effects);
    let access = Accesses::read(conn, catalogue, &stored, &changes, &late, &payments).await?;
    let renewed = periods::renewed(catalogue, &stored, &changes);
    // Its free use is marked, as before a report, while the rows still say that it is free.
    let interrupted = periods::interrupted(&stored, &renewed, &told);
    if !interrupted.is_empty() {
        ledger::rebook(conn, catalogue, &interrupted, &[], &[]).await?;
    }
    ledger::close(conn, &renewed).await?;
    let swaps = price_swaps::found(conn, catalogue, &stored, &changes, &access).await?;
    let booked = charges::book(conn, catalogue, swaps).await?;
    let charged = booked.iter().filter_map(|one| one.entry(effects.actor));
    effects.entries.extend(charged);
    store::subscriptions::save(conn, catalogue, &changes).await?;
    let mut kept = keep_tiers(&mut stored, tiers, &changes);

    store::subscriptions::set_status(conn, &late).await?;
    store::past_due::save(conn, &access.changed(&stored, &changes)).await?;
    let flips = access.flips(&stored, &changes);
    effects.entries.extend(flips.entries(effects.actor));
    let resumed = flips.with_resumed(periods::resumed(&stored, &changes));
    let moved = flips.with_moved(periods::moved(catalogue, &stored, &changes, &told));
    let versions = versions(&stored, &changes);
    let sources = sources(stored, changes, late, &access);
    let found =
        plan_assignment::assign_plans(conn, catalogue, organizations, sources, &booked, effects)
            .await?;
    charges::adjust(conn, catalogue, &booked).await?;
    kept.extend(found.into_iter().filter_map(|(key, tier)| {
        let tier = tier.beside(versions.get(&key)?);
        Some((key, tier))
    }));
    store::subscriptions::keep_tiers(conn, &kept).await?;
    if moved.is_empty() {
        return Ok(());
    }
    ledger::rebook(conn, catalogue, &moved, &told, &resumed).await
}

/// The known tiers of rows that are not written: a superseded event may still be
/// the newest one whose prices are known.
fn keep_tiers(
    stored: &mut BTreeMap<ObjectKey, StoredSubscription>,
    tiers: BTreeMap<ObjectKey, KnownTier>,
    changes: &[Change],
) -> BTreeMap<ObjectKey, KnownTier> {
    let written: BTreeSet<(Uuid, &str)> = changes.iter().map(Change::key).collect();
    let mut kept = BTreeMap::new();
    for (key, tier) in tiers {
        let Some(row) = stored.get_mut(&key) else {
            continue;
        };
        if written.contains(&(key.0, key.1.as_str())) || row.known_tier.as_ref() == Some(&tier) {
            continue;
        }
        row.known_tier = Some(tier.clone());
        kept.insert(key, tier);
    }
    kept
}

/// The event that last wrote each row, after the batch.
fn versions(
    stored: &BTreeMap<ObjectKey, StoredSubscription>,
    changes: &[Change],
) -> BTreeMap<ObjectKey, String> {
    let stored = stored.iter().map(|(key, row)| (key.clone(), &row.version));
    let changed = changes.iter().map(|change| {
        let (organization, id) = change.key();
        ((organization, id.to_owned()), &change.merged.version)
    });
    let versions = stored.chain(changed);
    versions
        .map(|(key, version)| (key, version.last_event_id.clone()))
        .collect()
}

/// Every subscription, after the batch.
fn sources(
    stored: BTreeMap<ObjectKey, StoredSubscription>,
    changes: Vec<Change>,
    late: Vec<(ObjectKey, SubscriptionStatus)>,
    access: &Accesses,
) -> plan_assignment::PlanSources {
    let mut left: BTreeMap<ObjectKey, PlanSource> = stored
        .into_iter()
        .map(|(key, row)| {
            let source = PlanSource {
                subscription_id: key.1.clone(),
                status: row.status,
                access: access.of(&key),
                plan_tier: row.plan_tier,
                plan_version: row.plan_version,
                bought: row.bought,
                known_tier: row.known_tier,
            };
            (key, source)
        })
        .collect();
    for (key, status) in late {
        left.entry(key).and_modify(|known| known.status = status);
    }
    for change in changes {
        let key = (change.merged.organization_id, change.merged.snapshot.id);
        let source = PlanSource {
            subscription_id: key.1.clone(),
            status: change.status,
            access: access.of(&key),
            plan_tier: change.plan_tier,
            plan_version: change.plan_version,
            bought: change.bought,
            known_tier: change.known_tier,
        };
        left.insert(key, source);
    }
    let mut sources = plan_assignment::PlanSources::new();
    for ((owner, _), source) in left {
        sources.entry(owner).or_default().push(source);
    }
    sources
}

/// The organizations whose subscriptions the batch may change.
fn affected(results: &Results<'_>) -> Vec<Uuid> {
    let touches = |object: &BillingObject, event_type: &str| match object {
        BillingObject::Subscription(_) => true,
        BillingObject::Invoice(invoice) => invoice::touches_status(invoice, event_type),
        _ => false,
    };
    let organizations: BTreeSet<Uuid> = results
        .decoded
        .iter()
        .filter(|event| touches(&event.object, &event.stored.event_type))
        .filter_map(|event| event.owner)
        .collect();
    organizations.into_iter().collect()
}

/// The alert for a subscription without a plan of the catalogue. The same prices
/// raise the same alert.
pub fn unknown_plan(
    catalogue: &Catalogue,
    organization_id: Uuid,
    subscription: &Subscription,
    told_at: Timestamp,
) -> Option<NewAlert> {
    let all_is_shown = !subscription.has_more_items;
    if subscription.status.is_ended() || catalogue.plan_of(subscription).is_some() || !all_is_shown
    {
        return None;
    }
    let prices: BTreeSet<&str> = subscription
        .items
        .iter()
        .filter(|item| !catalogue.knows_price(item.lookup_key.as_deref(), item.price_id.as_deref()))
        .filter_map(|item| item.price_id.as_deref())
        .collect();
    let prices = Vec::from_iter(prices).join(", ");
    Some(NewAlert {
        organization_id,
        kind: "unknown_plan",
        key: format!("{}: {prices}", subscription.id),
        resource_type: Subscription::RESOURCE,
        resource_id: subscription.id.clone(),
        message: format!(
            "no plan of the catalogue has a price of this subscription ({prices}): add its \
             lookup_key or stripe_price_ids to PLANS_FILE, then replay the event"
        ),
        occurred_at: told_at,
    })
}

pub fn summaries(stored: &BTreeMap<ObjectKey, StoredSubscription>) -> StoredRows {
    let stored = stored.iter().map(|(key, row)| {
        let stored = Stored {
            summary: row.summary.clone(),
            version: row.version.clone(),
        };
        (key.clone(), stored)
    });
    stored.collect()
}

/// A subscription's summary for audit entries: all that is mirrored of it.
pub fn summary(
    catalogue: &Catalogue,
    status: &SubscriptionStatus,
    subscription: &Subscription,
) -> Value {
    let plan = catalogue.plan_of(subscription);
    let (start, end) = catalogue.period_of(subscription);
    json!({
        "status": status,
        "planTier": plan.map(|plan| &plan.tier),
        "stripeCustomerId": subscription.customer_id,
        "currency": subscription.currency,
        "currentPeriodStart": start,
        "currentPeriodEnd": end,
        "billingCycleAnchor": subscription.billing_cycle_anchor,
        "billingMode": subscription.billing_mode,
        "collectionMethod": subscription.collection_method,
        "collectionPaused": subscription.collection_paused,
        "trialStart": subscription.trial_start,
        "trialEnd": subscription.trial_end,
        "cancelAt": subscription.cancel_at,
        "cancelAtPeriodEnd": subscription.cancel_at_period_end,
        "canceledAt": subscription.canceled_at,
        "endedAt": subscription.ended_at,
        "latestInvoiceId": subscription.latest_invoice_id,
        "defaultPaymentMethodId": subscription.default_payment_method_id,
        "discounted": subscription.discounted,
        "discounts": subscription.discount_ids,
        "taxed": subscription.taxed,
        "pendingUpdate": subscription.pending_update,
        "stripeScheduleId": subscription.schedule_id,
        "cancellationFeedback": subscription.cancellation_feedback,
        "cancellationReason": subscription.cancellation_reason,
        "metadata": digest(&subscription.metadata),
        "items": items_of(subscription),
    })
}

/// A digest that shows that metadata changed, not its content: it may contain
/// personal data, and audit entries are never deleted.
pub fn digest(metadata: &Map<String, Value>) -> Option<String> {
    if metadata.is_empty() {
        return None;
    }
    // Sorted, since Stripe and PostgreSQL order keys differently.
    let sorted: BTreeMap<&String, &Value> = metadata.iter().collect();
    let text = serde_json::to_string(&sorted).ok()?;
    Some(hex::encode(&Sha256::digest(text)[..8]))
}

/// Price and quantity of each item, ordered by item id.
fn items_of(subscription: &Subscription) -> Value {
    let mut items: Vec<&SubscriptionItem> = subscription.items.iter().collect();
    items.sort_by_key(|item| &item.id);
    items
        .into_iter()
        .map(|item| json!({"price": item.price_id, "quantity": item.quantity}))
        .collect()
}
