//! Prices that plans were sold at before.

use super::{Run, SyncError, SyncedPrice, meter_event_name};
use crate::catalogue::{Catalogue, Plan};

impl Run<'_> {
    /// Finds the prices that a plan's product had before: what they are for shows
    /// by their usage type and their meter.
    pub(super) async fn former_prices(
        &mut self,
        catalogue: &Catalogue,
        plan: &Plan,
        product: &str,
    ) -> Result<(), SyncError> {
        for price in self.client.prices_of_product(product).await? {
            let is_sold = self.synced.sold.iter().any(|one| one.price.id == price.id);
            // An add-on may be sold at a price of the plan's product.
            let known = catalogue.price_use(price.lookup_key.as_deref(), Some(&price.id));
            if known.is_some_and(|known| known.addon.is_some()) {
                continue;
            }
            let Some(recurring) = price.recurring.as_ref().filter(|_| !is_sold) else {
                continue;
            };
            let metric = match recurring.meter.as_deref() {
                Some(id) => match self.metric_of_meter(catalogue, id) {
                    Some(metric) => Some(metric),
                    None => continue,
                },
                None if recurring.usage_type == "licensed" => None,
                None => continue,
            };
            self.synced.former.push(SyncedPrice {
                tier: plan.tier.clone(),
                metric,
                seats: price.metadata.contains_key("seats"),
                addon: None,
                price,
            });
        }
        Ok(())
    }

    fn metric_of_meter(&self, catalogue: &Catalogue, id: &str) -> Option<String> {
        let meter = self.meters.iter().find(|meter| meter.id == id)?;
        let mut metrics = catalogue.metrics().keys();
        let metric = metrics.find(|metric| meter_event_name(metric) == meter.event_name)?;
        Some(metric.clone())
    }
}
