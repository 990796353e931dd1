//! Invoice payments, the links between payments and invoices.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::fields::{Fields, ShapeError};

#[derive(Debug, Clone, Serialize)]
pub struct InvoicePayment {
    #[serde(rename = "stripe_invoice_payment_id")]
    pub id: String,
    /// An invoice payment names no customer; its invoice does.
    #[serde(rename = "stripe_invoice_id")]
    pub invoice_id: String,
    #[serde(rename = "stripe_payment_intent_id")]
    pub payment_intent_id: Option<String>,
    #[serde(rename = "stripe_charge_id")]
    pub charge_id: Option<String>,
    pub status: Option<String>,
    pub currency: Option<String>,
    pub amount_paid: Option<i64>,
    pub livemode: bool,
    #[serde(rename = "stripe_created_at")]
    pub created: Option<Timestamp>,
}

impl InvoicePayment {
    pub fn read(object: &Value) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        let payment = o.within("payment")?;
        Ok(Self {
            id: o.own_id()?,
            invoice_id: o.id("invoice")?.ok_or_else(|| o.missing("invoice"))?,
            payment_intent_id: payment.id("payment_intent")?,
            charge_id: payment.id("charge")?,
            status: o.maybe_text("status")?,
            currency: o.maybe_text("currency")?,
            amount_paid: o.maybe_integer("amount_paid")?,
            livemode: o.flag("livemode")?,
            created: o.time("created")?,
        })
    }
}
