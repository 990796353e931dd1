//! Subscriptions and their items, and the plan that an organization has by them.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::event_order::Place;
use billing_domain::subscription::{LastPayment, effective_status, is_ended};
use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::fold::{self, Key, Stored, StoredRows};
use super::history::{Mirrored, Version};
use super::invoice::Payment;
use super::plan::Holding;
use super::{Effects, NewAlert, Results, Subscription, answer, plan, store};
use crate::audit::NewEntry;
use crate::plans::Catalogue;
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
    pub current_period_start: Option<Timestamp>,
    pub current_period_end: Option<Timestamp>,
    pub trial_end: Option<Timestamp>,
    pub cancel_at_period_end: bool,
    /// As [`items`] shows them.
    pub items: Value,
    pub version: Version,
}

/// A subscription whose row is to be written.
pub struct Change {
    pub folded: fold::Folded<Subscription>,
    pub status: String,
    pub plan_tier: Option<String>,
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
    let folded = fold::fold_objects(
        conn,
        results,
        effects,
        &rows,
        |key, subscription: &Subscription, version| {
            let status = status_of(subscription, version, payments.get(key));
            let tier = catalogue
                .plan_of(subscription)
                .map(|plan| plan.tier.as_str());
            summary(status, tier, subscription)
        },
    )
    .await?;
    // An event that is not the newest tells of its price all the same: what is
    // alerted must not depend on the order of delivery.
    for event in results.decoded {
        if let (Some(owner), Some(subscription)) = (event.owner, Subscription::of(&event.object)) {
            let alert = unknown_plan(catalogue, owner, subscription, event.stored.created);
            effects.alerts.extend(alert);
        }
    }
    let doubtful = answer::doubtful(results, &stored);
    store::subscriptions::ask_again(conn, &doubtful).await?;
    write(
        conn,
        catalogue,
        &organizations,
        Known { stored, payments },
        folded,
        effects,
    )
    .await
}

/// What is stored of some organizations' subscriptions and their payments.
pub struct Known {
    pub stored: BTreeMap<Key, StoredSubscription>,
    pub payments: BTreeMap<Key, Payment>,
}

/// Writes `folded`, and all that follows from it: the status of subscriptions
/// whose payment failed, and the plan and quotas of `organizations`.
pub async fn write(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    known: Known,
    folded: Vec<fold::Folded<Subscription>>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let Known { stored, payments } = known;
    let changes: Vec<Change> = folded
        .into_iter()
        .map(|folded| {
            let key = (folded.organization_id, folded.snapshot.id.clone());
            let status =
                status_of(&folded.snapshot, &folded.version, payments.get(&key)).to_owned();
            let plan_tier = catalogue
                .plan_of(&folded.snapshot)
                .map(|plan| plan.tier.clone());
            Change {
                folded,
                status,
                plan_tier,
            }
        })
        .collect();
    store::subscriptions::save(conn, &changes).await?;

    let late = late_payments(&stored, &changes, &payments, effects);
    store::subscriptions::set_status(conn, &late).await?;
    let holdings = holdings(stored, changes, late);
    plan::settle(conn, catalogue, organizations, holdings, effects).await
}

/// Every subscription, as the batch leaves it.
fn holdings(
    stored: BTreeMap<Key, StoredSubscription>,
    changes: Vec<Change>,
    late: Vec<(Key, String)>,
) -> plan::Holdings {
    let mut left: BTreeMap<Key, (String, Option<String>)> = stored
        .into_iter()
        .map(|(key, row)| (key, (row.status, row.plan_tier)))
        .collect();
    for (key, status) in late {
        left.entry(key).and_modify(|(known, _)| *known = status);
    }
    for change in changes {
        let key = (change.folded.organization_id, change.folded.snapshot.id);
        left.insert(key, (change.status, change.plan_tier));
    }
    let mut holdings = plan::Holdings::new();
    for ((owner, subscription_id), (status, plan_tier)) in left {
        holdings.entry(owner).or_default().push(Holding {
            subscription_id,
            status,
            plan_tier,
        });
    }
    holdings
}

/// The organizations whose subscriptions the batch may change.
fn affected(results: &Results<'_>) -> Vec<Uuid> {
    let touches = |object: &BillingObject, event_type: &str| match object {
        BillingObject::Subscription(_) => true,
        BillingObject::Invoice(invoice) => {
            invoice.subscription_id.is_some() && event_type.starts_with("invoice.payment_")
        }
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
    effective_status(
        &subscription.status,
        version.last_event_at.as_second(),
        payment.map(last_payment),
    )
}

fn last_payment(payment: &Payment) -> LastPayment<'_> {
    LastPayment {
        at: payment.last_event_at.as_second(),
        failed: payment.outcome == "failed",
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
    let changed: BTreeSet<(Uuid, &str)> = changes
        .iter()
        .map(|change| {
            (
                change.folded.organization_id,
                change.folded.snapshot.id.as_str(),
            )
        })
        .collect();
    let mut late = Vec::new();
    for (key, subscription) in stored {
        let Some(payment) = payments.get(key) else {
            continue;
        };
        let said_at = subscription.version.last_event_at.as_second();
        let status = effective_status(
            &subscription.stripe_status,
            said_at,
            Some(last_payment(payment)),
        );
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
    if is_ended(&subscription.status) || catalogue.plan_of(subscription).is_some() {
        return None;
    }
    let prices: BTreeSet<&str> = subscription
        .items
        .iter()
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
    stored
        .iter()
        .map(|(key, row)| {
            let summary = json!({
                "status": row.status,
                "planTier": row.plan_tier,
                "currentPeriodStart": row.current_period_start,
                "currentPeriodEnd": row.current_period_end,
                "trialEnd": row.trial_end,
                "cancelAtPeriodEnd": row.cancel_at_period_end,
                "items": row.items,
            });
            (
                key.clone(),
                Stored {
                    summary,
                    version: row.version.clone(),
                },
            )
        })
        .collect()
}

pub fn summary(status: &str, plan_tier: Option<&str>, subscription: &Subscription) -> Value {
    json!({
        "status": status,
        "planTier": plan_tier,
        "currentPeriodStart": subscription.current_period_start,
        "currentPeriodEnd": subscription.current_period_end,
        "trialEnd": subscription.trial_end,
        "cancelAtPeriodEnd": subscription.cancel_at_period_end,
        "items": items(subscription),
    })
}

/// What is paid for, in the order of the items' ids.
fn items(subscription: &Subscription) -> Value {
    let mut items: Vec<&SubscriptionItem> = subscription.items.iter().collect();
    items.sort_by_key(|item| &item.id);
    items
        .into_iter()
        .map(|item| json!({"price": item.price_id, "quantity": item.quantity}))
        .collect()
}
