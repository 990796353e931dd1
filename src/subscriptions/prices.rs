//! The Stripe prices of the catalogue's plans, cached.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::failure::Failure;
use crate::catalogue::{Catalogue, Plan, metered_lookup_key};
use crate::stripe::client::{Client, Price};

/// How long prices are cached.
const CACHE_LIFETIME: Duration = Duration::from_secs(60);

/// Prices by lookup key, cached for `CACHE_LIFETIME`.
#[derive(Clone, Default)]
pub struct Prices {
    kept: Arc<Mutex<Option<(Instant, ByKey)>>>,
}

type ByKey = Arc<HashMap<String, Price>>;

/// The Stripe prices of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanPrices {
    /// The price of the fee.
    pub base: String,
    /// Metered prices by metric, for the metrics that have one in Stripe.
    pub metered: BTreeMap<String, String>,
}

impl Prices {
    /// The prices of a plan.
    pub async fn of(
        &self,
        client: &Client,
        catalogue: &Catalogue,
        plan: &Plan,
    ) -> Result<PlanPrices, Failure> {
        let Some(key) = &plan.price.lookup_key else {
            let id = plan.price.stripe_price_ids.first();
            return Ok(PlanPrices {
                base: id
                    .map(|id| id.get_ref().clone())
                    .ok_or_else(|| Failure::NoPrice(plan.tier.clone()))?,
                metered: BTreeMap::new(),
            });
        };
        let key = key.get_ref();
        let prices = self.all(client, catalogue).await?;
        let metered = plan.quotas.keys().filter_map(|metric| {
            let price = prices.get(&metered_lookup_key(plan, metric)?)?;
            Some((metric.clone(), price.id.clone()))
        });
        match prices.get(key) {
            Some(price) => Ok(PlanPrices {
                base: price.id.clone(),
                metered: metered.collect(),
            }),
            None => Err(Failure::NoPrice(key.clone())),
        }
    }

    async fn all(&self, client: &Client, catalogue: &Catalogue) -> Result<ByKey, Failure> {
        let kept = self
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((read_at, prices)) = kept
            && read_at.elapsed() < CACHE_LIFETIME
        {
            return Ok(prices);
        }
        let keys: Vec<String> = catalogue.plans().iter().flat_map(keys_of).collect();
        let found = client.prices(&keys).await.map_err(Failure::Stripe)?;
        let by_key: ByKey = Arc::new(
            found
                .into_iter()
                .filter_map(|price| Some((price.lookup_key.clone()?, price)))
                .collect(),
        );
        // A missing fee may be created at any moment, so it is not cached. A
        // missing metered price is normal: usage may be billed elsewhere.
        let fees = |plan: &&Plan| plan.price.lookup_key.is_some();
        let mut fees = catalogue.plans().iter().filter(fees);
        if fees.all(|plan| {
            keys_of(plan)
                .first()
                .is_some_and(|fee| by_key.contains_key(fee))
        }) {
            let now = Some((Instant::now(), by_key.clone()));
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
        Ok(by_key)
    }
}

fn keys_of(plan: &Plan) -> Vec<String> {
    let base = plan
        .price
        .lookup_key
        .iter()
        .map(|key| key.get_ref().clone());
    let metered = plan.quotas.keys();
    let metered = metered.filter_map(|metric| metered_lookup_key(plan, metric));
    base.chain(metered).collect()
}
