//! Subscriptions and their items, and the plan that an organization has by them.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::event_order::Place;
use billing_domain::subscription::{LastPayment, LastWord, effective_status, is_ended};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::invoice::Payment;
use super::known_tier::{self, KnownTier};
use super::plan_assignment::Holding;
use super::versions::apply::{self, Key, Stored, StoredRows};
use super::versions::{Mirrored, Version};
use super::{
    Effects, NewAlert, Results, Subscription, invoice, items, periods, plan_assignment, store,
    stripe_response,
};
use crate::audit::NewEntry;
use crate::catalogue::Catalogue;
use crate::metering::ledger::{self, Told};
use crate::stripe::objects::{BillingObject, SubscriptionItem};

/// The action of the audit entry that says so.
pub const STATUS_CHANGED: &str = "subscription_status_changed";

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

    fn place(&self, event_type: &str, created: i64) -> Place {
        // An update that shows an ended subscription was made after its end:
        // its metadata, say, may still change.
        let rank = match event_type {
            "customer.subscription.created" => 0,
            "customer.subscription.deleted" => 1,
            _ => 2,
        };
        let terminal = is_ended(&self.status) || event_type == "customer.subscription.deleted";
        Place {
            terminal,
            created,
            rank,
        }
    }
}

/// A subscription as it is stored.
pub struct StoredSubscription {
    pub status: String,
    pub stripe_status: String,
    pub plan_tier: Option<String>,
    /// The current billing period's start and end.
    pub period: (Option<Timestamp>, Option<Timestamp>),
    /// What audit entries show of it.
    pub summary: Value,
    pub pending_update: bool,
    pub has_more_items: bool,
    /// None: its events were not looked through yet.
    pub known_tier: Option<KnownTier>,
    pub version: Version,
}

/// A subscription whose row is to be written.
pub struct Change {
    pub folded: apply::Folded<Subscription>,
    pub status: String,
    pub plan_tier: Option<String>,
    pub known_tier: Option<KnownTier>,
}

impl Change {
    fn key(&self) -> (Uuid, &str) {
        (self.folded.organization_id, &self.folded.snapshot.id)
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
    let stored = store::subscriptions::load(conn, &organizations).await?;
    let payments = store::subscriptions::payments(conn, &organizations).await?;
    let rows = summaries(&stored);
    let mut folded = apply::fold_objects(
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
    items::revisit(conn, results, &stored, &mut folded).await?;
    // An event that is not the newest tells of its price all the same: what is
    // alerted must not depend on the order of delivery.
    for event in results.decoded {
        if let (Some(owner), Some(subscription)) = (event.owner, Subscription::of(&event.object)) {
            let alert = unknown_plan(catalogue, owner, subscription, event.stored.created);
            effects.alerts.extend(alert);
        }
    }
    let doubtful = stripe_response::doubtful(results, &stored);
    let tiers = known_tier::noted(catalogue, results, &stored);
    let cut = folded.iter().filter(|one| {
        one.snapshot.has_more_items || (one.undecided && !one.version.place().terminal)
    });
    let cut: Vec<Key> = cut
        .map(|one| (one.organization_id, one.snapshot.id.clone()))
        .collect();
    let told = periods::told(conn, catalogue, results, &stored).await?;
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
        folded,
        effects,
    )
    .await?;
    store::subscriptions::ask_again(conn, &[doubtful, cut].concat()).await
}

/// What is known of some organizations' subscriptions and their payments.
pub struct Known {
    pub stored: BTreeMap<Key, StoredSubscription>,
    pub payments: BTreeMap<Key, Payment>,
    /// What subscriptions of the batch keep while the catalogue knows none of
    /// their prices.
    pub tiers: BTreeMap<Key, KnownTier>,
    /// Periods that are over.
    pub told: Vec<Told>,
}

/// Writes `folded`, and all that follows from it: the status of subscriptions
/// whose payment failed, and the plan and quotas of `organizations`.
pub async fn write(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    known: Known,
    folded: Vec<apply::Folded<Subscription>>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let Known {
        mut stored,
        payments,
        tiers,
        told,
    } = known;
    let changes: Vec<Change> = folded
        .into_iter()
        .map(|mut folded| {
            let (start, end) = catalogue.period_of(&folded.snapshot);
            folded.snapshot.current_period_start = start;
            folded.snapshot.current_period_end = end;
            let key = (folded.organization_id, folded.snapshot.id.clone());
            let status =
                status_of(&folded.snapshot, &folded.version, payments.get(&key)).to_owned();
            let plan = catalogue.plan_of(&folded.snapshot);
            let plan_tier = plan.map(|plan| plan.tier.clone());
            // What is not shown may be what an answer showed.
            let known = stored.get(&key).filter(|_| folded.snapshot.has_more_items);
            let known = known.filter(|row| stripe_response::is_answer(&row.version));
            let plan_tier = plan_tier.or_else(|| known?.plan_tier.clone());
            let known_tier = tiers.get(&key).cloned();
            let known_tier = known_tier.or_else(|| match stored.get(&key) {
                Some(row) => row.known_tier.clone(),
                // No event was applied to it yet.
                None => Some(KnownTier::none()),
            });
            let known_tier = known_tier.map(|tier| tier.beside(&folded.version.last_event_id));
            Change {
                folded,
                status,
                plan_tier,
                known_tier,
            }
        })
        .collect();
    let renewed = periods::renewed(catalogue, &stored, &changes);
    ledger::close(conn, catalogue, &renewed).await?;
    store::subscriptions::save(conn, &changes).await?;
    let mut kept = keep_tiers(&mut stored, tiers, &changes);

    let late = late_payments(&stored, &changes, &payments, effects);
    store::subscriptions::set_status(conn, &late).await?;
    let resumed = periods::resumed(&stored, &changes);
    let moved = periods::moved(catalogue, &stored, &changes, &told);
    let versions = versions(&stored, &changes);
    let holdings = holdings(stored, changes, late);
    let found = plan_assignment::settle(conn, catalogue, organizations, holdings, effects).await?;
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

/// What is to be kept with rows that are not written: of events that are not
/// the newest, and may yet be the newest whose prices are known.
fn keep_tiers(
    stored: &mut BTreeMap<Key, StoredSubscription>,
    tiers: BTreeMap<Key, KnownTier>,
    changes: &[Change],
) -> BTreeMap<Key, KnownTier> {
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

/// Which event wrote each row, as the batch leaves it.
fn versions(
    stored: &BTreeMap<Key, StoredSubscription>,
    changes: &[Change],
) -> BTreeMap<Key, String> {
    let stored = stored.iter().map(|(key, row)| (key.clone(), &row.version));
    let changed = changes.iter().map(|change| {
        let (organization, id) = change.key();
        ((organization, id.to_owned()), &change.folded.version)
    });
    let versions = stored.chain(changed);
    versions
        .map(|(key, version)| (key, version.last_event_id.clone()))
        .collect()
}

/// Every subscription, as the batch leaves it.
fn holdings(
    stored: BTreeMap<Key, StoredSubscription>,
    changes: Vec<Change>,
    late: Vec<(Key, String)>,
) -> plan_assignment::Holdings {
    let mut left: BTreeMap<Key, Holding> = stored
        .into_iter()
        .map(|(key, row)| {
            let holding = Holding {
                subscription_id: key.1.clone(),
                status: row.status,
                plan_tier: row.plan_tier,
                known_tier: row.known_tier,
            };
            (key, holding)
        })
        .collect();
    for (key, status) in late {
        left.entry(key).and_modify(|known| known.status = status);
    }
    for change in changes {
        let key = (change.folded.organization_id, change.folded.snapshot.id);
        let holding = Holding {
            subscription_id: key.1.clone(),
            status: change.status,
            plan_tier: change.plan_tier,
            known_tier: change.known_tier,
        };
        left.insert(key, holding);
    }
    let mut holdings = plan_assignment::Holdings::new();
    for ((owner, _), holding) in left {
        holdings.entry(owner).or_default().push(holding);
    }
    holdings
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

pub fn status_of<'a>(
    subscription: &'a Subscription,
    version: &Version,
    payment: Option<&Payment>,
) -> &'a str {
    let word = LastWord {
        status: &subscription.status,
        at: version.last_event_at.as_second(),
        pending_update: subscription.pending_update.is_some(),
    };
    effective_status(word, payment.map(last_payment))
}

fn last_payment(payment: &Payment) -> LastPayment<'_> {
    LastPayment {
        at: payment.last_event_at.as_second(),
        failed: payment.outcome == "failed" && !payment.settled,
        billing_reason: payment.billing_reason.as_deref(),
    }
}

/// Subscriptions that no event of the batch is about, but whose payment failed
/// or was made good after Stripe last spoke of them: their new status.
fn late_payments(
    stored: &BTreeMap<Key, StoredSubscription>,
    changes: &[Change],
    payments: &BTreeMap<Key, Payment>,
    effects: &mut Effects,
) -> Vec<(Key, String)> {
    let changed: BTreeSet<(Uuid, &str)> = changes.iter().map(Change::key).collect();
    let mut late = Vec::new();
    for (key, subscription) in stored {
        let Some(payment) = payments.get(key) else {
            continue;
        };
        let word = LastWord {
            status: &subscription.stripe_status,
            at: subscription.version.last_event_at.as_second(),
            pending_update: subscription.pending_update,
        };
        let status = effective_status(word, Some(last_payment(payment)));
        if changed.contains(&(key.0, key.1.as_str())) || status == subscription.status {
            continue;
        }
        effects.entries.push(NewEntry {
            organization_id: key.0,
            action: STATUS_CHANGED,
            actor: effects.actor,
            resource_type: Subscription::RESOURCE,
            resource_id: key.1.clone(),
            before: Some(json!({"status": subscription.status})),
            after: Some(json!({"status": status})),
            client: None,
            metadata: json!({
                "stripe_event_id": payment.last_event_id,
                "stripe_invoice_id": payment.stripe_invoice_id,
            }),
        });
        late.push((key.clone(), status.to_owned()));
    }
    late
}

/// A customer pays for something that the catalogue does not know. Told of the
/// same prices again, it is the same alert.
pub fn unknown_plan(
    catalogue: &Catalogue,
    organization_id: Uuid,
    subscription: &Subscription,
    told_at: Timestamp,
) -> Option<NewAlert> {
    let all_is_shown = !subscription.has_more_items;
    if is_ended(&subscription.status) || catalogue.plan_of(subscription).is_some() || !all_is_shown
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

pub fn summaries(stored: &BTreeMap<Key, StoredSubscription>) -> StoredRows {
    let stored = stored.iter().map(|(key, row)| {
        let stored = Stored {
            summary: row.summary.clone(),
            version: row.version.clone(),
        };
        (key.clone(), stored)
    });
    stored.collect()
}

/// What an audit entry shows of a subscription: all that the mirror has of it.
pub fn summary(catalogue: &Catalogue, status: &str, subscription: &Subscription) -> Value {
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
        "trialStart": subscription.trial_start,
        "trialEnd": subscription.trial_end,
        "cancelAt": subscription.cancel_at,
        "cancelAtPeriodEnd": subscription.cancel_at_period_end,
        "canceledAt": subscription.canceled_at,
        "endedAt": subscription.ended_at,
        "latestInvoiceId": subscription.latest_invoice_id,
        "defaultPaymentMethodId": subscription.default_payment_method_id,
        "discounted": subscription.discounted,
        "taxed": subscription.taxed,
        "pendingUpdate": subscription.pending_update,
        "metadata": digest(&subscription.metadata),
        "items": items_of(subscription),
    })
}

/// That metadata changed is told, and not what it says: it may name people,
/// whom the audit log outlives.
pub fn digest(metadata: &Map<String, Value>) -> Option<String> {
    if metadata.is_empty() {
        return None;
    }
    // The same order, whatever the order in which Stripe or PostgreSQL has it.
    let sorted: BTreeMap<&String, &Value> = metadata.iter().collect();
    let text = serde_json::to_string(&sorted).ok()?;
    Some(hex::encode(&Sha256::digest(text)[..8]))
}

/// What is paid for, in the order of the items' ids.
fn items_of(subscription: &Subscription) -> Value {
    let mut items: Vec<&SubscriptionItem> = subscription.items.iter().collect();
    items.sort_by_key(|item| &item.id);
    items
        .into_iter()
        .map(|item| json!({"price": item.price_id, "quantity": item.quantity}))
        .collect()
}
