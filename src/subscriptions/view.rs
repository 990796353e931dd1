//! What the API shows of an organization's plan and subscription.

use billing_domain::status::SubscriptionStatus;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::change::record::comment_of;
use super::discounts::DiscountView;
use super::{PendingChangeView, SubscriptionRow, SubscriptionState};
use crate::catalogue::{BoughtAddon, Interval};

/// An organization's plan and subscription.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Subscription)]
pub struct SubscriptionView {
    #[schema(example = "standard")]
    plan_tier: String,
    /// Stripe's status; null if there is no subscription.
    #[schema(required)]
    status: Option<String>,
    #[schema(required)]
    stripe_subscription_id: Option<String>,
    #[schema(required)]
    currency: Option<String>,
    /// By which the plan is paid; null for one by which no plan is sold.
    #[schema(required)]
    interval: Option<Interval>,
    /// The seats that were bought; null if the plan's are not.
    #[schema(required)]
    quantity: Option<u32>,
    /// What is bought beside the plan.
    addons: Vec<BoughtAddon>,
    #[schema(required)]
    current_period_start: Option<Timestamp>,
    #[schema(required)]
    current_period_end: Option<Timestamp>,
    #[schema(required)]
    trial_end: Option<Timestamp>,
    cancel_at_period_end: bool,
    /// When the subscription ends, if it is set to end.
    #[schema(required)]
    cancel_at: Option<Timestamp>,
    #[schema(required)]
    canceled_at: Option<Timestamp>,
    #[schema(required)]
    created_at: Option<Timestamp>,
    /// Why the customer canceled, in their own words.
    #[schema(required)]
    cancellation_reason: Option<String>,
    /// The same in one of Stripe's words.
    #[schema(required, example = "too_expensive")]
    cancellation_feedback: Option<String>,
    /// A change that takes effect later, or once its payer has paid it.
    #[schema(required)]
    pending_change: Option<PendingChangeView>,
    /// The discounts that reduce its invoices, in the order in which they apply; the
    /// customer's, if it has none of its own.
    discounts: Vec<DiscountView>,
    /// Other running subscriptions, which are paid for as well. They were created
    /// outside this service, most likely by mistake.
    other_subscriptions: Vec<OtherSubscription>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OtherSubscription {
    stripe_subscription_id: String,
    /// Stripe's status.
    status: String,
    /// Null if the catalogue has none of its prices.
    #[schema(required)]
    plan_tier: Option<String>,
}

impl From<&SubscriptionRow> for OtherSubscription {
    fn from(subscription: &SubscriptionRow) -> Self {
        Self {
            stripe_subscription_id: subscription.id.clone(),
            status: subscription.status.to_string(),
            plan_tier: subscription.plan_tier.clone(),
        }
    }
}

impl SubscriptionView {
    pub fn with_discounts(self, discounts: Vec<DiscountView>) -> Self {
        Self { discounts, ..self }
    }

    /// The view after this request has ended the subscription `ended`. If
    /// another one continues, the view still shows the one that ended.
    pub(super) fn after_end(state: SubscriptionState, ended: Option<SubscriptionRow>) -> Self {
        let running = state.subscription.iter().chain(&state.others);
        let others: Vec<OtherSubscription> = running.map(OtherSubscription::from).collect();
        let is_gone = |subscription: &SubscriptionRow| {
            others
                .iter()
                .all(|o| o.stripe_subscription_id != subscription.id)
        };
        match ended.filter(is_gone) {
            Some(subscription) if !others.is_empty() => Self {
                status: Some(SubscriptionStatus::Canceled.into()),
                cancel_at: None,
                cancel_at_period_end: false,
                pending_change: None,
                other_subscriptions: others,
                ..Self::from(SubscriptionState {
                    subscription: Some(subscription),
                    others: Vec::new(),
                    ..state
                })
            },
            _ => state.into(),
        }
    }
}

impl From<SubscriptionState> for SubscriptionView {
    fn from(state: SubscriptionState) -> Self {
        let plan_tier = state.plan_tier;
        let other_subscriptions = state.others.iter().map(OtherSubscription::from).collect();
        let Some(subscription) = state.subscription else {
            return Self {
                plan_tier,
                status: None,
                stripe_subscription_id: None,
                currency: None,
                interval: None,
                quantity: None,
                addons: Vec::new(),
                current_period_start: None,
                current_period_end: None,
                trial_end: None,
                cancel_at_period_end: false,
                cancel_at: None,
                canceled_at: None,
                created_at: None,
                cancellation_reason: None,
                cancellation_feedback: None,
                pending_change: None,
                discounts: Vec::new(),
                other_subscriptions,
            };
        };
        let pending_change = PendingChangeView::of(&subscription);
        let comment = subscription.cancellation_comment.as_deref();
        let reason = comment.and_then(comment_of);
        Self {
            plan_tier,
            interval: state.bought.interval,
            quantity: state.bought.seats,
            addons: BoughtAddon::list(&state.bought.addons),
            cancel_at: ends_at(&subscription),
            cancel_at_period_end: subscription.ends_with_period(),
            status: Some(subscription.status.into()),
            stripe_subscription_id: Some(subscription.id),
            currency: subscription.currency,
            current_period_start: subscription.period_start,
            current_period_end: subscription.period_end,
            trial_end: subscription.trial_end,
            canceled_at: subscription.canceled_at,
            created_at: subscription.created,
            cancellation_reason: reason.map(str::to_owned),
            cancellation_feedback: subscription.cancellation_feedback,
            pending_change,
            discounts: Vec::new(),
            other_subscriptions,
        }
    }
}

fn ends_at(subscription: &SubscriptionRow) -> Option<Timestamp> {
    let with_period = subscription
        .period_end
        .filter(|_| subscription.cancel_at_period_end);
    with_period.or(subscription.cancel_at)
}
