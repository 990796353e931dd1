//! The catalogue's prices, as Stripe has them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::failure::Failure;
use crate::catalogue::{Catalogue, Plan, metered_lookup_key};
use crate::stripe::client::{Client, Price};

/// How long prices are taken to be as they were.
const KEPT: Duration = Duration::from_secs(60);

/// Prices by their lookup keys, remembered for a while.
#[derive(Clone, Default)]
pub struct Prices {
    kept: Arc<Mutex<Option<(Instant, ByKey)>>>,
}

type ByKey = Arc<HashMap<String, Price>>;

/// What a plan is charged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanPrices {
    /// The fee.
    pub base: String,
    /// Usage, by metric: as far as Stripe has prices for it.
    pub metered: BTreeMap<String, String>,
}

impl Prices {
    /// The prices that a plan is charged by.
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
            && read_at.elapsed() < KEPT
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
        // A fee that is missing may be made at any moment; usage may be charged
        // elsewhere altogether.
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
