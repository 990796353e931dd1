//! What events carry, by type. The whole state is the state's own document.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::server::number::Number;

/// Whose event it is.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventOrganization)]
pub struct Whose {
    pub organization_id: Uuid,
    /// The product's own id; null if it gave none.
    #[schema(required)]
    pub external_id: Option<String>,
}

/// What the change showed of a subscription. What is not there, or was not part of the
/// change, is left out; all of it is in `organization.state_changed`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventSubscription)]
pub struct Subscription {
    /// Stripe's word.
    #[schema(example = "active")]
    pub status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_tier: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub current_period_start: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub current_period_end: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub trial_end: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub cancel_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_at_period_end: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub canceled_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<Item>>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = EventSubscriptionItem)]
pub struct Item {
    /// Stripe's id of the price.
    #[schema(required)]
    pub price: Option<String>,
    #[schema(required)]
    pub quantity: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SubscriptionEventData)]
pub struct SubscriptionData {
    #[serde(flatten)]
    pub whose: Whose,
    pub stripe_subscription_id: String,
    pub subscription: Subscription,
    /// The former values of what changed.
    #[schema(value_type = Object)]
    pub previous: Map<String, Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = EventPlan)]
pub struct Plan {
    #[serde(alias = "planTier")]
    #[schema(example = "standard")]
    pub tier: String,
    /// Left out where the plan follows the catalogue.
    #[serde(
        alias = "planVersion",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub version: Option<i32>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlanEventData)]
pub struct PlanData {
    #[serde(flatten)]
    pub whose: Whose,
    pub plan: Plan,
    pub previous: Plan,
}

/// What the change showed of an invoice; amounts are in the currency's minor unit.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventInvoice)]
pub struct Invoice {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "paid")]
    pub status: Option<String>,
    pub currency: String,
    pub total_amount: i64,
    pub due_amount: i64,
    pub paid_amount: i64,
    pub remaining_amount: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_count: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_payment_attempt: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due_date: Option<Timestamp>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = InvoiceEventData)]
pub struct InvoiceData {
    #[serde(flatten)]
    pub whose: Whose,
    pub stripe_invoice_id: String,
    pub invoice: Invoice,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = QuotaEventData)]
pub struct QuotaData {
    #[serde(flatten)]
    pub whose: Whose,
    #[schema(example = "llm_tokens")]
    pub metric: String,
    /// The percentage of the quota: 80, 100 or 120.
    pub threshold: i16,
    /// Usage and quota at the time the threshold was reached.
    pub usage: Number,
    pub quota: Number,
    #[schema(value_type = String, format = DateTime)]
    pub period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub period_end: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = GracePeriodEventData)]
pub struct GraceData {
    #[serde(flatten)]
    pub whose: Whose,
    #[schema(example = "api_calls")]
    pub metric: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Why it ended, such as `expired` or `upgraded`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventCheckout)]
pub struct Checkout {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "complete")]
    pub status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_amount: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stripe_subscription_id: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CheckoutEventData)]
pub struct CheckoutData {
    #[serde(flatten)]
    pub whose: Whose,
    pub stripe_checkout_session_id: String,
    pub checkout: Checkout,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventPaymentMethod)]
pub struct PaymentMethod {
    /// `attached` or `detached`.
    #[schema(example = "attached")]
    pub status: String,
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brand: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp_month: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp_year: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PaymentMethodEventData)]
pub struct PaymentMethodData {
    #[serde(flatten)]
    pub whose: Whose,
    /// The method that changed, or the new default; null if there is none any more.
    #[schema(required)]
    pub stripe_payment_method_id: Option<String>,
    /// Left out where only the default changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment_method: Option<PaymentMethod>,
}
