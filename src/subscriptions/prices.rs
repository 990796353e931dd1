//! The Stripe prices of the catalogue's plans, cached.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;

use super::Subscriptions;
use super::command::{AddonItem, AddonPrice, ChangeRejection, StripeAction};
use super::failure::Failure;
use super::pending::Following;
use super::selection::Quantities;
use super::state::SubscriptionRow;
use crate::catalogue::versions::version_name;
use crate::catalogue::{
    self, Catalogue, Plan, RecordedPrice, is_addon_price, is_fee_of, is_seat_of, is_usage_of,
    metered_lookup_key,
};
use crate::db::WorkerTx;
use crate::stripe::client::{BILLING_MODE, Client, FLEXIBLE, Price};

/// How long prices are cached.
const CACHE_LIFETIME: Duration = Duration::from_secs(60);

/// Prices by lookup key, cached for `CACHE_LIFETIME`.
#[derive(Clone, Default)]
pub struct Prices {
    kept: Arc<Mutex<Option<(Instant, ByKey)>>>,
}

impl PlanPrices {
    /// The billing mode in which a plan is bought with these prices.
    pub(super) fn billing_mode(&self, plan: &Plan) -> &'static str {
        match plan.mixes_intervals() && !self.metered.is_empty() {
            true => FLEXIBLE,
            false => BILLING_MODE,
        }
    }

    /// Takes the recorded prices, each for what it is.
    fn replace(&mut self, recorded: &[RecordedPrice]) {
        for price in recorded {
            let id = price.stripe_price_id.clone();
            match &price.metric {
                None if price.seats => self.seats = Some(id),
                None => self.base = id,
                Some(metric) => {
                    self.metered.insert(metric.clone(), id);
                }
            }
        }
    }

    /// Those that a subscription has.
    fn held(subscription: &SubscriptionRow, catalogue: &Catalogue) -> Option<Self> {
        let (fee, _) = subscription.base_item(catalogue)?;
        let seats = subscription.seat_items(catalogue).into_iter();
        let metrics = catalogue.metrics().keys();
        let metered = metrics.filter_map(|metric| {
            let items = subscription.metered_items(catalogue, metric).into_iter();
            let id = items.filter_map(|item| item.price_id.clone()).max()?;
            Some((metric.clone(), id))
        });
        Some(Self {
            base: fee.price_id.clone()?,
            seats: seats.filter_map(|item| item.price_id.clone()).max(),
            metered: metered.collect(),
            addons: Vec::new(),
        })
    }
}

type ByKey = Arc<HashMap<String, Price>>;

/// The Stripe prices of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanPrices {
    /// The price of the fee.
    pub base: String,
    /// The price of a licensed seat, if seats have one of their own.
    pub seats: Option<String>,
    /// Metered prices by metric, for the metrics that have one in Stripe.
    pub metered: BTreeMap<String, String>,
    /// Those of the add-ons beside the plan.
    pub addons: Vec<PricedAddon>,
}

/// An add-on that a subscription is to have, with its price in Stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricedAddon {
    pub id: String,
    pub price_id: String,
    pub quantity: u32,
    /// In minor units; `None` if it is not a whole number of them.
    pub unit_amount: Option<i64>,
    /// Whether it is the price that it was bought at.
    pub is_held: bool,
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
        let recorded = catalogue::recorded_prices(tx.conn(), plan, version).await?;
        tx.commit().await?;
        let mut found = PlanPrices::default();
        found.replace(&recorded);
        let is_whole = plan.seat_price().is_none() || found.seats.is_some();
        if found.base.is_empty() || !is_whole {
            return Err(Failure::NoPrice(version_name(&plan.tier, version)));
        }
        Ok(found)
    }

    /// The same with the prices of add-ons.
    pub(super) async fn prices_with(
        &self,
        client: &Client,
        plan: &Plan,
        version: Option<i32>,
        addons: &[AddonItem],
    ) -> Result<PlanPrices, Failure> {
        Ok(PlanPrices {
            addons: self.addon_prices(client, addons).await?,
            ..self.prices_of(client, plan, version).await?
        })
    }

    /// The prices of add-ons in Stripe.
    pub(super) async fn addon_prices(
        &self,
        client: &Client,
        addons: &[AddonItem],
    ) -> Result<Vec<PricedAddon>, Failure> {
        let mut priced = Vec::new();
        for addon in addons {
            let (price_id, unit_amount, is_held) = match &addon.price {
                AddonPrice::Held {
                    price_id,
                    unit_amount,
                } => (price_id.clone(), *unit_amount, true),
                AddonPrice::Sold(price) => {
                    let (price_id, amount) = self.addon_price(client, &addon.id, price).await?;
                    (price_id, Some(amount), false)
                }
            };
            priced.push(PricedAddon {
                id: addon.id.clone(),
                price_id,
                quantity: addon.quantity,
                unit_amount,
                is_held,
            });
        }
        Ok(priced)
    }

    /// The price in Stripe that an add-on is sold at, and its amount: the one that has its
    /// lookup key, or that was recorded, if it charges what the catalogue says, or the one
    /// that the file names. Until a sync has made it, the former one is sold.
    async fn addon_price(
        &self,
        client: &Client,
        id: &str,
        price: &catalogue::Price,
    ) -> Result<(String, i64), Failure> {
        let mut former = None;
        if let Some(key) = &price.lookup_key {
            let known = self.prices.all(client, &self.catalogue).await?;
            if let Some(known) = known.get(key).filter(|one| is_addon_price(one, price)) {
                return Ok((known.id.clone(), price.amount));
            }
            let mut tx = WorkerTx::begin(&self.pool).await?;
            former = catalogue::addon_price(tx.conn(), id, price).await?;
            tx.commit().await?;
        }
        if let Some(same) = former.take_if(|one| one.unit_amount == price.amount) {
            return Ok((same.stripe_price_id, same.unit_amount));
        }
        if let Some(named) = price.stripe_price_ids.first() {
            return Ok((named.clone(), price.amount));
        }
        let missing = || price.lookup_key.clone().unwrap_or_else(|| id.to_owned());
        let former = former.ok_or_else(|| Failure::NoPrice(missing()))?;
        tracing::warn!(
            addon = id,
            amount = former.unit_amount,
            "PLANS_FILE changes the price of an add-on that Stripe does not have yet: the former \
             one is sold. Run `plans sync`"
        );
        Ok((former.stripe_price_id, former.unit_amount))
    }

    /// The prices of a subscription after a switch: those it has, if it keeps them.
    pub(super) async fn prices_after(
        &self,
        client: &Client,
        subscription: &SubscriptionRow,
        switch: SwitchTo<'_>,
    ) -> Result<PlanPrices, Failure> {
        let SwitchTo { plan, version, .. } = switch;
        if !switch.keeps_prices {
            return self.prices_with(client, plan, version, switch.addons).await;
        }
        let mut held =
            PlanPrices::held(subscription, &self.catalogue).ok_or(ChangeRejection::UnknownItems)?;
        if held.seats.is_none() && plan.seat_price().is_some() {
            held.seats = self.prices_of(client, plan, version).await?.seats;
        }
        held.addons = self.addon_prices(client, switch.addons).await?;
        Ok(held)
    }
}

/// What a subscription is switched to.
#[derive(Debug, Clone, Copy)]
pub struct SwitchTo<'a> {
    pub plan: &'a Plan,
    pub version: Option<i32>,
    pub quantities: Quantities,
    pub addons: &'a [AddonItem],
    pub keeps_prices: bool,
    /// What becomes of a pending change.
    pub following: Option<&'a Following>,
}

impl<'a> SwitchTo<'a> {
    /// What an action switches to, now or later, if it is a switch.
    pub fn of(action: &'a StripeAction<'_>) -> Option<Self> {
        match action {
            StripeAction::SwitchLater {
                plan,
                version,
                quantities,
                addons,
                keeps_prices,
                ..
            } => Some(Self {
                plan,
                version: *version,
                quantities: *quantities,
                addons,
                keeps_prices: *keeps_prices,
                following: None,
            }),
            StripeAction::Switch {
                plan,
                version,
                quantities,
                addons,
                keeps_prices,
                following,
                ..
            } => Some(Self {
                plan,
                version: *version,
                quantities: *quantities,
                addons,
                keeps_prices: *keeps_prices,
                following: following.as_deref(),
            }),
            _ => None,
        }
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
        let seat = plan.seat_price();
        let Some(key) = &plan.price.lookup_key else {
            let id = |price: &catalogue::Price| price.stripe_price_ids.first().cloned();
            let missing = || Failure::NoPrice(plan.tier.clone());
            return Ok(PlanPrices {
                base: id(&plan.price).ok_or_else(missing)?,
                seats: match seat {
                    Some(seat) => Some(id(seat).ok_or_else(missing)?),
                    None => None,
                },
                metered: BTreeMap::new(),
                addons: Vec::new(),
            });
        };
        let prices = self.all(client, catalogue).await?;
        let of_seat = seat.and_then(|seat| prices.get(seat.lookup_key.as_ref()?));
        let metrics = plan.quotas.keys();
        let metered = metrics.filter_map(|metric| {
            let price = prices.get(&metered_lookup_key(plan, metric)?)?;
            Some((metric, price))
        });
        let metered: Vec<(&String, &Price)> = metered.collect();
        let base = prices.get(key);
        let mut found = PlanPrices {
            base: base.map(|price| price.id.clone()).unwrap_or_default(),
            seats: of_seat.map(|price| price.id.clone()),
            metered: metered
                .iter()
                .map(|(metric, price)| ((*metric).clone(), price.id.clone()))
                .collect(),
            addons: Vec::new(),
        };
        let as_sold = base.is_some_and(|base| is_fee_of(base, plan))
            && (seat.is_none() || of_seat.is_some_and(|price| is_seat_of(price, plan)))
            && metered
                .iter()
                .all(|(metric, price)| is_usage_of(price, plan, metric));
        if !as_sold && let Some(version) = catalogue.current_version(&plan.tier) {
            let mut tx = WorkerTx::begin(pool).await?;
            let recorded = catalogue::recorded_prices(tx.conn(), plan, version).await?;
            tx.commit().await?;
            found.replace(&recorded);
        }
        let named = seat.map(|seat| {
            let id = seat.stripe_price_ids.first().cloned();
            found.seats.take().or(id).ok_or(seat)
        });
        found.seats = match named {
            Some(Err(seat)) => {
                let key = seat.lookup_key.clone();
                return Err(Failure::NoPrice(key.unwrap_or_else(|| plan.tier.clone())));
            }
            Some(Ok(id)) => Some(id),
            None => None,
        };
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
        let offers: Vec<Plan> = catalogue.plans().iter().flat_map(Plan::offers).collect();
        let keys = offers.iter().flat_map(Plan::lookup_keys);
        let keys: BTreeSet<String> = keys.chain(catalogue.addon_keys()).collect();
        let keys = Vec::from_iter(keys);
        let found = client.prices(&keys).await.map_err(Failure::Stripe)?;
        let by_key: ByKey = Arc::new(
            found
                .into_iter()
                .filter_map(|price| Some((price.lookup_key.clone()?, price)))
                .collect(),
        );
        // A missing fee may be created at any moment, so it is not cached. A missing metered
        // price is normal, as usage may be billed elsewhere; a missing add-on must not have
        // Stripe asked for every sale of a plan, and is known once a sync has recorded it.
        let mut needed = offers
            .iter()
            .filter_map(|plan| plan.price.lookup_key.clone());
        if needed.all(|key| by_key.contains_key(&key)) {
            let now = Some((Instant::now(), by_key.clone()));
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
        Ok(by_key)
    }
}
