//! The Stripe prices of the catalogue's plans, cached.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;

use super::Subscriptions;
use super::failure::Failure;
use crate::catalogue::versions::version_name;
use crate::catalogue::{self, Catalogue, Plan, is_fee_of, is_usage_of, metered_lookup_key};
use crate::db::WorkerTx;
use crate::stripe::client::{Client, Price};

/// How long prices are cached.
const CACHE_LIFETIME: Duration = Duration::from_secs(60);

/// Prices by lookup key, cached for `CACHE_LIFETIME`.
#[derive(Clone, Default)]
pub struct Prices {
    kept: Arc<Mutex<Option<(Instant, ByKey)>>>,
}

impl PlanPrices {
    /// Takes the recorded prices, each for its metric; `None` is the fee.
    fn replace(&mut self, recorded: &[(Option<String>, String)]) {
        for (metric, id) in recorded {
            match metric {
                None => self.base.clone_from(id),
                Some(metric) => {
                    self.metered.insert(metric.clone(), id.clone());
                }
            }
        }
    }
}

type ByKey = Arc<HashMap<String, Price>>;

/// The Stripe prices of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanPrices {
    /// The price of the fee.
    pub base: String,
    /// Metered prices by metric, for the metrics that have one in Stripe.
    pub metered: BTreeMap<String, String>,
}

impl Subscriptions {
    /// The prices of a version of a plan, by default of the one that is sold now.
    pub(super) async fn prices_of(
        &self,
        client: &Client,
        plan: &Plan,
        version: Option<i32>,
    ) -> Result<PlanPrices, Failure> {
        let version =
            version.filter(|one| self.catalogue.current_version(&plan.tier) != Some(*one));
        let Some(version) = version else {
            let prices = &self.prices;
            return prices.of(client, &self.pool, &self.catalogue, plan).await;
        };
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let recorded = catalogue::recorded_prices(tx.conn(), &plan.tier, version).await?;
        tx.commit().await?;
        let mut found = PlanPrices::default();
        found.replace(&recorded);
        if found.base.is_empty() {
            return Err(Failure::NoPrice(version_name(&plan.tier, version)));
        }
        Ok(found)
    }
}

impl Prices {
    /// The prices that a plan is sold with. A lookup key may have moved on to the
    /// price of another version; then those that were recorded for this one count.
    async fn of(
        &self,
        client: &Client,
        pool: &PgPool,
        catalogue: &Catalogue,
        plan: &Plan,
    ) -> Result<PlanPrices, Failure> {
        let Some(key) = &plan.price.lookup_key else {
            let id = plan.price.stripe_price_ids.first();
            return Ok(PlanPrices {
                base: id
                    .cloned()
                    .ok_or_else(|| Failure::NoPrice(plan.tier.clone()))?,
                metered: BTreeMap::new(),
            });
        };
        let prices = self.all(client, catalogue).await?;
        let metrics = plan.quotas.keys();
        let metered = metrics.filter_map(|metric| {
            let price = prices.get(&metered_lookup_key(plan, metric)?)?;
            Some((metric, price))
        });
        let metered: Vec<(&String, &Price)> = metered.collect();
        let base = prices.get(key);
        let mut found = PlanPrices {
            base: base.map(|price| price.id.clone()).unwrap_or_default(),
            metered: metered
                .iter()
                .map(|(metric, price)| ((*metric).clone(), price.id.clone()))
                .collect(),
        };
        let as_sold = base.is_some_and(|base| is_fee_of(base, plan))
            && metered
                .iter()
                .all(|(metric, price)| is_usage_of(price, plan, metric));
        if !as_sold && let Some(version) = catalogue.current_version(&plan.tier) {
            let mut tx = WorkerTx::begin(pool).await?;
            let recorded = catalogue::recorded_prices(tx.conn(), &plan.tier, version).await?;
            tx.commit().await?;
            found.replace(&recorded);
        }
        if found.base.is_empty() {
            return Err(Failure::NoPrice(key.clone()));
        }
        Ok(found)
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
    let base = plan.price.lookup_key.iter().cloned();
    let metered = plan.quotas.keys();
    let metered = metered.filter_map(|metric| metered_lookup_key(plan, metric));
    base.chain(metered).collect()
}
