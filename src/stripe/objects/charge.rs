//! Charges.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::Metadata;
use super::fields::{Fields, ShapeError, customer};

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
        let instrument = Instrument::of(&o)?;
        let amount = o.integer("amount")?;
        let captured = o.flag("captured")?;
        let refunded = o.flag("refunded")?;
        Ok(Self {
            id: o.own_id()?,
            customer_id: customer(&o)?,
            invoice_id: o.id("invoice")?,
            payment_intent_id: o.id("payment_intent")?,
            payment_method_id: o.id("payment_method")?,
            status: status(&o)?,
            currency: o.text("currency")?,
            amount,
            // Missing before 2020-08-27, when the uncaptured part of a charge was
            // refunded.
            amount_captured: match o.maybe_integer("amount_captured")? {
                Some(amount) => amount,
                None if captured => amount,
                None => 0,
            },
            amount_refunded: match o.maybe_integer("amount_refunded")? {
                Some(amount) => amount,
                None if refunded => amount,
                None => 0,
            },
            paid: o.flag("paid")?,
            captured,
            refunded,
            // Until 2020, only the dispute itself shows it.
            disputed: o.flag("disputed")? || o.has("dispute"),
            failure_code: o.maybe_text("failure_code")?,
            failure_message: o.maybe_text("failure_message")?,
            outcome_type: outcome.maybe_text("type")?,
            outcome_network_status: outcome.maybe_text("network_status")?,
            outcome_reason: outcome.maybe_text("reason")?,
            outcome_risk_level: outcome.maybe_text("risk_level")?,
            outcome_seller_message: outcome.maybe_text("seller_message")?,
            card_brand: instrument.brand,
            card_last4: instrument.last4,
            description: o.maybe_text("description")?,
            receipt_url: o.maybe_text("receipt_url")?,
            metadata: o.map("metadata")?,
            livemode: o.flag("livemode")?,
            created: o.time("created")?,
        })
    }
}

/// Versions before 2015-02-18 say `paid` instead of `succeeded`, and older ones
/// have no status.
fn status(o: &Fields<'_>) -> Result<String, ShapeError> {
    let status = match o.maybe_text("status")? {
        Some(status) if status == "paid" => "succeeded".to_owned(),
        Some(status) => status,
        None if !o.has("paid") => return Err(o.missing("status")),
        None if o.flag("paid")? => "succeeded".to_owned(),
        None => "failed".to_owned(),
    };
    Ok(status)
}

/// What a charge was paid with, as a customer would recognize it.
struct Instrument {
    brand: Option<String>,
    last4: Option<String>,
}

impl Instrument {
    /// Read from `payment_method_details`; from `source` in versions before
    /// 2019-02-11, and from `card` before 2015-02-18.
    fn of(o: &Fields<'_>) -> Result<Self, ShapeError> {
        let details = o.within("payment_method_details")?;
        if let Some(kind) = details.maybe_text("type")? {
            return Self::read(&details.within(&kind)?);
        }
        for name in ["card", "card_present", "interac_present"] {
            let card = details.within(name)?;
            if card.is_present() {
                return Self::read(&card);
            }
        }
        for name in ["source", "card"] {
            let source = o.within(name)?;
            if source.is_present() {
                // Sources since 2017 have their details under their type.
                return match source.maybe_text("type")? {
                    Some(kind) if source.within(&kind)?.is_present() => {
                        Self::read(&source.within(&kind)?)
                    }
                    _ => Self::read(&source),
                };
            }
        }
        Ok(Self {
            brand: None,
            last4: None,
        })
    }

    fn read(details: &Fields<'_>) -> Result<Self, ShapeError> {
        // A wallet shows its funding card.
        let card = details.within("funding")?.within("card")?;
        let details = if card.is_present() { &card } else { details };
        let brand = match details.maybe_text("brand")? {
            Some(brand) => Some(brand),
            // Before 2014, the brand was the card's `type`.
            None if details.is("object", "card") => details.maybe_text("type")?,
            None => None,
        };
        Ok(Self {
            brand,
            last4: match details.maybe_text("last4")? {
                Some(digits) => Some(digits),
                None => details.maybe_text("iban_last4")?,
            },
        })
    }
}
