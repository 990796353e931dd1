//! From a purchase to a paid subscription, on Stripe's page: a saga that waits for a
//! payer.
//!
//! A checkout is entered before Stripe is asked for its page, one that is open for
//! each organization. `complete` reads Stripe when the payer returns, and mirrors
//! what was bought; the sweeper does the same for payers who do not return. Nothing
//! here waits for a webhook, and none is needed.

mod begin;
mod conclude;
mod recover;
pub mod routes;
mod store;
mod view;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::command::Command;
use super::failure::Failure;
use super::selection::{AskedAddons, Selection};
use crate::catalogue::Interval;
use crate::db::words::words;
use crate::stripe::client::Params;

/// The audit actions of checkouts.
pub const ACTIONS: [&str; 5] = [STARTED, COMPLETED, PROCESSING, EXPIRED, DUPLICATE];
const STARTED: &str = "checkout_started";
const COMPLETED: &str = "checkout_completed";
const PROCESSING: &str = "checkout_processing";
const EXPIRED: &str = "checkout_expired";
const DUPLICATE: &str = "checkout_duplicate_canceled";

/// The metadata of a session that names the checkout it was made for.
const CHECKOUT_ID: &str = "billing_checkout_id";
/// Stripe forgets keys after 24 hours at the earliest.
const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(23);

/// What a customer wants to buy, and where the page leads.
///
/// What is added to it belongs into `recorded`, by which two purchases are the same, and into
/// the parameters of [`begin`].
#[derive(Debug, Clone)]
pub struct Purchase {
    pub plan_tier: String,
    pub interval: Option<Interval>,
    pub quantity: Option<u64>,
    pub addons: Option<AskedAddons>,
    pub trial_days: u16,
    pub promotion_code: Option<String>,
    pub locale: Option<String>,
    pub success_url: String,
    pub cancel_url: String,
}

impl Purchase {
    pub fn command(&self) -> Command<'_> {
        Command::Subscribe {
            selection: Selection {
                tier: &self.plan_tier,
                interval: self.interval,
                currency: None,
                quantity: self.quantity,
                addons: self.addons.as_ref(),
            },
            trial_days: self.trial_days,
            promotion_code: self.promotion_code.as_deref(),
        }
    }

    /// As it is stored: equal purchases are equal values.
    fn recorded(&self) -> Value {
        json!({
            "planTier": self.plan_tier,
            "interval": self.interval,
            "quantity": self.quantity,
            "addons": self.addons.as_ref().filter(|addons| !addons.is_empty()),
            "trialDays": self.trial_days,
            "promotionCode": self.promotion_code.as_deref().map(str::trim),
            "locale": self.locale,
            "successUrl": self.success_url,
            "cancelUrl": self.cancel_url,
        })
    }
}

words! {
    /// How far a checkout has come.
    pub enum State {
        /// Entered; whether Stripe has made the page is not known.
        Creating = "creating",
        /// The payer may use the page.
        Open = "open",
        /// The payer is done, and a bank is not.
        Processing = "processing",
        Complete = "complete",
        Expired = "expired",
        /// Another subscription had begun: what was paid twice was given back.
        Duplicate = "duplicate",
        /// Stripe has not made the page.
        Failed = "failed",
    }
}

impl State {
    const fn is_over(self) -> bool {
        matches!(
            self,
            Self::Complete | Self::Expired | Self::Duplicate | Self::Failed
        )
    }
}

/// A checkout as it is stored.
#[derive(Debug, Clone)]
pub struct Checkout {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub state: State,
    purchase: Value,
    params: Params,
    context: Value,
    pub session_id: Option<String>,
    pub url: Option<String>,
    pub expires_at: Option<Timestamp>,
    created_at: Timestamp,
    called_at: Option<Timestamp>,
    recovery_attempts: i32,
    /// Whether what was bought is taken back, once that is decided.
    taking_back: Option<bool>,
    /// Why it is taken back, or has failed.
    why: Option<String>,
}

impl Checkout {
    /// The idempotency key of the call that makes the page, or of a further one.
    fn key(&self, step: &str) -> String {
        format!("checkout-{}-{step}", self.id)
    }

    fn customer(&self) -> &str {
        self.params.get("customer").unwrap_or_default()
    }

    /// Whether a payer can be sent to it.
    fn can_be_used(&self, now: Timestamp) -> bool {
        match self.state {
            State::Creating => now.duration_since(self.created_at) < KEY_LIFETIME,
            State::Open => self.expires_at.is_none_or(|end| now < end),
            _ => false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CheckoutFailure {
    #[error("the organization has no checkout with this id")]
    NotFound,
    #[error("the checkout has expired, and nothing was bought with it: begin another one")]
    Expired,
    #[error(
        "another subscription had begun before this checkout was paid: the second one was \
         canceled, and what was paid for it is given back"
    )]
    Duplicate,
    #[error(
        "this card has had a trial before: the subscription was canceled, and nothing was \
         charged; begin another checkout without a trial"
    )]
    TrialUsed,
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl From<sqlx::Error> for CheckoutFailure {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}
