//! Customers.

use serde::Serialize;
use serde_json::Value;

use super::Metadata;
use super::fields::{Fields, ShapeError};

/// A customer, without personal data.
#[derive(Debug, Clone, Serialize)]
pub struct Customer {
    #[serde(rename = "stripe_customer_id")]
    pub id: String,
    pub deleted: bool,
    pub delinquent: Option<bool>,
    pub currency: Option<String>,
    pub default_payment_method_id: Option<String>,
    #[serde(skip)]
    pub metadata: Metadata,
}

impl Customer {
    /// `deleted` comes from the event, since the object may show the customer as it
    /// was before.
    pub fn read(object: &Value, deleted: bool) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        let preferred = o.within("invoice_settings")?.id("default_payment_method")?;
        Ok(Self {
            id: o.own_id()?,
            deleted: deleted || o.flag("deleted")?,
            delinquent: match o.has("delinquent") {
                true => Some(o.flag("delinquent")?),
                false => None,
            },
            currency: o.maybe_text("currency")?,
            default_payment_method_id: match preferred {
                Some(id) => Some(id),
                None => o.id("default_source")?,
            },
            metadata: o.map("metadata")?,
        })
    }
}
