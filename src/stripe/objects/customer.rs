//! Customers.

use serde::Serialize;
use serde_json::Value;

use super::Metadata;
use super::discount::{Discount, Discounts};
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
    /// The discount of all its invoices, if it has one.
    pub discount_ids: Vec<String>,
    #[serde(skip)]
    pub discounts: Vec<Discount>,
    /// The country of its address.
    pub tax_country: Option<String>,
    /// Whether its address says enough to be taxed by.
    pub tax_located: bool,
    #[serde(skip)]
    pub metadata: Metadata,
}

impl Customer {
    /// `deleted` comes from the event, since the object may show the customer as it
    /// was before.
    pub fn read(object: &Value, deleted: bool) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        let discounts = Discounts::of(&o)?;
        let address = o.within("address")?;
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
            discount_ids: discounts.ids,
            discounts: discounts.shown,
            tax_country: given(&address, "country")?.map(|country| country.to_ascii_uppercase()),
            tax_located: is_tax_location(&address)?,
            metadata: o.map("metadata")?,
        })
    }
}

/// A text that is there and not blank.
fn given(o: &Fields<'_>, name: &str) -> Result<Option<String>, ShapeError> {
    let text = o.maybe_text(name)?;
    Ok(text.filter(|text| !text.trim().is_empty()))
}

/// What Stripe needs at least of an address to compute tax by it.
fn is_tax_location(address: &Fields<'_>) -> Result<bool, ShapeError> {
    let has_postal_code = given(address, "postal_code")?.is_some();
    let has_state = given(address, "state")?.is_some();
    let country = given(address, "country")?;
    Ok(
        match country
            .map(|one| one.trim().to_ascii_uppercase())
            .as_deref()
        {
            None => false,
            Some("US") => has_postal_code,
            Some("CA") => has_postal_code || has_state,
            Some(_) => true,
        },
    )
}
