//! The discount of a customer.

use crate::customers::Customer;
use crate::discounts::model::Discount;
use crate::discounts::redeem::{self, DiscountChange, Redeemer};
use crate::error::ApiError;
use crate::ids::IdSource;
use crate::params::Params;
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;

/// Takes `coupon` or `promotion_code`, which customers had before basil.
pub fn take_coupon(params: &mut Params, shape: Shape) -> Result<DiscountChange, ApiError> {
    match shape {
        Shape::Legacy => DiscountChange::take_single(params),
        Shape::Basil => Ok(DiscountChange::Keep),
    }
}

/// The discount after a request, if it changes.
pub fn resolve_discount(
    state: &State,
    customer: &Customer,
    coupon: &DiscountChange,
    ids: &mut IdSource,
    now_secs: i64,
) -> Result<Option<Vec<Discount>>, ApiError> {
    let redeemer = Redeemer {
        customer: customer.id(),
        subscription: None,
        current: &[],
        currency: customer.currency.as_deref(),
        amount: None,
    };
    redeem::resolve(state, coupon, &redeemer, ids, now_secs)
}

/// Sets the discount, if it changes, and returns the one before.
pub fn set_discount(
    state: &mut State,
    id: &str,
    discounts: Option<&Vec<Discount>>,
) -> Vec<Discount> {
    let (Some(customer), Some(discounts)) = (state.customers.get_mut(id), discounts) else {
        return Vec::new();
    };
    let before = customer.discount.take();
    customer.discount = discounts.first().cloned();
    before.into_iter().collect()
}
