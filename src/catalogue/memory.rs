//! What this process remembers of prices: which plan each Stripe price belongs to, by
//! its id. Lookup keys move from price to price; ids do not, so what is remembered
//! is never out of date. Prices that are not remembered are read from `billing_prices`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::{Catalogue, Interval, Plan, Price, store};
use crate::db::WorkerTx;
use crate::stripe::objects::{Subscription, SubscriptionItem};

/// What a price of the catalogue is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceUse {
    /// The plan's; empty for an add-on's price, which is of no plan.
    pub tier: String,
    /// The metric whose usage it charges; `None` for what is licensed.
    pub metric: Option<String>,
    /// Whether it is the price of a licensed seat beside the fee.
    pub seats: bool,
    /// The add-on that it is the price of.
    pub addon: Option<String>,
}

impl PriceUse {
    pub fn fee(tier: &str) -> Self {
        Self {
            tier: tier.to_owned(),
            metric: None,
            seats: false,
            addon: None,
        }
    }

    pub fn usage(tier: &str, metric: &str) -> Self {
        Self {
            metric: Some(metric.to_owned()),
            ..Self::fee(tier)
        }
    }

    pub fn seats(tier: &str) -> Self {
        Self {
            seats: true,
            ..Self::fee(tier)
        }
    }

    pub fn is_fee(&self) -> bool {
        self.metric.is_none() && !self.seats && self.addon.is_none()
    }

    /// The plan that it is of.
    pub fn plan_tier(&self) -> Option<&str> {
        Some(self.tier.as_str()).filter(|_| self.addon.is_none())
    }

    /// For people.
    pub fn describe(&self) -> String {
        match (&self.addon, &self.metric) {
            (Some(id), _) => format!("the add-on {id:?}"),
            (None, Some(metric)) => format!("the usage of {metric:?} in {:?}", self.tier),
            (None, None) if self.seats => format!("the seats of {:?}", self.tier),
            (None, None) => format!("the plan {:?}", self.tier),
        }
    }
}

/// Uses of prices by their ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    prices: Arc<RwLock<HashMap<String, PriceUse>>>,
    /// The intervals of prices, where plans are sold by them.
    intervals: Arc<RwLock<HashMap<String, Interval>>>,
    /// Plans by their products, where all prices of a product are of one plan.
    products: Arc<RwLock<HashMap<String, String>>>,
    /// Versions by plan, as they were last read.
    versions: Arc<RwLock<HashMap<String, BTreeMap<i32, KnownVersion>>>>,
}

/// A version of a plan.
#[derive(Debug, Clone)]
pub(super) struct KnownVersion {
    pub created_at: Timestamp,
    /// The prices that it is sold with, as far as they are known.
    pub price_ids: BTreeSet<String>,
    /// The terms never change.
    pub terms: Plan,
}

impl Memory {
    pub fn price(&self, id: &str) -> Option<PriceUse> {
        let prices = self.prices.read().unwrap_or_else(PoisonError::into_inner);
        prices.get(id).cloned()
    }

    fn interval(&self, id: &str) -> Option<Interval> {
        let known = self
            .intervals
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        known.get(id).copied()
    }

    fn product(&self, id: &str) -> Option<String> {
        let products = self.products.read().unwrap_or_else(PoisonError::into_inner);
        products.get(id).cloned()
    }

    pub fn terms(&self, tier: &str, version: i32) -> Option<Plan> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        Some(versions.get(tier)?.get(&version)?.terms.clone())
    }

    /// Asks `choose` about the versions of a plan.
    pub fn of_versions<T>(
        &self,
        tier: &str,
        choose: impl FnOnce(&BTreeMap<i32, KnownVersion>) -> Option<T>,
    ) -> Option<T> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        choose(versions.get(tier)?)
    }

    fn known_versions(&self) -> Vec<(String, i32)> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        let known = versions
            .iter()
            .flat_map(|(tier, of_plan)| of_plan.keys().map(|version| (tier.clone(), *version)));
        known.collect()
    }

    fn remember_versions(&self, found: Vec<store::PricedVersion>) {
        let mut versions = self
            .versions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for row in found {
            let of_plan = versions.entry(row.plan_tier.clone()).or_default();
            let known = of_plan.get(&row.version).map(|known| known.terms.clone());
            let read = || serde_json::from_value(row.definition.clone()?).ok();
            let Some(terms) = known.or_else(read) else {
                tracing::error!(
                    plan = row.plan_tier,
                    version = row.version,
                    "A stored version of a plan cannot be read"
                );
                continue;
            };
            let version = KnownVersion {
                created_at: row.created_at.to_jiff(),
                price_ids: row.price_ids.into_iter().collect(),
                terms,
            };
            of_plan.insert(row.version, version);
        }
    }

    fn remember(&self, found: store::KnownPrices) {
        let mut prices = self.prices.write().unwrap_or_else(PoisonError::into_inner);
        prices.extend(found.uses);
        drop(prices);
        let mut intervals = self
            .intervals
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        intervals.extend(found.intervals);
        drop(intervals);
        let mut products = self
            .products
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        products.extend(found.products);
    }
}

impl Catalogue {
    /// What a price is for: by its id, which never moves, or else by its lookup key.
    /// What the file says of an id counts before what was remembered.
    pub fn price_use(&self, lookup_key: Option<&str>, price_id: Option<&str>) -> Option<PriceUse> {
        let by_id = |id| {
            let in_file = self.by_price_id.get(id).cloned();
            in_file.or_else(|| self.memory.price(id))
        };
        let by_key = |key| {
            let licensed = self.by_lookup_key.get(key);
            licensed.or_else(|| self.metered_by_key.get(key)).cloned()
        };
        price_id
            .and_then(by_id)
            .or_else(|| lookup_key.and_then(by_key))
    }

    /// The interval of a licensed price, where plans are sold by it and it is known.
    pub fn price_interval(
        &self,
        lookup_key: Option<&str>,
        price_id: Option<&str>,
    ) -> Option<Interval> {
        let of_file = |is_meant: &dyn Fn(&Price) -> bool| {
            let mut prices = self.plans.iter().flat_map(Plan::licensed_prices);
            let found = prices.find(|price| is_meant(price)).map(|one| one.interval);
            found.or_else(|| self.addon_interval(is_meant))
        };
        let by_id = |id: &str| {
            let named = |price: &Price| price.stripe_price_ids.iter().any(|one| one == id);
            of_file(&named).or_else(|| self.memory.interval(id))
        };
        let by_key = |key| of_file(&|price: &Price| price.lookup_key.as_deref() == Some(key));
        price_id
            .and_then(by_id)
            .or_else(|| lookup_key.and_then(by_key))
    }

    /// What an item's price is for.
    pub fn item_use(&self, item: &SubscriptionItem) -> Option<PriceUse> {
        self.price_use(item.lookup_key.as_deref(), item.price_id.as_deref())
    }

    /// The plan whose product an item's price belongs to: a fee that was agreed
    /// outside of the catalogue.
    pub(super) fn tier_of_product(&self, item: &SubscriptionItem) -> Option<String> {
        if item.usage_type.as_deref() == Some("metered") {
            return None;
        }
        self.memory.product(item.product_id.as_deref()?)
    }

    /// Reads what the database knows of the subscriptions' prices and of all versions,
    /// and remembers the prices for good. The transaction must not be confined to an
    /// organization: the catalogue is of none. Items of `organizations` with a price
    /// that is new are told what it is for, since their event may have come before.
    pub async fn learn<'s>(
        &self,
        conn: &mut PgConnection,
        organizations: &[Uuid],
        subscriptions: impl IntoIterator<Item = &'s Subscription> + Clone,
    ) -> Result<(), sqlx::Error> {
        self.recall(conn, subscriptions.clone()).await?;
        let items = subscriptions.into_iter().flat_map(|one| &one.items);
        if self.remember(conn, items).await? && !organizations.is_empty() {
            store::tell_items(conn, organizations).await?;
        }
        self.read_versions(conn).await
    }

    /// Reads the versions of all plans, and records nothing.
    pub async fn read_all_versions(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let mut tx = WorkerTx::begin(pool).await?;
        self.read_versions(tx.conn()).await?;
        tx.commit().await
    }

    /// Reads the versions of all plans.
    pub async fn read_versions(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let known = self.memory.known_versions();
        let found = store::priced_versions(conn, &known).await?;
        self.memory.remember_versions(found);
        Ok(())
    }

    /// Reads from the database what it knows of prices that this process does not.
    pub async fn recall(
        &self,
        conn: &mut PgConnection,
        subscriptions: impl IntoIterator<Item = &Subscription>,
    ) -> Result<(), sqlx::Error> {
        let items = subscriptions.into_iter().flat_map(|one| &one.items);
        let mut unknown = (BTreeSet::new(), BTreeSet::new());
        for item in items {
            let Some(id) = item.price_id.as_deref() else {
                continue;
            };
            if self.memory.price(id).is_some() {
                continue;
            }
            unknown.0.insert(id);
            let product = item.product_id.as_deref();
            unknown
                .1
                .extend(product.filter(|id| self.memory.product(id).is_none()));
        }
        let (prices, products) = unknown;
        if prices.is_empty() {
            return Ok(());
        }
        let (prices, products) = (Vec::from_iter(prices), Vec::from_iter(products));
        let found = store::known_prices(conn, &prices, &products).await?;
        self.memory.remember(found);
        Ok(())
    }

    /// The same, by the prices' ids alone.
    pub async fn recall_prices(
        &self,
        conn: &mut PgConnection,
        ids: impl IntoIterator<Item = &str>,
    ) -> Result<(), sqlx::Error> {
        let ids: BTreeSet<&str> = ids.into_iter().collect();
        let unknown = ids.into_iter().filter(|id| self.memory.price(id).is_none());
        let unknown = Vec::from_iter(unknown);
        if !unknown.is_empty() {
            let found = store::known_prices(conn, &unknown, &[]).await?;
            self.memory.remember(found);
        }
        Ok(())
    }

    /// Remembers the prices of items for good, once their lookup keys have told what
    /// they are for: the keys may move. The process itself remembers what was
    /// committed, when it reads it again. Returns whether there were any.
    pub async fn remember(
        &self,
        conn: &mut PgConnection,
        items: impl IntoIterator<Item = &SubscriptionItem>,
    ) -> Result<bool, sqlx::Error> {
        let mut new = BTreeMap::new();
        for item in items {
            let Some(id) = &item.price_id else {
                continue;
            };
            if self.memory.price(id).is_some() {
                continue;
            }
            if let Some(known) = self.item_use(item) {
                new.insert(id.clone(), (item, known));
            }
        }
        if new.is_empty() {
            return Ok(false);
        }
        let prices: Vec<store::NewPrice> = new
            .into_iter()
            .map(|(id, (item, used))| self.new_price(id, item, used))
            .collect();
        store::remember(conn, &prices).await?;
        Ok(true)
    }

    fn new_price(&self, id: String, item: &SubscriptionItem, used: PriceUse) -> store::NewPrice {
        // A lookup key may have moved on to the price of a version that this process
        // does not sell yet: `plans sync` says which.
        let is_shown = |price: &Price| {
            item.unit_amount == Some(price.amount)
                && item.currency.as_deref() == Some(&price.currency)
                && item.interval.as_deref() == Some(price.interval.as_str())
        };
        let plan = used.plan_tier().and_then(|tier| self.plan(tier));
        let sold = plan.filter(|plan| match (&used.metric, &plan.seats) {
            (Some(_), _) => false,
            (None, seats) if used.seats => {
                seats.iter().flat_map(|seats| &seats.prices).any(is_shown)
            }
            (None, _) => plan.prices().into_iter().any(is_shown),
        });
        let quota = used.metric.as_ref().zip(plan);
        let quota = quota.and_then(|(metric, plan)| {
            let interval = Interval::of(item.interval.as_deref(), item.interval_count);
            let mut plan = plan.paid_in(item.currency.as_deref(), interval);
            plan.quotas.remove(metric)
        });
        store::NewPrice {
            stripe_price_id: id,
            version: sold.and_then(|plan| self.current_version(&plan.tier)),
            plan_tier: used.tier,
            metric: used.metric,
            currency: item.currency.clone(),
            recurring_interval: item.interval.clone(),
            recurring_interval_count: item.interval_count,
            unit_amount: item.unit_amount,
            // Events do not show a price's tiers: what is sold is taken, until a sync.
            included: quota.as_ref().and_then(|quota| quota.quota),
            overage_rate: quota.and_then(|quota| quota.overage_rate),
            seats: used.seats,
            addon: used.addon,
            lookup_key: item.lookup_key.clone(),
            // Only a sync knows whose a product is. Learned from events, the plan of a
            // price would depend on their order.
            stripe_product_id: None,
        }
    }
}
