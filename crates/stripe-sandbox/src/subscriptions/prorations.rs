//! The lines for unused and remaining time: which items changed, and what is
//! credited and debited for each.

use billing_domain::period::Period;
use billing_domain::preview::BillingMode;
use billing_domain::proration::{Charge, Rounding};

use crate::error::ApiError;
use crate::invoices::describe;
use crate::invoices::model::LineContent;
use crate::store::Keyed;
use crate::subscriptions::change::{Catalogue, ChangeRequest, charge_of};
use crate::subscriptions::model::{Item, Subscription};
use crate::subscriptions::periods;
use crate::subscriptions::share::Share;

/// The changed items, as pairs of before and after. If the period restarts, all
/// items count as changed.
fn changed_items<'a>(
    before: &'a Subscription,
    after: &'a Subscription,
    restart: bool,
) -> Vec<(Option<&'a Item>, Option<&'a Item>)> {
    let find = |items: &'a [Item], id: &str| items.iter().find(|item| item.id == id);
    let existing = before.items.iter().filter_map(|old| {
        let new = find(&after.items, &old.id);
        let same = new.is_some_and(|new| new.price == old.price && new.quantity == old.quantity);
        (restart || !same).then_some((Some(old), new))
    });
    let added = after
        .items
        .iter()
        .filter(|new| find(&before.items, &new.id).is_none())
        .map(|new| (None, Some(new)));
    existing.chain(added).collect()
}

/// The lines for unused and remaining time. There are none if no time is left.
pub fn prorations(
    before: &Subscription,
    after: &Subscription,
    request: &ChangeRequest,
    restart: bool,
    catalogue: Catalogue<'_>,
) -> Result<Vec<LineContent>, ApiError> {
    let at_secs = request.proration_secs;
    let mut lines = Vec::new();
    for (old, new) in changed_items(before, after, restart) {
        if let Some(item) = old
            && let Some((charge, share)) = credited(item, before, at_secs, catalogue)?
        {
            let line = ProrationLine {
                kind: Side::Unused,
                item,
                charge,
                share,
                at_secs,
                period: periods::of_item(before, item, catalogue)?,
            };
            lines.extend(line.content(before, catalogue)?);
        }
        // A restarted period is charged in full instead of prorated.
        let debited = new.filter(|_| !restart);
        if let Some(item) = debited
            && let Some(charge) = charge_of(item, catalogue)?
        {
            let line = ProrationLine {
                kind: Side::Remaining,
                item,
                charge,
                share: discounted_share(item, after, at_secs, catalogue)?,
                at_secs,
                period: periods::of_item(after, item, catalogue)?,
            };
            lines.extend(line.content(before, catalogue)?);
        }
    }
    Ok(lines)
}

/// What is credited for an item: in classic billing its current price and
/// discounts, in flexible billing what was charged.
fn credited(
    item: &Item,
    subscription: &Subscription,
    at_secs: i64,
    catalogue: Catalogue<'_>,
) -> Result<Option<(Charge, Share)>, ApiError> {
    let Some(current) = charge_of(item, catalogue)? else {
        return Ok(None);
    };
    Ok(Some(match subscription.mode {
        BillingMode::Flexible => (item.last_debited.unwrap_or(current), item.charged),
        BillingMode::Classic => (
            current,
            discounted_share(item, subscription, at_secs, catalogue)?,
        ),
    }))
}

/// What the discounts of a subscription leave of an item's price.
fn discounted_share(
    item: &Item,
    subscription: &Subscription,
    at_secs: i64,
    catalogue: Catalogue<'_>,
) -> Result<Share, ApiError> {
    let product = &catalogue.price(&item.price)?.product;
    Share::left_by(
        catalogue.discounts_of(subscription),
        Some(product.as_str()),
        at_secs,
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Unused,
    Remaining,
}

struct ProrationLine<'a> {
    kind: Side,
    item: &'a Item,
    charge: Charge,
    /// The share of the charge that is prorated.
    share: Share,
    at_secs: i64,
    /// The period whose rest is charged or credited.
    period: Period,
}

impl ProrationLine<'_> {
    /// The amount for the rest of the period, rounded once; negative for
    /// credits.
    fn amount(&self) -> Result<i64, ApiError> {
        let period = self.period;
        let too_large = || ApiError::invalid("The amount is too large to be prorated.");
        let full = self
            .charge
            .full_amount()
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        let full = match self.kind {
            Side::Unused => -i128::from(full),
            Side::Remaining => i128::from(full),
        };
        let (part, whole) = self.share.fraction();
        let numerator = full
            .checked_mul(part)
            .and_then(|share| share.checked_mul(i128::from(period.remaining_secs(self.at_secs))))
            .ok_or_else(too_large)?;
        let denominator = whole
            .checked_mul(i128::from(period.length_secs()))
            .ok_or_else(too_large)?;
        let amount = Rounding::NearestTiesDown.divide(numerator, denominator);
        i64::try_from(amount).map_err(|_| too_large())
    }

    fn content(
        &self,
        subscription: &Subscription,
        catalogue: Catalogue<'_>,
    ) -> Result<Option<LineContent>, ApiError> {
        if self.period.remaining_secs(self.at_secs) == 0 {
            return Ok(None);
        }
        let price = catalogue.price(&self.item.price)?;
        let (unused, quantity) = (self.kind == Side::Unused, self.charge.quantity);
        let product = catalogue.product_name(price);
        Ok(Some(LineContent {
            amount: self.amount()?,
            currency: subscription.currency.clone(),
            description: Some(describe::proration(unused, quantity, product, self.at_secs)),
            period: (self.at_secs, self.period.end_secs()),
            price: Some(price.id().to_owned()),
            quantity: Some(quantity),
            proration: true,
            subscription: Some(subscription.id.clone()),
            item: Some(self.item.id.clone()),
            unit: None,
            credited: None,
            tax_rates: self.item.tax_rates.clone(),
            metadata: subscription.metadata.clone(),
        }))
    }
}
