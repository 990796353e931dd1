//! What the API shows of a change that is still to come.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::awaited::AwaitedChange;
use super::state::SubscriptionRow;
use super::{PendingChange, PendingWhen};
use crate::catalogue::{BoughtAddon, Interval};

/// A change that takes effect later, or once it is paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PendingChange)]
pub struct PendingChangeView {
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
    /// The add-ons beside it.
    pub addons: Vec<BoughtAddon>,
    /// Null where it waits for its payer.
    #[schema(required)]
    pub effective_at: Option<Timestamp>,
    pub when: PendingWhen,
    /// Stripe's schedule that makes the change; null where it waits for its payer.
    #[schema(required)]
    pub stripe_schedule_id: Option<String>,
    /// The invoice whose payment makes the change, where it waits for its payer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripe_invoice_id: Option<String>,
    /// When it is discarded if it is not paid until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl PendingChangeView {
    /// What is to become of a subscription: at once when it is paid, or else later.
    pub fn of(subscription: &SubscriptionRow) -> Option<Self> {
        let awaited = subscription.awaited.as_ref().map(Self::from);
        awaited.or_else(|| subscription.pending.as_ref().map(Self::from))
    }
}

impl From<&PendingChange> for PendingChangeView {
    fn from(pending: &PendingChange) -> Self {
        Self {
            plan_tier: pending.plan_tier.clone(),
            plan_version: pending.plan_version,
            interval: pending.interval,
            quantity: pending.quantity,
            addons: BoughtAddon::list(&pending.held_addons),
            effective_at: Some(pending.effective_at),
            when: pending.when,
            stripe_schedule_id: Some(pending.stripe_schedule_id.clone()),
            stripe_invoice_id: None,
            expires_at: None,
        }
    }
}

impl From<&AwaitedChange> for PendingChangeView {
    fn from(awaited: &AwaitedChange) -> Self {
        let terms = &awaited.terms;
        Self {
            plan_tier: terms.plan_tier.clone(),
            plan_version: terms.plan_version,
            interval: terms.interval,
            quantity: terms.quantity,
            addons: BoughtAddon::list(&terms.addons),
            effective_at: None,
            when: PendingWhen::Paid,
            stripe_schedule_id: None,
            stripe_invoice_id: awaited.invoice_id.clone(),
            expires_at: awaited.expires_at,
        }
    }
}
