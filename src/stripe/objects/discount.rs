//! Discounts: coupons that a customer, a subscription or an item has redeemed.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::fields::{Fields, ShapeError, customer};

/// A discount as Stripe shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Discount {
    #[serde(rename = "stripe_discount_id")]
    pub id: String,
    #[serde(rename = "stripe_customer_id")]
    pub customer_id: Option<String>,
    #[serde(rename = "stripe_subscription_id")]
    pub subscription_id: Option<String>,
    #[serde(rename = "stripe_subscription_item_id")]
    pub subscription_item_id: Option<String>,
    #[serde(rename = "stripe_coupon_id")]
    pub coupon_id: Option<String>,
    #[serde(rename = "stripe_promotion_code_id")]
    pub promotion_code_id: Option<String>,
    /// As customers type it.
    pub promotion_code: Option<String>,
    pub starts_at: Option<Timestamp>,
    pub ends_at: Option<Timestamp>,
    /// `None` where only the coupon's id is shown.
    #[serde(skip)]
    pub terms: Option<CouponTerms>,
}

/// What a coupon takes off, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CouponTerms {
    #[serde(rename = "coupon_name")]
    pub name: Option<String>,
    /// An exact decimal.
    pub percent_off: Option<String>,
    /// In the currency's minor unit.
    pub amount_off: Option<i64>,
    pub currency: Option<String>,
    /// `once`, `repeating` or `forever`.
    pub duration: String,
    pub duration_in_months: Option<i32>,
}

impl CouponTerms {
    pub fn read(coupon: &Value) -> Result<Self, ShapeError> {
        Self::of(&Fields::root(coupon))
    }

    fn of(coupon: &Fields<'_>) -> Result<Self, ShapeError> {
        Ok(Self {
            name: coupon.maybe_text("name")?,
            percent_off: coupon.decimal("percent_off")?,
            amount_off: coupon.maybe_integer("amount_off")?,
            currency: coupon.maybe_text("currency")?,
            duration: coupon.text("duration")?,
            duration_in_months: coupon.small("duration_in_months")?,
        })
    }
}

impl Discount {
    pub fn read(object: &Value) -> Result<Self, ShapeError> {
        Self::of(&Fields::root(object))
    }

    fn of(o: &Fields<'_>) -> Result<Self, ShapeError> {
        // Since 2025-09-30.clover the coupon stands under `source`.
        let source = o.within("source")?;
        let holder = if source.is_present() { &source } else { o };
        let coupon = holder.within("coupon")?;
        // A deleted coupon is shown without terms.
        let has_terms = coupon.is_present() && coupon.has("duration");
        let starts_at = o.time("start")?;
        let coupon_id = holder.id("coupon")?;
        Ok(Self {
            id: match o.maybe_text("id")? {
                Some(_) => o.own_id()?,
                // Versions before 2020-08-27 give discounts no id.
                None => format!(
                    "{}@{}",
                    coupon_id.as_deref().unwrap_or("discount"),
                    starts_at.map_or(0, Timestamp::as_second)
                ),
            },
            customer_id: customer(o)?,
            subscription_id: o.id("subscription")?,
            subscription_item_id: o.id("subscription_item")?,
            coupon_id,
            promotion_code_id: o.id("promotion_code")?,
            promotion_code: o.within("promotion_code")?.maybe_text("code")?,
            starts_at,
            ends_at: o.time("end")?,
            terms: has_terms.then(|| CouponTerms::of(&coupon)).transpose()?,
        })
    }
}

/// The discounts of an object: their ids, and those that are shown whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discounts {
    pub ids: Vec<String>,
    pub shown: Vec<Discount>,
}

impl Discounts {
    /// The list `discounts`, of ids or objects, and what versions before 2025-03-31
    /// have as `discount`.
    pub(super) fn of(o: &Fields<'_>) -> Result<Self, ShapeError> {
        let mut found = Self::default();
        for entry in o.entries("discounts")? {
            found.add(entry)?;
        }
        if o.has("discount") {
            found.add(o.member("discount"))?;
        }
        Ok(found)
    }

    fn add(&mut self, entry: Fields<'_>) -> Result<(), ShapeError> {
        let id = if entry.is_present() {
            let discount = Discount::of(&entry)?;
            let id = discount.id.clone();
            if !self.shown.iter().any(|one| one.id == id) {
                self.shown.push(discount);
            }
            id
        } else {
            entry.as_id()?
        };
        if !self.ids.contains(&id) {
            self.ids.push(id);
        }
        Ok(())
    }
}
