//! Refunds.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::Metadata;
use super::fields::{Fields, ShapeError};

#[derive(Debug, Clone, Serialize)]
pub struct Refund {
    #[serde(rename = "stripe_refund_id")]
    pub id: String,
    /// A refund names no customer; its charge does.
    #[serde(rename = "stripe_charge_id")]
    pub charge_id: Option<String>,
    #[serde(rename = "stripe_payment_intent_id")]
    pub payment_intent_id: Option<String>,
    pub status: String,
    pub reason: Option<String>,
    pub failure_reason: Option<String>,
    pub currency: String,
    pub amount: i64,
    pub metadata: Metadata,
    #[serde(rename = "stripe_created_at")]
    pub created: Option<Timestamp>,
}

impl Refund {
    pub fn read(object: &Value) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        let status = o.maybe_text("status")?;
        Ok(Self {
            id: o.own_id()?,
            charge_id: o.id("charge")?,
            payment_intent_id: o.id("payment_intent")?,
            // Missing before 2014, when none could fail.
            status: status.unwrap_or_else(|| "succeeded".to_owned()),
            reason: o.maybe_text("reason")?,
            failure_reason: o.maybe_text("failure_reason")?,
            currency: o.text("currency")?,
            amount: o.integer("amount")?,
            metadata: o.map("metadata")?,
            created: o.time("created")?,
        })
    }

    /// Whether the money is back for good, and not with the customer.
    pub fn is_returned(&self) -> bool {
        matches!(self.status.as_str(), "failed" | "canceled")
    }
}
