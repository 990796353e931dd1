//! Checkout sessions.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::Metadata;
use super::fields::{Fields, ShapeError, customer};

#[derive(Debug, Clone, Serialize)]
pub struct CheckoutSession {
    #[serde(rename = "stripe_checkout_session_id")]
    pub id: String,
    #[serde(rename = "stripe_customer_id")]
    pub customer_id: Option<String>,
    #[serde(rename = "stripe_subscription_id")]
    pub subscription_id: Option<String>,
    #[serde(rename = "stripe_invoice_id")]
    pub invoice_id: Option<String>,
    #[serde(rename = "stripe_payment_intent_id")]
    pub payment_intent_id: Option<String>,
    pub client_reference_id: Option<String>,
    /// Whether it was created by a payment link. The reference is then part of the
    /// link's address, so anyone may have chosen it.
    #[serde(skip)]
    pub by_payment_link: bool,
    pub mode: Option<String>,
    pub status: Option<String>,
    pub payment_status: Option<String>,
    pub currency: Option<String>,
    #[serde(rename = "total_amount")]
    pub total: Option<i64>,
    pub expires_at: Option<Timestamp>,
    pub metadata: Metadata,
    pub livemode: bool,
    #[serde(rename = "stripe_created_at")]
    pub created: Option<Timestamp>,
}

impl CheckoutSession {
    pub fn read(object: &Value) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        Ok(Self {
            id: o.own_id()?,
            customer_id: customer(&o)?,
            subscription_id: o.id("subscription")?,
            invoice_id: o.id("invoice")?,
            payment_intent_id: o.id("payment_intent")?,
            client_reference_id: o.maybe_text("client_reference_id")?,
            by_payment_link: o.id("payment_link")?.is_some(),
            mode: o.maybe_text("mode")?,
            status: o.maybe_text("status")?,
            payment_status: o.maybe_text("payment_status")?,
            currency: o.maybe_text("currency")?,
            total: o.maybe_integer("amount_total")?,
            expires_at: o.time("expires_at")?,
            metadata: o.map("metadata")?,
            livemode: o.flag("livemode")?,
            created: o.time("created")?,
        })
    }

    /// The reference set by the creator of the session.
    pub fn reference(&self) -> Option<&str> {
        self.client_reference_id
            .as_deref()
            .filter(|_| !self.by_payment_link)
    }
}
