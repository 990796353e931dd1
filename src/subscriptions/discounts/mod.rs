//! The discounts that an organization has, to read.

pub(super) mod store;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::state::{SubscriptionRow, SubscriptionState};
use crate::stripe::objects::CouponTerms;

/// A discount of an organization.
#[derive(Debug, Clone)]
pub struct Applied {
    pub coupon_id: Option<String>,
    pub promotion_code_id: Option<String>,
    pub promotion_code: Option<String>,
    pub terms: Option<CouponTerms>,
    pub starts_at: Option<Timestamp>,
    pub ends_at: Option<Timestamp>,
}

/// The discounts of an organization.
#[derive(Debug, Default)]
pub struct Held {
    /// Those that were not removed.
    pub by_id: BTreeMap<String, Applied>,
    pub removed: BTreeSet<String>,
    /// Those of its customer.
    pub of_customer: Vec<String>,
}

/// What a discount reduces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiscountScope {
    Subscription,
    Item,
    /// All invoices of the customer that have no discount of their own.
    Customer,
}

/// A discount in force.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Discount)]
pub struct DiscountView {
    /// Stripe's id (di_…).
    pub id: String,
    pub scope: DiscountScope,
    #[schema(required)]
    pub stripe_coupon_id: Option<String>,
    /// The coupon's name, as invoices show it.
    #[schema(required)]
    pub name: Option<String>,
    /// The code that was redeemed, as it was typed.
    #[schema(required, example = "SPRING25")]
    pub promotion_code: Option<String>,
    /// An exact decimal; null for an amount.
    #[schema(required, example = "12.5")]
    pub percent_off: Option<String>,
    /// In the currency's minor unit; null for a percentage.
    #[schema(required)]
    pub amount_off: Option<i64>,
    #[schema(required)]
    pub currency: Option<String>,
    /// `once`, `repeating` or `forever`; null while Stripe is asked for the terms.
    #[schema(required, example = "repeating")]
    pub duration: Option<String>,
    #[schema(required)]
    pub duration_in_months: Option<i32>,
    #[schema(required)]
    pub starts_at: Option<Timestamp>,
    /// Null: for as long as the subscription lasts, or until it is used.
    #[schema(required)]
    pub ends_at: Option<Timestamp>,
}

impl DiscountView {
    fn of(id: &str, scope: DiscountScope, held: &Held) -> Self {
        let one = held.by_id.get(id);
        let terms = one.and_then(|one| one.terms.as_ref());
        Self {
            id: id.to_owned(),
            scope,
            stripe_coupon_id: one.and_then(|one| one.coupon_id.clone()),
            name: terms.and_then(|terms| terms.name.clone()),
            promotion_code: one.and_then(|one| one.promotion_code.clone()),
            percent_off: terms.and_then(|terms| terms.percent_off.clone()),
            amount_off: terms.and_then(|terms| terms.amount_off),
            currency: terms.and_then(|terms| terms.currency.clone()),
            duration: terms.map(|terms| terms.duration.clone()),
            duration_in_months: terms.and_then(|terms| terms.duration_in_months),
            starts_at: one.and_then(|one| one.starts_at),
            ends_at: one.and_then(|one| one.ends_at),
        }
    }
}

/// The discounts that reduce the subscription's invoices, its own before its items',
/// or else the customer's.
pub fn in_force(state: &SubscriptionState, held: &Held) -> Vec<DiscountView> {
    let Some(subscription) = &state.subscription else {
        return of_customer(held).collect();
    };
    let SubscriptionRow {
        discount_ids,
        items,
        ..
    } = subscription;
    let is_held = |id: &&String| !held.removed.contains(*id);
    let own: Vec<&String> = discount_ids.iter().filter(is_held).collect();
    let in_items = items.iter().flat_map(|item| &item.discount_ids);
    let in_items = in_items
        .filter(is_held)
        .map(|id| DiscountView::of(id, DiscountScope::Item, held));
    let customers = of_customer(held).take(if own.is_empty() { usize::MAX } else { 0 });
    let own = own
        .into_iter()
        .map(|id| DiscountView::of(id, DiscountScope::Subscription, held));
    own.chain(in_items).chain(customers).collect()
}

fn of_customer(held: &Held) -> impl Iterator<Item = DiscountView> {
    let ids = held.of_customer.iter();
    ids.map(|id| DiscountView::of(id, DiscountScope::Customer, held))
}
