//! Creates the catalogue in Stripe: a meter for each metric, and a product for each that
//! has a name, under which invoices show its usage; for each add-on a product with its
//! prices; for each paid plan a product, and for
//! each of its prices a licensed one for its fee, another one for its seats, if they have
//! a price of their own, and a metered price for each metric whose overage is billed, in
//! the same currency, and in the interval in which usage counts: the month and the year
//! share one that is by the month. Existing objects are found by event name, metadata and
//! lookup key, and stay. Prices never change: one that differs is replaced,
//! and its lookup key moves to the new one. Subscriptions keep the former one, and
//! [`super::synced::record`] remembers what it was for.
//!
//! A metered price has two tiers: the included quantity is free, and usage above
//! it costs the overage rate. All usage is therefore reported.

mod addons;
mod former;
mod usage_products;

use std::collections::BTreeSet;

use jiff::Timestamp;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use billing_domain::money;

use super::synced::{SyncedPrice, is_fee_of, is_seat_of, is_usage_of};
use super::{Aggregation, Catalogue, Metric, Plan, Quota};
use crate::stripe::client::{Client, Meter, Params, Price, Product, StripeError};
use usage_products::UsageProduct;

/// The result, or planned result, for a part of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// `meter`, `product` or `price`.
    pub kind: &'static str,
    /// Its event name, tier or lookup key.
    pub name: String,
    pub action: Action,
    /// Its id in Stripe; `None` if it does not exist yet.
    pub id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    Unchanged,
    Create,
    /// A new price takes over the lookup key.
    Replace,
    /// It is given another name.
    Rename,
}

#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error(transparent)]
    Stripe(#[from] StripeError),
    #[error("{metric:?} has the aggregation \"max\", for which Stripe has no meter")]
    Unmetered { metric: String },
    #[error("the quota of {metric:?} in {tier:?} must be a whole number, as Stripe's tiers are")]
    FractionalQuota { tier: String, metric: String },
    #[error(
        "the meter {event_name:?} exists with another aggregation; deactivate it in Stripe, then run this again"
    )]
    OtherMeter { event_name: String },
}

/// The meter event name of a metric.
pub fn meter_event_name(metric: &str) -> String {
    format!("valuecanvas_{metric}")
}

/// The lookup key of the price for the overage of a metric, where a plan is bought at
/// its price.
pub fn metered_lookup_key(plan: &Plan, metric: &str) -> Option<String> {
    let base = plan.usage_key()?;
    let quota = plan.quotas.get(metric)?;
    quota.is_billed().then(|| format!("{base}_{metric}"))
}

/// What a sync did, and the prices that it found.
#[derive(Debug, Default)]
pub struct Synced {
    pub steps: Vec<Step>,
    /// The prices that the file's plans are sold with.
    pub(super) sold: Vec<SyncedPrice>,
    /// Prices of the plans' products that are sold no more.
    pub(super) former: Vec<SyncedPrice>,
}

/// Creates what is missing; with `dry_run`, only reports it.
pub async fn sync(
    client: &Client,
    catalogue: &Catalogue,
    dry_run: bool,
) -> Result<Synced, SyncError> {
    let mut run = Run {
        client,
        dry_run,
        synced: Synced::default(),
        meters: client.meters().await?,
        products: client.products().await?,
        prices: client.prices(&lookup_keys(catalogue)).await?,
    };
    let mut meters = Vec::new();
    for (metric, Metric { aggregation, .. }) in catalogue.metrics() {
        if is_billed(catalogue, metric) {
            let meter = run.meter(metric, *aggregation).await?;
            let product = run.metric_product(catalogue, metric).await?;
            meters.push((metric.as_str(), meter, product));
        }
    }
    for plan in catalogue.file_plans() {
        if plan.is_synced() {
            let product = run.product(plan).await?;
            for offer in plan.offers() {
                run.offer(&offer, &meters, product.as_deref()).await?;
            }
            if let Some(product) = product {
                run.former_prices(catalogue, plan, &product).await?;
            }
        }
    }
    for addon in catalogue.addons() {
        run.addon(addon).await?;
    }
    let named = meters
        .iter()
        .filter_map(|(metric, _, product)| match product {
            Some(UsageProduct::Metric(Some(id))) => Some((*metric, id)),
            _ => None,
        });
    for (metric, product) in named {
        run.former_usage_prices(catalogue, metric, product).await?;
    }
    Ok(run.synced)
}

fn is_billed(catalogue: &Catalogue, metric: &str) -> bool {
    catalogue.file_plans().iter().any(|plan| {
        let quota = plan.quotas.get(metric);
        plan.is_synced() && quota.is_some_and(Quota::is_billed)
    })
}

fn lookup_keys(catalogue: &Catalogue) -> Vec<String> {
    let offers = catalogue.file_plans().iter().flat_map(Plan::offers);
    let keys = offers.flat_map(|offer| offer.lookup_keys());
    let keys: BTreeSet<String> = keys.chain(catalogue.addon_keys()).collect();
    keys.into_iter().collect()
}

impl Plan {
    /// The lookup keys of its prices, where it is bought at its price; the fee's first.
    pub fn lookup_keys(&self) -> Vec<String> {
        let seats = self.seat_price().and_then(|seat| seat.lookup_key.clone());
        let metrics = self.quotas.keys();
        let metered = metrics.filter_map(|metric| metered_lookup_key(self, metric));
        let fee = self.price.lookup_key.clone();
        fee.into_iter().chain(seats).chain(metered).collect()
    }
}

/// A metric that is billed, with its meter, and its product if it has a name.
type BilledMetric<'a> = (&'a str, Option<String>, Option<UsageProduct>);

struct Run<'a> {
    client: &'a Client,
    dry_run: bool,
    synced: Synced,
    meters: Vec<Meter>,
    products: Vec<Product>,
    prices: Vec<Price>,
}

impl Run<'_> {
    fn step(
        &mut self,
        kind: &'static str,
        name: &str,
        action: Action,
        id: Option<String>,
    ) -> Option<String> {
        self.synced.steps.push(Step {
            kind,
            name: name.to_owned(),
            action,
            id: id.clone(),
        });
        id
    }

    /// The meter of a metric; `None` in a dry run that would create it.
    async fn meter(
        &mut self,
        metric: &str,
        aggregation: Aggregation,
    ) -> Result<Option<String>, SyncError> {
        let formula = match aggregation {
            Aggregation::Sum => "sum",
            Aggregation::Last => "last",
            Aggregation::Max => {
                let metric = metric.to_owned();
                return Err(SyncError::Unmetered { metric });
            }
        };
        let event_name = meter_event_name(metric);
        let known = self
            .meters
            .iter()
            .find(|meter| meter.event_name == event_name && meter.status == "active");
        if let Some(meter) = known {
            if meter.default_aggregation.formula != formula {
                return Err(SyncError::OtherMeter { event_name });
            }
            let id = Some(meter.id.clone());
            return Ok(self.step("meter", &event_name, Action::Unchanged, id));
        }
        let id = if self.dry_run {
            None
        } else {
            let params = Params::new()
                .set("display_name", metric)
                .set("event_name", &event_name)
                .set("default_aggregation[formula]", formula);
            let key = key_of("meter", &params);
            Some(self.client.create_meter(&params, &key).await?.id)
        };
        Ok(self.step("meter", &event_name, Action::Create, id))
    }

    async fn product(&mut self, plan: &Plan) -> Result<Option<String>, SyncError> {
        let known = self.products.iter().find(|product| {
            product.active
                && product.metadata.get("plan_tier").and_then(|t| t.as_str()) == Some(&plan.tier)
        });
        if let Some(product) = known {
            let id = Some(product.id.clone());
            return Ok(self.step("product", &plan.tier, Action::Unchanged, id));
        }
        let id = if self.dry_run {
            None
        } else {
            let params = Params::new()
                .set("name", &plan.name)
                .set("metadata[plan_tier]", &plan.tier);
            let key = key_of("product", &params);
            Some(self.client.create_product(&params, &key).await?.id)
        };
        Ok(self.step("product", &plan.tier, Action::Create, id))
    }

    /// The prices of a plan that is bought at its price. One that the file names by its
    /// id is not ours.
    async fn offer(
        &mut self,
        plan: &Plan,
        meters: &[BilledMetric<'_>],
        product: Option<&str>,
    ) -> Result<(), SyncError> {
        if let Some(key) = &plan.price.lookup_key {
            self.base_price(plan, key, product).await?;
        }
        if let Some(seat) = plan.seat_price()
            && let Some(lookup_key) = &seat.lookup_key
        {
            let sought = Sought {
                seats: true,
                ..Sought::licensed(plan, lookup_key)
            };
            let same = |known: &Price| is_seat_of(known, plan);
            self.price(sought, product, licensed(seat.amount), same)
                .await?;
        }
        for (metric, meter, named) in meters {
            let of_plan = UsageProduct::Plan(product.map(str::to_owned));
            let product = named.as_ref().unwrap_or(&of_plan);
            self.metered_price(plan, metric, meter.as_deref(), product)
                .await?;
        }
        Ok(())
    }

    async fn base_price(
        &mut self,
        plan: &Plan,
        lookup_key: &str,
        product: Option<&str>,
    ) -> Result<(), SyncError> {
        let same = |known: &Price| is_fee_of(known, plan);
        let sought = Sought::licensed(plan, lookup_key);
        self.price(sought, product, licensed(plan.price.amount), same)
            .await
    }

    async fn metered_price(
        &mut self,
        plan: &Plan,
        metric: &str,
        meter: Option<&str>,
        product: &UsageProduct,
    ) -> Result<(), SyncError> {
        let Some(lookup_key) = metered_lookup_key(plan, metric) else {
            return Ok(());
        };
        let mut done = self.synced.steps.iter();
        if done.any(|step| step.kind == "price" && step.name == lookup_key) {
            // The month and the year share it.
            return Ok(());
        }
        let quota = &plan.quotas[metric];
        let included = quota.quota.unwrap_or_default();
        let fractional = || SyncError::FractionalQuota {
            tier: plan.tier.clone(),
            metric: metric.to_owned(),
        };
        let included = (included.fract().is_zero())
            .then(|| included.to_i64())
            .flatten()
            .ok_or_else(fractional)?;
        let rate = minor_rate(quota.overage_rate.unwrap_or_default(), &plan.price.currency);
        let tiers = tiers(included, rate);
        let mut params = Params::new()
            .set("billing_scheme", "tiered")
            .set("tiers_mode", "graduated")
            .set("recurring[usage_type]", "metered")
            .set_if("recurring[meter]", meter);
        for (index, (up_to, amount)) in tiers.iter().enumerate() {
            let end = up_to.map_or_else(|| "inf".to_owned(), |up_to| up_to.to_string());
            params = params
                .set(format!("tiers[{index}][up_to]"), end)
                .set(format!("tiers[{index}][unit_amount_decimal]"), amount);
        }
        let same = |known: &Price| {
            let of_meter = known.recurring.as_ref().and_then(|r| r.meter.as_deref());
            of_meter == meter && product.has(known) && is_usage_of(known, plan, metric)
        };
        let sought = Sought {
            metric: Some(metric),
            ..Sought::licensed(plan, &lookup_key)
        };
        self.price(sought, product.id(), params, same).await
    }

    /// Creates the price, unless an equal one (`same`) has the lookup key.
    async fn price(
        &mut self,
        sought: Sought<'_>,
        product: Option<&str>,
        params: Params,
        same: impl FnOnce(&Price) -> bool,
    ) -> Result<(), SyncError> {
        let Sought {
            plan, lookup_key, ..
        } = sought;
        let interval = match sought.metric {
            Some(_) => plan.usage_interval(),
            None => plan.price.interval,
        };
        let known = self
            .prices
            .iter()
            .find(|price| price.lookup_key.as_deref() == Some(lookup_key));
        let (action, price) = match known {
            Some(known) if same(known) => (Action::Unchanged, Some(known.clone())),
            Some(_) => (Action::Replace, None),
            None => (Action::Create, None),
        };
        let price = if action == Action::Unchanged || self.dry_run {
            price
        } else {
            let params = params
                .set("currency", &plan.price.currency)
                .set("recurring[interval]", interval.as_str())
                .set("lookup_key", lookup_key)
                .set("transfer_lookup_key", true)
                .set("metadata[plan_tier]", &plan.tier)
                .set_if("metadata[metric]", sought.metric)
                .set_if("metadata[seats]", sought.seats.then_some(true))
                .set("expand[0]", "tiers")
                .set_if("product", product);
            let key = key_of("price", &params);
            Some(self.client.create_price(&params, &key).await?)
        };
        let id = price.as_ref().map(|price| price.id.clone());
        self.step("price", lookup_key, action, id);
        self.synced.sold.extend(price.map(|price| SyncedPrice {
            tier: plan.tier.clone(),
            metric: sought.metric.map(str::to_owned),
            seats: sought.seats,
            addon: None,
            price,
        }));
        Ok(())
    }
}

/// A price to be found or made.
#[derive(Clone, Copy)]
struct Sought<'a> {
    plan: &'a Plan,
    /// `None` for what is licensed.
    metric: Option<&'a str>,
    /// Whether it is a licensed seat's, beside the fee.
    seats: bool,
    lookup_key: &'a str,
}

impl<'a> Sought<'a> {
    fn licensed(plan: &'a Plan, lookup_key: &'a str) -> Self {
        Self {
            plan,
            metric: None,
            seats: false,
            lookup_key,
        }
    }
}

fn licensed(amount: i64) -> Params {
    Params::new()
        .set("unit_amount", amount)
        .set("recurring[usage_type]", "licensed")
}

/// Concurrent runs make the same calls with the same keys. A later run has other
/// keys, since Stripe replays failures for the same key.
fn key_of(kind: &str, params: &Params) -> String {
    let minute = Timestamp::now().as_second() / 60;
    let digest = Sha256::digest(format!("{minute} {kind} {params:?}"));
    format!("plans-sync-{}", hex::encode(&digest[..16]))
}

/// The rate per unit, in the currency's minor unit.
fn minor_rate(major: Decimal, currency: &str) -> Decimal {
    let factor = Decimal::from(10_i64.pow(money::decimals(currency)));
    (major * factor).normalize()
}

/// A free tier for the included quantity, and one for the rest. Without an included
/// quantity, there is one tier.
fn tiers(included: i64, rate: Decimal) -> Vec<(Option<i64>, Decimal)> {
    let free = (included > 0).then_some((Some(included), Decimal::ZERO));
    free.into_iter().chain([(None, rate)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_in_minor_units() {
        let rate = |text: &str, currency| minor_rate(text.parse().unwrap(), currency).to_string();
        assert_eq!(rate("0.00001", "usd"), "0.001");
        assert_eq!(rate("5.00", "usd"), "500");
        assert_eq!(rate("5", "jpy"), "5");
    }

    #[test]
    fn what_is_included_is_free() {
        let rate = Decimal::new(1, 3);
        assert_eq!(tiers(100, rate), [(Some(100), Decimal::ZERO), (None, rate)]);
        assert_eq!(tiers(0, rate), [(None, rate)]);
    }
}
