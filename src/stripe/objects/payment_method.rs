//! Payment methods.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Metadata;
use super::fields::{Fields, ShapeError, customer};

#[derive(Debug, Clone, Serialize)]
pub struct PaymentMethod {
    #[serde(rename = "stripe_payment_method_id")]
    pub id: String,
    /// The customer it is attached to, or was before it was detached.
    #[serde(rename = "stripe_customer_id")]
    pub customer_id: Option<String>,
    /// `attached` or `detached`.
    pub status: &'static str,
    #[serde(rename = "type")]
    pub kind: String,
    pub brand: Option<String>,
    pub last4: Option<String>,
    pub exp_month: Option<i16>,
    pub exp_year: Option<i16>,
    pub funding: Option<String>,
    pub country: Option<String>,
    pub metadata: Metadata,
    pub livemode: bool,
    #[serde(rename = "stripe_created_at")]
    pub created: Option<Timestamp>,
}

impl PaymentMethod {
    /// `previous_attributes` name the customer that a detached one belonged to.
    pub fn read(object: &Value, previous: Option<&Map<String, Value>>) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        let kind = o.text("type")?;
        let details = o.within(&kind)?;
        let customer = customer(&o)?;
        let owner_before = previous.and_then(|previous| {
            let named = ["customer", "customer_account"];
            named.iter().find_map(|name| previous.get(*name)?.as_str())
        });
        Ok(Self {
            id: o.own_id()?,
            status: if customer.is_some() {
                "attached"
            } else {
                "detached"
            },
            customer_id: customer.or_else(|| owner_before.map(str::to_owned)),
            brand: match details.maybe_text("brand")? {
                Some(brand) => Some(brand),
                None => details.maybe_text("bank_name")?,
            },
            last4: match details.maybe_text("last4")? {
                Some(digits) => Some(digits),
                None => details.maybe_text("iban_last4")?,
            },
            exp_month: details.small("exp_month")?,
            exp_year: details.small("exp_year")?,
            funding: details.maybe_text("funding")?,
            country: details.maybe_text("country")?,
            kind,
            metadata: o.map("metadata")?,
            livemode: o.flag("livemode")?,
            created: o.time("created")?,
        })
    }
}
