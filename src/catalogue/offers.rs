//! A plan's prices, one for each currency and interval. A plan is bought at one of
//! them: [`Plan::at`] is the plan as it is bought there, with its fee and its rates, and
//! whatever is charged, shown or compared takes the plan like that.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::money;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Interval, Plan, Price, Quota};

impl Plan {
    /// All prices, by currency and interval.
    pub fn prices(&self) -> Vec<&Price> {
        let mut prices: Vec<&Price> = self.all_prices().collect();
        prices.sort_by_key(|price| price.point());
        prices
    }

    /// The prices of its fee and of its licensed seats.
    pub(super) fn licensed_prices(&self) -> impl Iterator<Item = &Price> {
        let seats = self.licensed_seats().into_iter();
        self.all_prices()
            .chain(seats.flat_map(|seats| &seats.prices))
    }

    fn all_prices(&self) -> impl Iterator<Item = &Price> {
        std::iter::once(&self.price).chain(&self.other_prices)
    }

    /// Whether it is paid through a Stripe subscription.
    pub fn is_billed(&self) -> bool {
        self.all_prices().any(Price::is_in_stripe)
    }

    /// Whether `plans sync` makes its prices.
    pub fn is_synced(&self) -> bool {
        self.all_prices().any(|price| price.lookup_key.is_some())
    }

    /// The currencies that it is sold in.
    pub fn currencies(&self) -> BTreeSet<&str> {
        self.all_prices()
            .map(|price| price.currency.as_str())
            .collect()
    }

    /// The price in a currency and an interval. What is not said is the plan's own
    /// price's, or else the first currency's by name, and the shorter interval.
    pub fn price_in(&self, currency: Option<&str>, interval: Option<Interval>) -> Option<&Price> {
        let is_meant = |price: &&Price| {
            currency.is_none_or(|currency| price.currency.eq_ignore_ascii_case(currency))
                && interval.is_none_or(|interval| price.interval == interval)
        };
        let own = self.price.currency.as_str();
        let meant = self.all_prices().filter(is_meant);
        meant.min_by_key(|price| (price.currency != own, price.point()))
    }

    /// The plan as it is bought at one of its prices.
    pub fn at(&self, currency: &str, interval: Interval) -> Option<Self> {
        let is_meant = |price: &Price| {
            price.currency.eq_ignore_ascii_case(currency) && price.interval == interval
        };
        let mut plan = self.clone();
        if is_meant(&plan.price) {
            return Some(plan);
        }
        let meant = plan.other_prices.iter_mut().find(|price| is_meant(price))?;
        std::mem::swap(meant, &mut plan.price);
        let former = &self.price.currency;
        if *former != plan.price.currency {
            for quota in plan.quotas.values_mut() {
                let rate = quota.other_rates.remove(&plan.price.currency);
                if let Some(former_rate) = std::mem::replace(&mut quota.overage_rate, rate) {
                    quota.other_rates.insert(former.clone(), former_rate);
                }
            }
        }
        Some(plan)
    }

    /// The plan as somebody has it who pays in this currency and interval. Where it has
    /// no such price, as with one that was agreed in Stripe, the nearest one counts.
    pub fn paid_in(&self, currency: Option<&str>, interval: Option<Interval>) -> Self {
        let price = self
            .price_in(currency, interval)
            .or_else(|| self.price_in(currency, None))
            .or_else(|| self.price_in(None, interval));
        price
            .and_then(|price| self.at(&price.currency, price.interval))
            .unwrap_or_else(|| self.clone())
    }

    /// The plan at each of its prices.
    pub fn offers(&self) -> Vec<Self> {
        let prices = self.prices().into_iter();
        prices
            .filter_map(|price| self.at(&price.currency, price.interval))
            .collect()
    }

    /// A digest of the terms: another digest is another version. Which price is the
    /// default is not one of the terms.
    pub fn digest(&self) -> String {
        let mut terms = match self.other_prices.is_empty() {
            true => json!({
                "amount": self.price.amount,
                "currency": self.price.currency,
                "interval": self.price.interval,
                "quotas": self.quotas,
                "features": self.features,
            }),
            false => json!({
                "prices": self.priced(),
                "quotas": self.quotas_in_all_currencies(),
                "features": self.features,
            }),
        };
        self.add_seats(&mut terms);
        if self.has_monthly_allowance() {
            terms["allowance"] = json!(self.allowance_period);
        }
        digest(&terms)
    }

    /// A digest of the prices at Stripe. Versions with the same digest share their prices.
    pub fn billed_digest(&self) -> String {
        let billed = || self.quotas.iter().filter(|(_, quota)| quota.is_billed());
        let mut terms = match self.other_prices.is_empty() {
            true => {
                let usage: BTreeMap<_, _> = billed()
                    .map(|(metric, quota)| (metric, (quota.quota, quota.overage_rate)))
                    .collect();
                json!({
                    "amount": self.price.amount,
                    "currency": self.price.currency,
                    "interval": self.price.interval,
                    "usage": usage,
                })
            }
            false => {
                let usage: BTreeMap<_, _> = billed()
                    .map(|(metric, quota)| (metric, (quota.quota, self.rates(quota))))
                    .collect();
                json!({"prices": self.priced(), "usage": usage})
            }
        };
        self.add_seats(&mut terms);
        if self.has_monthly_allowance() && billed().next().is_some() {
            terms["allowance"] = json!(self.allowance_period);
        }
        digest(&terms)
    }

    /// Metered seats are a quota like others.
    fn add_seats(&self, terms: &mut Value) {
        if let Some(seats) = self.licensed_seats() {
            let prices = seats.prices.iter();
            let prices = prices.map(|price| json!([price.currency, price.interval, price.amount]));
            let prices = prices.collect::<Value>();
            terms["seats"] = json!([seats.metric, seats.included, prices]);
        }
    }

    /// Fees by currency and interval.
    fn priced(&self) -> Value {
        let prices = self.prices().into_iter();
        prices
            .map(|price| json!([price.currency, price.interval, price.amount]))
            .collect()
    }

    /// The rates of a quota by currency.
    pub fn rates(&self, quota: &Quota) -> BTreeMap<String, Decimal> {
        let own = quota
            .overage_rate
            .map(|rate| (self.price.currency.clone(), rate));
        let others = quota.other_rates.iter();
        let others = others.map(|(currency, rate)| (currency.clone(), *rate));
        others.chain(own).collect()
    }

    fn quotas_in_all_currencies(&self) -> Value {
        let quotas = self.quotas.iter().map(|(metric, quota)| {
            let mut terms = json!(quota);
            if let Some(terms) = terms.as_object_mut() {
                terms.remove("other_rates");
                terms.insert("overage_rate".to_owned(), json!(self.rates(quota)));
            }
            (metric.clone(), terms)
        });
        quotas.collect::<serde_json::Map<_, _>>().into()
    }
}

impl Price {
    /// What tells a plan's prices apart.
    pub fn point(&self) -> (&str, Interval) {
        (&self.currency, self.interval)
    }

    /// Whether Stripe charges it.
    pub fn is_in_stripe(&self) -> bool {
        self.lookup_key.is_some() || !self.stripe_price_ids.is_empty()
    }

    /// Where it counts: `eur by the month`.
    pub fn place(&self) -> String {
        format!("{} by the {}", self.currency, self.interval.as_str())
    }

    /// `28.00 EUR a month`.
    pub fn display(&self) -> String {
        let amount = money::display(self.amount, &self.currency);
        format!("{amount} a {}", self.interval.as_str())
    }
}

fn digest(terms: &Value) -> String {
    hex::encode(&Sha256::digest(terms.to_string())[..16])
}
