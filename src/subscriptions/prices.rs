//! The catalogue's prices, as Stripe has them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::failure::Failure;
use crate::plans::{Catalogue, Plan};
use crate::stripe::client::{Client, Price};

/// How long prices are taken to be as they were.
const KEPT: Duration = Duration::from_secs(60);

/// Prices by their lookup keys, remembered for a while.
#[derive(Clone, Default)]
pub struct Prices {
    kept: Arc<Mutex<Option<(Instant, ByKey)>>>,
}

type ByKey = Arc<HashMap<String, Price>>;

impl Prices {
    /// The id of the price that a plan's fee is charged by.
    pub async fn base(
        &self,
        client: &Client,
        catalogue: &Catalogue,
        plan: &Plan,
    ) -> Result<String, Failure> {
        let Some(key) = &plan.price.lookup_key else {
            let id = plan.price.stripe_price_ids.first();
            return id
                .map(|id| id.get_ref().clone())
                .ok_or_else(|| Failure::NoPrice(plan.tier.clone()));
        };
        let key = key.get_ref();
        let prices = self.all(client, catalogue).await?;
        match prices.get(key) {
            Some(price) => Ok(price.id.clone()),
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
        let keys = catalogue.plans().iter().filter_map(|plan| {
            let key = plan.price.lookup_key.as_ref()?;
            Some(key.get_ref().as_str())
        });
        let keys: Vec<&str> = keys.collect();
        let found = client.prices(&keys).await.map_err(Failure::Stripe)?;
        let by_key: ByKey = Arc::new(
            found
                .into_iter()
                .filter_map(|price| Some((price.lookup_key.clone()?, price)))
                .collect(),
        );
        // What is missing may be made at any moment.
        if keys.iter().all(|key| by_key.contains_key(*key)) {
            let now = Some((Instant::now(), by_key.clone()));
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
        Ok(by_key)
    }
}
