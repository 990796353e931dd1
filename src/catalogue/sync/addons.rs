//! Products and prices of add-ons.

use super::{Action, Run, SyncError, SyncedPrice, key_of, licensed};
use crate::catalogue::store::NewPrice;
use crate::catalogue::{Addon, Catalogue, Price, is_addon_price};
use crate::stripe::client::Params;

impl Catalogue {
    /// The lookup keys of add-ons' prices.
    pub fn addon_keys(&self) -> impl Iterator<Item = String> {
        let prices = self.addons().iter().flat_map(|addon| &addon.prices);
        prices.filter_map(|price| price.lookup_key.clone())
    }

    /// The prices of add-ons that the file names by their ids.
    pub(in crate::catalogue) fn addon_price_ids(&self) -> Vec<NewPrice> {
        let addons = self.addons().iter();
        let prices = addons.flat_map(|addon| addon.prices.iter().map(move |price| (addon, price)));
        let named = prices.flat_map(|(addon, price)| {
            let ids = price.stripe_price_ids.iter();
            ids.map(move |id| NewPrice {
                stripe_price_id: id.clone(),
                plan_tier: String::new(),
                metric: None,
                seats: false,
                addon: Some(addon.id.clone()),
                version: None,
                currency: Some(price.currency.clone()),
                recurring_interval: Some(price.interval.as_str().to_owned()),
                recurring_interval_count: Some(1),
                unit_amount: Some(price.amount),
                included: None,
                overage_rate: None,
                lookup_key: None,
                stripe_product_id: None,
            })
        });
        named.collect()
    }
}

impl Run<'_> {
    /// The product and the prices of an add-on. A price that the file names by its id is not
    /// ours.
    pub(super) async fn addon(&mut self, addon: &Addon) -> Result<(), SyncError> {
        if !addon.is_synced() {
            return Ok(());
        }
        let product = self.addon_product(addon).await?;
        for price in &addon.prices {
            if let Some(key) = &price.lookup_key {
                self.addon_price(addon, price, key, product.as_deref())
                    .await?;
            }
        }
        match product {
            Some(product) => self.former_addon_prices(addon, &product).await,
            None => Ok(()),
        }
    }

    async fn addon_product(&mut self, addon: &Addon) -> Result<Option<String>, SyncError> {
        let known = self.products.iter().find(|product| {
            let is = product.metadata.get("addon").and_then(|id| id.as_str());
            product.active && is == Some(&addon.id)
        });
        let params = Params::new().set("name", &addon.name);
        let (action, id) = match known {
            Some(known) if known.name == addon.name => (Action::Unchanged, Some(known.id.clone())),
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
                let params = params.set("metadata[addon]", &addon.id);
                let key = key_of("product", &params);
                Some(self.client.create_product(&params, &key).await?.id)
            }
            _ => id,
        };
        Ok(self.step("product", &addon.id, action, id))
    }

    /// Creates the price, unless an equal one has the lookup key.
    async fn addon_price(
        &mut self,
        addon: &Addon,
        price: &Price,
        lookup_key: &str,
        product: Option<&str>,
    ) -> Result<(), SyncError> {
        let mut known = self.prices.iter();
        let known = known.find(|one| one.lookup_key.as_deref() == Some(lookup_key));
        let (action, found) = match known {
            Some(known) if is_addon_price(known, price) => (Action::Unchanged, Some(known.clone())),
            Some(_) => (Action::Replace, None),
            None => (Action::Create, None),
        };
        let found = if action == Action::Unchanged || self.dry_run {
            found
        } else {
            let params = licensed(price.amount)
                .set("currency", &price.currency)
                .set("recurring[interval]", price.interval.as_str())
                .set("lookup_key", lookup_key)
                .set("transfer_lookup_key", true)
                .set("metadata[addon]", &addon.id)
                .set_if("product", product);
            let key = key_of("price", &params);
            Some(self.client.create_price(&params, &key).await?)
        };
        let id = found.as_ref().map(|price| price.id.clone());
        self.step("price", lookup_key, action, id);
        let sold = found.map(|price| of_addon(addon, price));
        self.synced.sold.extend(sold);
        Ok(())
    }

    /// Finds the prices that the add-on's product had before.
    async fn former_addon_prices(&mut self, addon: &Addon, product: &str) -> Result<(), SyncError> {
        for price in self.client.prices_of_product(product).await? {
            let is_sold = self.synced.sold.iter().any(|one| one.price.id == price.id);
            let recurring = price.recurring.as_ref();
            let licensed = recurring.is_some_and(|one| one.usage_type == "licensed");
            if !is_sold && licensed {
                self.synced.former.push(of_addon(addon, price));
            }
        }
        Ok(())
    }
}

fn of_addon(addon: &Addon, price: crate::stripe::client::Price) -> SyncedPrice {
    SyncedPrice {
        tier: String::new(),
        metric: None,
        seats: false,
        addon: Some(addon.id.clone()),
        price,
    }
}
