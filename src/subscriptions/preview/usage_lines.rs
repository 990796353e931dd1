//! The lines of usage: which they are, what they are called, and which are left out.

use std::collections::HashMap;

use super::{Line, stripe};
use crate::catalogue::Catalogue;
use crate::stripe::objects::InvoiceLine;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::prices::PlanPrices;
use crate::subscriptions::state::SubscriptionRow;

/// The metered prices of a subscription, by their ids, with the names of what they
/// charge. They are charged at the end of the period, for usage that is not known
/// before.
pub struct UsagePrices<'a>(HashMap<&'a str, Option<&'a str>>);

impl<'a> UsagePrices<'a> {
    pub fn of(
        subscription: Option<&'a SubscriptionRow>,
        next: Option<&'a PlanPrices>,
        catalogue: &'a Catalogue,
    ) -> Self {
        let items = subscription.into_iter().flat_map(|one| &one.items);
        let metered = items.filter(|item| item.metered).filter_map(|item| {
            let metric = item.used(catalogue).and_then(|used| used.metric);
            let name = metric.and_then(|metric| catalogue.given_name(&metric));
            Some((item.price_id.as_deref()?, name))
        });
        let next = next.into_iter().flat_map(|prices| &prices.metered);
        let next = next.map(|(metric, price)| (price.as_str(), catalogue.given_name(metric)));
        Self(metered.chain(next).collect())
    }

    /// Whether the line charges usage.
    pub fn charge(&self, line: &InvoiceLine) -> bool {
        line.price_id
            .as_deref()
            .is_some_and(|id| self.0.contains_key(id))
    }

    /// What the line says, with the name of what it charges.
    pub fn describe(&self, line: &InvoiceLine) -> String {
        let text = line.description.as_deref().unwrap_or_default();
        let price = line.price_id.as_deref().and_then(|id| self.0.get(id));
        match price {
            Some(Some(name)) => named(text, name),
            _ => text.to_owned(),
        }
    }

    /// The lines, without those of usage and prorations that come to nothing.
    pub fn shown<'l>(
        &self,
        lines: impl IntoIterator<Item = &'l InvoiceLine>,
    ) -> Result<Vec<Line>, Failure> {
        let mut all = Vec::new();
        for one in lines {
            let mut view = stripe::line(one)?;
            if (one.proration || self.charge(one)) && view.is_nothing() {
                continue;
            }
            view.description = self.describe(one);
            all.push(view);
        }
        Ok(all)
    }
}

/// Stripe's words for usage, `12 × Standard (Tier 2 at $0.10 / month)`, with the name of
/// what was used in place of the product's.
fn named(description: &str, name: &str) -> String {
    let parts = description
        .split_once(" × ")
        .and_then(|(quantity, rest)| Some((quantity, rest.rsplit_once(" (")?.1)));
    match parts {
        Some((quantity, price)) => format!("{quantity} × {name} ({price}"),
        None => description.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn usage_is_called_what_it_is_of() {
        let text = "12 × Standard (plus) (Tier 2 at $0.10 / month)";
        assert_eq!(
            named(text, "API calls"),
            "12 × API calls (Tier 2 at $0.10 / month)"
        );
        assert_eq!(named("Discounted usage", "API calls"), "Discounted usage");
    }
}
