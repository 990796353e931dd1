//! The prices of plans and seats in the catalogue's file, validated.

use std::collections::HashMap;

use billing_domain::money;
use serde::Deserialize;
use toml::Spanned;

use super::addons::Addon;
use super::file::Problem;
use super::memory::PriceUse;
use super::{Catalogue, FREE_TIER, Interval, Plan, Price};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceEntry {
    amount: i64,
    #[serde(default)]
    currency: Option<Spanned<String>>,
    #[serde(default)]
    interval: Option<Interval>,
    #[serde(default)]
    lookup_key: Option<Spanned<String>>,
    #[serde(default)]
    stripe_price_ids: Vec<Spanned<String>>,
}

/// A licensed seat's price. What it does not say is the fee's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SeatPriceEntry {
    amount: i64,
    #[serde(default)]
    currency: Option<String>,
    #[serde(default)]
    interval: Option<Interval>,
    #[serde(default)]
    lookup_key: Option<String>,
    #[serde(default)]
    stripe_price_ids: Vec<String>,
}

/// Where the file says a lookup key or a price's id.
pub(super) type Places = HashMap<String, usize>;

/// What the file says of the prices of a plan or an add-on: one (`price`), or several
/// (`[[plans.prices]]`).
pub(super) struct PlanPrices {
    pub one: Option<Spanned<PriceEntry>>,
    pub several: Option<Spanned<Vec<Spanned<PriceEntry>>>>,
    /// The list's name in the file.
    pub list: &'static str,
}

impl PlanPrices {
    fn entries(&self) -> impl Iterator<Item = &PriceEntry> {
        let several = self.several.iter().flat_map(|all| all.get_ref());
        let several = several.map(Spanned::get_ref);
        self.one.iter().map(Spanned::get_ref).chain(several)
    }

    pub fn places(&self) -> Places {
        let mut places = Places::new();
        for price in self.entries() {
            let names = price.lookup_key.iter().chain(&price.stripe_price_ids);
            places.extend(names.map(|name| (name.get_ref().clone(), name.span().start)));
        }
        places
    }

    /// The first of its currencies by name.
    pub fn currency(&self) -> Option<String> {
        let currencies = self.entries().filter_map(|price| price.currency.as_ref());
        let currencies = currencies.map(|currency| currency.get_ref().to_ascii_lowercase());
        currencies.min()
    }
}

/// A plan's prices: the default, and the others. The default is in the currency of the free
/// plan, `home`, or in the first currency by name; of several, it is the one by the month.
pub(super) fn check_prices(
    tier: &str,
    tier_at: usize,
    home: &str,
    entries: PlanPrices,
) -> Result<Vec<Price>, Problem> {
    let list = entries.list;
    let entries = match (entries.one, entries.several) {
        (Some(one), None) => vec![one],
        (None, Some(several)) => several.into_inner(),
        (Some(_), Some(several)) => {
            return Err((
                several.span().start,
                format!("{tier:?} has both price and [[{list}]]: leave one of them out"),
            ));
        }
        (None, None) => Vec::new(),
    };
    if entries.is_empty() {
        let problem = format!(
            "{tier:?} has no price: write price = {{ amount = 9_900, currency = \"usd\", interval = \
             \"month\", … }}, or [[{list}]] for each"
        );
        return Err((tier_at, problem));
    }
    let mut prices = Vec::<Price>::new();
    for entry in entries {
        let at = entry.span().start;
        let price = check_price(tier, at, entry.into_inner())?;
        if prices.iter().any(|other| other.point() == price.point()) {
            return Err((at, format!("{tier:?} has two prices for {}", price.place())));
        }
        prices.push(price);
    }
    check_reachable(tier, tier_at, &prices)?;
    prices.sort_by(|one, other| {
        let rank = |price: &Price| price.currency != home;
        (rank(one), one.point()).cmp(&(rank(other), other.point()))
    });
    Ok(prices)
}

fn check_price(tier: &str, at: usize, entry: PriceEntry) -> Result<Price, Problem> {
    let currency = entry
        .currency
        .ok_or_else(|| (at, format!("a price of {tier:?} says no currency")))?;
    let interval = entry.interval.ok_or_else(|| {
        let problem = format!("a price of {tier:?} says no interval: it is \"month\" or \"year\"");
        (at, problem)
    })?;
    if entry.amount < 0 {
        return Err((at, format!("the price of {tier:?} is negative")));
    }
    check_step(entry.amount, currency.get_ref(), tier).map_err(|problem| (at, problem))?;
    let keys = entry.stripe_price_ids.into_iter();
    Ok(Price {
        amount: entry.amount,
        currency: check_currency(currency.get_ref())
            .map_err(|problem| (currency.span().start, problem))?,
        interval,
        lookup_key: match entry.lookup_key {
            Some(key) => {
                Some(check_key(key.get_ref()).map_err(|problem| (key.span().start, problem))?)
            }
            None => None,
        },
        stripe_price_ids: keys.map(Spanned::into_inner).collect(),
    })
}

/// Stripe charges some currencies in steps of several minor units.
fn check_step(amount: i64, currency: &str, tier: &str) -> Result<(), String> {
    let step = money::step(currency);
    if amount % step == 0 {
        return Ok(());
    }
    Err(format!(
        "a price of {tier:?} is {amount}, but Stripe charges {} in steps of {step}: write {}",
        currency.to_ascii_uppercase(),
        amount - amount % step
    ))
}

/// Stripe's codes are ISO 4217's.
pub(super) fn check_currency(code: &str) -> Result<String, String> {
    match code.len() == 3 && code.bytes().all(|b| b.is_ascii_alphabetic()) {
        true => Ok(code.to_ascii_lowercase()),
        false => Err(format!(
            "the currency {code:?} is no ISO 4217 code, such as \"usd\" or \"eur\""
        )),
    }
}

fn check_key(key: &str) -> Result<String, String> {
    match key.is_empty() {
        true => Err("a lookup_key cannot be empty".to_owned()),
        false => Ok(key.to_owned()),
    }
}

fn check_reachable(tier: &str, at: usize, prices: &[Price]) -> Result<(), Problem> {
    let is_sold = prices
        .iter()
        .any(|price| price.amount > 0 || price.is_in_stripe());
    let unreachable = prices.iter().find(|price| !price.is_in_stripe());
    match unreachable.filter(|_| is_sold) {
        Some(price) if prices.len() > 1 => Err((
            at,
            format!(
                "the price of {tier:?} for {} needs a lookup_key or stripe_price_ids",
                price.place()
            ),
        )),
        Some(_) => Err((
            at,
            format!("the price of {tier:?} needs a lookup_key or stripe_price_ids"),
        )),
        None => Ok(()),
    }
}

/// The price of a seat beside a fee, from which it has what it does not say.
pub(super) fn check_seat_price(
    tier: &str,
    at: usize,
    sold: &[Price],
    entry: SeatPriceEntry,
) -> Result<Price, Problem> {
    let currency = entry.currency.as_deref().map(check_currency).transpose();
    let currency = currency.map_err(|problem| (at, problem))?;
    let is_meant = |fee: &&Price| {
        currency
            .as_ref()
            .is_none_or(|currency| fee.currency == *currency)
            && entry
                .interval
                .is_none_or(|interval| fee.interval == interval)
    };
    let fees: Vec<&Price> = sold.iter().filter(is_meant).collect();
    let fee = match fees[..] {
        [fee] => fee,
        [] => {
            let sold: Vec<String> = sold.iter().map(Price::place).collect();
            return Err((
                at,
                format!(
                    "the seats of {tier:?} have a price for which the plan is not sold: it is sold for {}",
                    sold.join(", ")
                ),
            ));
        }
        _ => {
            return Err((
                at,
                format!(
                    "{tier:?} has several prices, so say currency and interval of its seats' prices, \
                     one for each"
                ),
            ));
        }
    };
    if entry.amount < 0 {
        return Err((at, format!("the price of a seat of {tier:?} is negative")));
    }
    check_step(entry.amount, &fee.currency, tier).map_err(|problem| (at, problem))?;
    let of_fee = fee.lookup_key.as_ref().map(|key| format!("{key}_seats"));
    let own = entry.lookup_key.as_deref().map(check_key).transpose();
    let own = own.map_err(|problem| (at, problem))?;
    let price = Price {
        amount: entry.amount,
        currency: fee.currency.clone(),
        interval: fee.interval,
        lookup_key: own.or(of_fee),
        stripe_price_ids: entry.stripe_price_ids,
    };
    match price.is_in_stripe() {
        true => Ok(price),
        false => Err((
            at,
            format!("the price of a seat of {tier:?} needs a lookup_key or stripe_price_ids"),
        )),
    }
}

/// Claims a plan's prices, which no other plan may have.
pub(super) fn claim(
    catalogue: &mut Catalogue,
    at: usize,
    places: &Places,
    plan: &Plan,
) -> Result<(), Problem> {
    let fees = plan.prices().into_iter();
    let fees = fees.map(|price| (price, PriceUse::fee(&plan.tier)));
    let seats = plan.seats.iter().flat_map(|seats| &seats.prices);
    let seats = seats.map(|price| (price, PriceUse::seats(&plan.tier)));
    claim_all(catalogue, at, places, fees.chain(seats))
}

/// The same of an add-on.
pub(super) fn claim_addon(
    catalogue: &mut Catalogue,
    at: usize,
    places: &Places,
    addon: &Addon,
) -> Result<(), Problem> {
    let prices = addon.prices.iter();
    let prices = prices.map(|price| (price, PriceUse::addon(&addon.id)));
    claim_all(catalogue, at, places, prices)
}

fn claim_all<'a>(
    catalogue: &mut Catalogue,
    at: usize,
    places: &Places,
    prices: impl Iterator<Item = (&'a Price, PriceUse)>,
) -> Result<(), Problem> {
    let taken = |name: &str, what: &str, (other, used): (PriceUse, &PriceUse)| {
        let at = places.get(name).copied().unwrap_or(at);
        let (other, used) = (other.describe(), used.describe());
        let problem = format!(
            "the {what} {name:?} is used twice, by {other} and by {used}: give each price one of \
             its own"
        );
        (at, problem)
    };
    for (price, used) in prices {
        if let Some(key) = &price.lookup_key
            && let Some(other) = catalogue.by_lookup_key.insert(key.clone(), used.clone())
        {
            return Err(taken(key, "lookup_key", (other, &used)));
        }
        for id in &price.stripe_price_ids {
            if let Some(other) = catalogue.by_price_id.insert(id.clone(), used.clone()) {
                return Err(taken(id, "price id", (other, &used)));
            }
        }
    }
    Ok(())
}

/// Enters the lookup keys that `plans sync` gives to the metered prices of a plan: the
/// fee's, with the metric behind it.
pub(super) fn claim_metered(
    catalogue: &mut Catalogue,
    at: usize,
    plan: &Plan,
) -> Result<(), Problem> {
    for base in plan
        .prices()
        .iter()
        .filter_map(|price| price.lookup_key.as_ref())
    {
        // Also without a rate now: a former version may have had one.
        for metric in plan.quotas.keys() {
            let key = format!("{base}_{metric}");
            let taken = catalogue.by_lookup_key.contains_key(&key);
            let used = PriceUse::usage(&plan.tier, metric);
            if taken || catalogue.metered_by_key.insert(key.clone(), used).is_some() {
                return Err((
                    at,
                    format!(
                        "the lookup_key {key:?} is that of the usage of {metric:?} in {:?}, and of \
                         another price, too: choose other lookup keys",
                        plan.tier
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// The currency of the free plan, which is the default of the others.
pub(super) fn home_currency<'a>(plans: impl Iterator<Item = (&'a str, Option<String>)>) -> String {
    let mut free = plans.filter(|(tier, _)| *tier == FREE_TIER);
    free.next()
        .and_then(|(_, currency)| currency)
        .unwrap_or_default()
}
