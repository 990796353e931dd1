//! What payments do to a subscription's status.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::status::SubscriptionStatus;
use billing_domain::subscription::{LastPayment, ReportedStatus, effective_status};
use serde_json::json;
use uuid::Uuid;

use super::invoice::{Payment, PaymentOutcome};
use super::subscription::{Change, StoredSubscription};
use super::types::Effects;
use super::versions::merge::ObjectKey;
use super::versions::{Mirrored as _, Version};
use crate::audit::NewEntry;
use crate::stripe::objects::Subscription;

/// The audit action of a status that a payment changed.
pub const STATUS_CHANGED: &str = "subscription_status_changed";

pub fn status_of<'a>(
    subscription: &'a Subscription,
    version: &Version,
    payment: Option<&Payment>,
) -> &'a SubscriptionStatus {
    let reported = ReportedStatus {
        status: &subscription.status,
        at: version.last_event_at.as_second(),
        pending_update: subscription.pending_update.is_some(),
    };
    effective_status(reported, payment.map(last_payment))
}

fn last_payment(payment: &Payment) -> LastPayment<'_> {
    LastPayment {
        at: payment.last_event_at.as_second(),
        failed: payment.outcome == PaymentOutcome::Failed && !payment.settled,
        billing_reason: payment.billing_reason.as_deref(),
    }
}

/// New statuses of subscriptions that have no event in the batch, but whose
/// payment failed or succeeded since their last event.
pub fn late_payments(
    stored: &BTreeMap<ObjectKey, StoredSubscription>,
    changes: &[Change],
    payments: &BTreeMap<ObjectKey, Payment>,
    effects: &mut Effects,
) -> Vec<(ObjectKey, SubscriptionStatus)> {
    let changed: BTreeSet<(Uuid, &str)> = changes.iter().map(Change::key).collect();
    let mut late = Vec::new();
    for (key, subscription) in stored {
        let Some(payment) = payments.get(key) else {
            continue;
        };
        let reported = ReportedStatus {
            status: &subscription.stripe_status,
            at: subscription.version.last_event_at.as_second(),
            pending_update: subscription.pending_update,
        };
        let status = effective_status(reported, Some(last_payment(payment)));
        if changed.contains(&(key.0, key.1.as_str())) || *status == subscription.status {
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
            reason: None,
            metadata: json!({
                "stripe_event_id": payment.last_event_id,
                "stripe_invoice_id": payment.stripe_invoice_id,
            }),
        });
        late.push((key.clone(), status.clone()));
    }
    late
}
