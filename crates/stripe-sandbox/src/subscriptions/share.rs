//! The share of an item's full amount that was charged.

use crate::coupons::Reduction;
use crate::discounts::model::Discount;
use crate::error::ApiError;
use crate::invoices::model::Invoice;
use crate::state::State;
use crate::subscriptions::periods;

/// A fraction from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    part: i128,
    whole: i128,
}

impl Share {
    /// All of it, without a discount.
    pub const ALL: Self = Self { part: 1, whole: 1 };

    /// `part` of `whole`; all of it if there is nothing to share.
    #[must_use]
    pub fn of(part: i64, whole: i64) -> Self {
        if whole <= 0 {
            return Self::ALL;
        }
        Self {
            part: i128::from(part),
            whole: i128::from(whole),
        }
    }

    /// What discounts leave of the price of a product. Prorations under an
    /// amount off are not modelled, because Stripe does not say how it spreads
    /// the amount over time.
    pub fn left_by(
        discounts: &[Discount],
        product: Option<&str>,
        at_secs: i64,
    ) -> Result<Self, ApiError> {
        let mut left = Self::ALL;
        let applying = discounts
            .iter()
            .filter(|discount| discount.applies_at(at_secs) && discount.covers(product));
        for discount in applying {
            match &discount.reduction {
                Reduction::Percent(percent) => {
                    let (part, whole) = percent.rest();
                    left = left.times(part, whole)?;
                }
                Reduction::Amount(..) => {
                    return Err(ApiError::unsupported(
                        "proration_behavior",
                        "prorations under a coupon with `amount_off`; use `proration_behavior=none`",
                    ));
                }
            }
        }
        Ok(left)
    }

    fn times(self, part: i128, whole: i128) -> Result<Self, ApiError> {
        let too_many =
            || ApiError::unsupported("discounts", "prorations under so many discounts at once");
        let part = self.part.checked_mul(part).ok_or_else(too_many)?;
        let whole = self.whole.checked_mul(whole).ok_or_else(too_many)?;
        let common = greatest_common_divisor(part, whole);
        Ok(Self {
            part: part / common,
            whole: whole / common,
        })
    }

    /// The numerator and the denominator.
    #[must_use]
    pub const fn fraction(self) -> (i128, i128) {
        (self.part, self.whole)
    }

    #[must_use]
    pub const fn is_all(self) -> bool {
        self.part == self.whole
    }
}

const fn greatest_common_divisor(mut one: i128, mut other: i128) -> i128 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

/// Remembers what an invoice charged for the current period of its items.
pub fn remember(state: &mut State, invoice: &Invoice) {
    let Some(id) = invoice.subscription() else {
        return;
    };
    let mut ends: Vec<(String, i64)> = Vec::new();
    if let Some(subscription) = state.subscriptions.get(id) {
        for item in &subscription.items {
            if let Ok(period) = periods::of_item(subscription, item, state.catalogue()) {
                ends.push((item.id.clone(), period.end_secs()));
            }
        }
    }
    let Some(subscription) = state.subscriptions.get_mut(id) else {
        return;
    };
    for line in &invoice.lines {
        let content = &line.content;
        let current = ends.iter().any(|(item, end_secs)| {
            content.item.as_ref() == Some(item) && content.period.1 == *end_secs
        });
        if content.proration || !current {
            continue;
        }
        let mut items = subscription.items.iter_mut();
        if let Some(item) = items.find(|item| content.item.as_ref() == Some(&item.id)) {
            item.charged = Share::of(content.amount - line.off(), content.amount);
        }
    }
}
