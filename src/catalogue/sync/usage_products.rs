//! Products of metrics that have a name: Stripe's invoice lines say a product's name, so
//! that usage is shown by what was used, and not as another line of the plan.

use super::{Action, Run, SyncError, SyncedPrice, key_of};
use crate::catalogue::Catalogue;
use crate::catalogue::names::MetricName;
use crate::stripe::client::{Params, Price};

/// The product that a metered price belongs to, whose name its invoice lines have.
/// `None`: a dry run would create it.
pub(super) enum UsageProduct {
    /// The plan's, for a metric without a name.
    Plan(Option<String>),
    /// The metric's own.
    Metric(Option<String>),
}

impl UsageProduct {
    pub(super) fn id(&self) -> Option<&str> {
        let (Self::Plan(id) | Self::Metric(id)) = self;
        id.as_deref()
    }

    /// Whether a price that is there may stay. One of a plan's product may, whichever.
    pub(super) fn has(&self, price: &Price) -> bool {
        match self {
            Self::Plan(_) => true,
            Self::Metric(id) => id.as_deref() == Some(&price.product),
        }
    }
}

impl Run<'_> {
    /// The product of a metric that has a name; `None` for one without.
    pub(super) async fn metric_product(
        &mut self,
        catalogue: &Catalogue,
        metric: &str,
    ) -> Result<Option<UsageProduct>, SyncError> {
        let Some(MetricName { name, unit }) = catalogue.metric_name(metric) else {
            return Ok(None);
        };
        let known = self.products.iter().find(|product| {
            let is = |key: &str| product.metadata.get(key).and_then(|value| value.as_str());
            product.active && is("metric") == Some(metric) && is("plan_tier").is_none()
        });
        let params = Params::new()
            .set("name", name)
            .set_if("unit_label", unit.as_ref());
        let (action, id) = match known {
            Some(known) if known.name == *name && (unit.is_none() || known.unit_label == *unit) => {
                (Action::Unchanged, Some(known.id.clone()))
            }
            Some(known) => (Action::Rename, Some(known.id.clone())),
            None => (Action::Create, None),
        };
        let id = match (action, &id) {
            (Action::Rename, Some(id)) if !self.dry_run => {
                let key = key_of(&format!("product {id}"), &params);
                let product = self.client.update_product(id, &params, &key).await?;
                Some(product.id)
            }
            (Action::Create, _) if !self.dry_run => {
                let params = params.set("metadata[metric]", metric);
                let key = key_of("product", &params);
                Some(self.client.create_product(&params, &key).await?.id)
            }
            _ => id,
        };
        let id = self.step("product", metric, action, id);
        Ok(Some(UsageProduct::Metric(id)))
    }

    /// Finds the prices of plans that a metric's product had before.
    pub(super) async fn former_usage_prices(
        &mut self,
        catalogue: &Catalogue,
        metric: &str,
        product: &str,
    ) -> Result<(), SyncError> {
        for price in self.client.prices_of_product(product).await? {
            let is_sold = self.synced.sold.iter().any(|one| one.price.id == price.id);
            let tier = price
                .metadata
                .get("plan_tier")
                .and_then(|tier| tier.as_str());
            let plan = tier.filter(|tier| catalogue.rank(tier).is_some());
            if let (false, Some(tier)) = (is_sold, plan) {
                self.synced.former.push(SyncedPrice {
                    tier: tier.to_owned(),
                    metric: Some(metric.to_owned()),
                    seats: false,
                    addon: None,
                    price,
                });
            }
        }
        Ok(())
    }
}
