//! The discount and its API representation.

use serde_json::{Value, json};

use crate::coupons::{Duration, Reduction};
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;

/// A redeemed coupon. It keeps the coupon's terms, because a coupon may be
/// deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discount {
    pub id: String,
    pub coupon: String,
    pub reduction: Reduction,
    pub duration: Duration,
    /// The products it is limited to; none means all.
    pub products: Vec<String>,
    pub promotion_code: Option<String>,
    pub customer: String,
    /// `None` for a discount of the customer.
    pub subscription: Option<String>,
    pub start_secs: i64,
    /// The end of a discount that repeats.
    pub end_secs: Option<i64>,
}

impl Keyed for Discount {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Discount {
    /// Whether invoices of this time are discounted.
    #[must_use]
    pub fn applies_at(&self, at_secs: i64) -> bool {
        self.end_secs.is_none_or(|end| at_secs < end)
    }

    /// Whether the discount covers a product. Lines without a product are
    /// covered only by coupons for everything.
    #[must_use]
    pub fn covers(&self, product: Option<&str>) -> bool {
        self.products.is_empty()
            || product.is_some_and(|id| self.products.iter().any(|covered| covered == id))
    }

    /// The API object.
    #[must_use]
    pub fn render(&self, state: &State, shape: Shape) -> Value {
        let mut object = json!({
            "id": self.id,
            "object": "discount",
            "checkout_session": null,
            "customer": self.customer,
            "customer_account": null,
            "end": self.end_secs,
            "invoice": null,
            "invoice_item": null,
            "promotion_code": self.promotion_code,
            "start": self.start_secs,
            "subscription": self.subscription,
            "subscription_item": null,
        });
        match shape {
            Shape::Legacy => {
                let coupon = state.coupons.get(&self.coupon);
                object["coupon"] = json!(coupon.map(|coupon| coupon.render(state.wall_secs)));
            }
            Shape::Basil => object["source"] = json!({ "coupon": self.coupon, "type": "coupon" }),
        }
        object
    }
}

/// The ids of discounts, as most objects show them.
#[must_use]
pub fn ids(discounts: &[Discount]) -> Vec<&str> {
    discounts
        .iter()
        .map(|discount| discount.id.as_str())
        .collect()
}
