//! Disputes.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::Metadata;
use super::fields::{Fields, ShapeError};

#[derive(Debug, Clone, Serialize)]
pub struct Dispute {
    #[serde(rename = "stripe_dispute_id")]
    pub id: String,
    /// A dispute names no customer; its charge does.
    #[serde(rename = "stripe_charge_id")]
    pub charge_id: String,
    #[serde(rename = "stripe_payment_intent_id")]
    pub payment_intent_id: Option<String>,
    pub status: String,
    pub reason: Option<String>,
    pub currency: String,
    pub amount: i64,
    pub evidence_due_by: Option<Timestamp>,
    pub metadata: Metadata,
    pub livemode: bool,
    #[serde(rename = "stripe_created_at")]
    pub created: Option<Timestamp>,
}

impl Dispute {
    pub fn read(object: &Value) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        Ok(Self {
            id: o.own_id()?,
            charge_id: o.id("charge")?.ok_or_else(|| o.missing("charge"))?,
            payment_intent_id: o.id("payment_intent")?,
            status: o.text("status")?,
            reason: o.maybe_text("reason")?,
            currency: o.text("currency")?,
            amount: o.integer("amount")?,
            evidence_due_by: o.within("evidence_details")?.time("due_by")?,
            metadata: o.map("metadata")?,
            livemode: o.flag("livemode")?,
            created: o.time("created")?,
        })
    }

    /// Whether the bank has decided.
    pub fn is_closed(&self) -> bool {
        matches!(
            self.status.as_str(),
            "won" | "lost" | "warning_closed" | "prevented"
        )
    }
}
