//! What the API shows of a checkout.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Checkout, State};
use crate::subscriptions::SubscriptionView;
use crate::subscriptions::awaited::ActionRequired;

/// How far a checkout has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckoutStatus {
    /// The payer has not finished.
    Open,
    /// The payer has finished; their bank has not, which may take days.
    Processing,
    Complete,
    Expired,
    /// Another subscription had begun: this one was canceled and is given back.
    Canceled,
}

impl From<State> for CheckoutStatus {
    fn from(state: State) -> Self {
        match state {
            State::Creating | State::Open => Self::Open,
            State::Processing => Self::Processing,
            State::Complete => Self::Complete,
            State::Expired | State::Failed => Self::Expired,
            State::Duplicate => Self::Canceled,
        }
    }
}

/// A checkout on Stripe's page.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Checkout)]
pub struct CheckoutView {
    /// Stripe's id of it (cs_…); null where the subscription was made at once.
    #[schema(required)]
    pub id: Option<String>,
    /// Where to send the payer, while it is open.
    #[schema(required)]
    pub url: Option<String>,
    pub status: CheckoutStatus,
    /// Until when the page is open.
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    /// What was subscribed, where it was made at once.
    #[schema(required)]
    pub subscription: Option<SubscriptionView>,
}

impl From<Checkout> for CheckoutView {
    fn from(checkout: Checkout) -> Self {
        let status = checkout.state.into();
        let url = checkout.url;
        Self {
            id: checkout.session_id,
            url: url.filter(|_| status == CheckoutStatus::Open),
            status,
            expires_at: checkout.expires_at,
            subscription: None,
        }
    }
}

impl CheckoutView {
    /// A subscription was made before, and its first payment waits for its payer.
    pub fn to_pay(required: ActionRequired) -> Self {
        Self {
            id: None,
            url: required.next_action.hosted_invoice_url,
            status: CheckoutStatus::Open,
            expires_at: required.next_action.expires_at,
            subscription: None,
        }
    }

    /// Nothing is left for a payer to do.
    pub fn subscribed(subscription: SubscriptionView) -> Self {
        Self {
            id: None,
            url: None,
            status: CheckoutStatus::Complete,
            expires_at: None,
            subscription: Some(subscription),
        }
    }
}

/// The organization's plan and subscription, with the checkout that was completed.
#[derive(Serialize, ToSchema)]
pub struct CompletedCheckout {
    pub checkout: CheckoutView,
    #[serde(flatten)]
    pub current: SubscriptionView,
}
