//! Charges.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::Metadata;
use super::fields::{Fields, ShapeError};

#[derive(Debug, Clone, Serialize)]
pub struct Charge {
    #[serde(rename = "stripe_charge_id")]
    pub id: String,
    #[serde(rename = "stripe_customer_id")]
    pub customer_id: Option<String>,
    #[serde(rename = "stripe_invoice_id")]
    pub invoice_id: Option<String>,
    #[serde(rename = "stripe_payment_intent_id")]
    pub payment_intent_id: Option<String>,
    #[serde(rename = "stripe_payment_method_id")]
    pub payment_method_id: Option<String>,
    pub status: String,
    pub currency: String,
    pub amount: i64,
    pub amount_captured: i64,
    pub amount_refunded: i64,
    pub paid: bool,
    pub captured: bool,
    pub refunded: bool,
    pub disputed: bool,
    pub failure_code: Option<String>,
    pub failure_message: Option<String>,
    pub outcome_type: Option<String>,
    pub outcome_network_status: Option<String>,
    pub outcome_reason: Option<String>,
    pub outcome_risk_level: Option<String>,
    pub outcome_seller_message: Option<String>,
    pub card_brand: Option<String>,
    pub card_last4: Option<String>,
    pub description: Option<String>,
    pub receipt_url: Option<String>,
    pub metadata: Metadata,
    pub livemode: bool,
    #[serde(rename = "stripe_created_at")]
    pub created: Option<Timestamp>,
}

impl Charge {
    pub fn read(object: &Value) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        let outcome = o.within("outcome")?;
        let card = o.within("payment_method_details")?.within("card")?;
        Ok(Self {
            id: o.text("id")?,
            customer_id: o.id("customer")?,
            invoice_id: o.id("invoice")?,
            payment_intent_id: o.id("payment_intent")?,
            payment_method_id: o.id("payment_method")?,
            status: o.text("status")?,
            currency: o.text("currency")?,
            amount: o.integer("amount")?,
            amount_captured: o.maybe_integer("amount_captured")?.unwrap_or(0),
            amount_refunded: o.maybe_integer("amount_refunded")?.unwrap_or(0),
            paid: o.flag("paid")?,
            captured: o.flag("captured")?,
            refunded: o.flag("refunded")?,
            disputed: o.flag("disputed")?,
            failure_code: o.maybe_text("failure_code")?,
            failure_message: o.maybe_text("failure_message")?,
            outcome_type: outcome.maybe_text("type")?,
            outcome_network_status: outcome.maybe_text("network_status")?,
            outcome_reason: outcome.maybe_text("reason")?,
            outcome_risk_level: outcome.maybe_text("risk_level")?,
            outcome_seller_message: outcome.maybe_text("seller_message")?,
            card_brand: card.maybe_text("brand")?,
            card_last4: card.maybe_text("last4")?,
            description: o.maybe_text("description")?,
            receipt_url: o.maybe_text("receipt_url")?,
            metadata: o.map("metadata")?,
            livemode: o.flag("livemode")?,
            created: o.time("created")?,
        })
    }
}
