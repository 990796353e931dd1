//! The add-ons of the catalogue's file, validated.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::Deserialize;
use toml::Spanned;

use super::super::features::{Entries, Feature, FeatureValue, Written, check_value, unknown};
use super::super::file::Problem;
use super::super::prices::{self, PlanPrices, PriceEntry};
use super::super::quotas::{QuotaValue, check_units};
use super::super::{Catalogue, Metric, Plan, Price};
use super::{Addon, MAX_ADDONS, OnPlanChange};

const MAX_ID: usize = 64;
const MAX_NAME: usize = 100;
/// No sum of a plan's quota and those of its add-ons is longer than the column.
const MOST_UNITS: i64 = 1_000_000_000_000_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::catalogue) struct AddonEntry {
    id: Spanned<String>,
    name: Spanned<String>,
    #[serde(default)]
    price: Option<Spanned<PriceEntry>>,
    #[serde(default)]
    prices: Option<Spanned<Vec<Spanned<PriceEntry>>>>,
    #[serde(default)]
    quotas: BTreeMap<Spanned<String>, Spanned<QuotaValue>>,
    #[serde(default)]
    features: Entries<Spanned<Written>>,
    #[serde(default)]
    plans: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    on_plan_change: OnPlanChange,
    #[serde(default)]
    max_quantity: Option<Spanned<i64>>,
    #[serde(default)]
    retired: bool,
}

/// Adds an add-on to the catalogue, whose plans are known.
pub(in crate::catalogue) fn add(
    catalogue: &mut Catalogue,
    home: &str,
    entry: AddonEntry,
) -> Result<(), Problem> {
    let at = entry.id.span().start;
    let id = check_id(entry.id)?;
    if catalogue.addon(&id).is_some() {
        return Err((at, format!("the add-on {id:?} is listed twice")));
    }
    let name = check_name(&id, &entry.name)?;
    let written = PlanPrices {
        one: entry.price,
        several: entry.prices,
        list: "addons.prices",
    };
    let places = written.places();
    let prices = prices::check_prices(&id, at, home, written)?;
    if let Some(price) = prices.iter().find(|price| !price.is_in_stripe()) {
        let problem = format!(
            "the price of {id:?} for {} needs a lookup_key or stripe_price_ids",
            price.place()
        );
        return Err((at, problem));
    }
    let (plans, plans_at) = check_plans(catalogue, &id, at, entry.plans)?;
    let max_quantity = check_max(&id, entry.max_quantity)?;
    let addon = Addon {
        quotas: check_quotas(&id, &catalogue.metrics, max_quantity, &entry.quotas)?,
        features: check_features(&id, &catalogue.features, entry.features)?,
        id,
        name,
        prices,
        plans,
        on_plan_change: entry.on_plan_change,
        max_quantity,
        retired: entry.retired,
    };
    check_seats(catalogue, &addon, &entry.quotas)?;
    check_reachable(catalogue, &addon, plans_at)?;
    prices::claim_addon(catalogue, at, &places, &addon)?;
    catalogue.addons.push(addon);
    Ok(())
}

fn check_id(id: Spanned<String>) -> Result<String, Problem> {
    let (at, id) = (id.span().start, id.into_inner());
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if id.is_empty() || id.len() > MAX_ID || !id.chars().all(plain) {
        let problem = format!(
            "the add-on {id:?} needs an id of at most {MAX_ID} letters, digits, \"_\", \"-\" and \
             \".\"; the one for people is `name`"
        );
        return Err((at, problem));
    }
    Ok(id)
}

fn check_name(id: &str, name: &Spanned<String>) -> Result<String, Problem> {
    let text = name.get_ref();
    let length = text.chars().count();
    if text.trim().is_empty() || length > MAX_NAME || text.chars().any(char::is_control) {
        let problem = format!(
            "the name of the add-on {id:?} must have 1 to {MAX_NAME} characters on one line"
        );
        return Err((name.span().start, problem));
    }
    Ok(text.clone())
}

/// The plans that it goes with, and where the file says so.
fn check_plans(
    catalogue: &Catalogue,
    id: &str,
    at: usize,
    entry: Option<Spanned<Vec<Spanned<String>>>>,
) -> Result<(Option<Vec<String>>, usize), Problem> {
    let Some(entry) = entry else {
        return Ok((None, at));
    };
    let (at, tiers) = (entry.span().start, entry.into_inner());
    if tiers.is_empty() {
        let problem = format!(
            "the add-on {id:?} goes with no plan: name some, or leave `plans` out for all that are \
             paid; `retired = true` sells it no more"
        );
        return Err((at, problem));
    }
    let mut plans = Vec::<String>::new();
    for tier in tiers {
        let (at, tier) = (tier.span().start, tier.into_inner());
        match catalogue.plan(&tier) {
            None => {
                let known = catalogue.plans.iter().map(|plan| plan.tier.as_str());
                let known = Vec::from_iter(known).join(", ");
                let problem =
                    format!("the add-on {id:?} names a plan {tier:?}; the plans are {known}");
                return Err((at, problem));
            }
            Some(plan) if !plan.is_billed() => {
                let problem = format!(
                    "the add-on {id:?} cannot go with {tier:?}, which is not paid through Stripe: \
                     leave it out of `plans`"
                );
                return Err((at, problem));
            }
            Some(_) if plans.contains(&tier) => {
                return Err((at, format!("the add-on {id:?} names {tier:?} twice")));
            }
            Some(_) => plans.push(tier),
        }
    }
    Ok((Some(plans), at))
}

fn check_max(id: &str, entry: Option<Spanned<i64>>) -> Result<u32, Problem> {
    let Some(entry) = entry else {
        return Ok(MAX_ADDONS);
    };
    let most = u32::try_from(*entry.get_ref()).ok();
    most.filter(|most| (1..=MAX_ADDONS).contains(most))
        .ok_or_else(|| {
            let problem = format!("the max_quantity of {id:?} is a number from 1 to {MAX_ADDONS}");
            (entry.span().start, problem)
        })
}

fn check_quotas(
    id: &str,
    metrics: &BTreeMap<String, Metric>,
    max_quantity: u32,
    entries: &BTreeMap<Spanned<String>, Spanned<QuotaValue>>,
) -> Result<BTreeMap<String, Option<Decimal>>, Problem> {
    let mut quotas = BTreeMap::new();
    for (metric, entry) in entries {
        if !metrics.contains_key(metric.get_ref()) {
            let known = metrics.keys().map(String::as_str);
            let known = Vec::from_iter(known).join(", ");
            let problem = format!(
                "the add-on {id:?} adds to {:?}, which is not among [metrics]: those are {known}",
                metric.get_ref()
            );
            return Err((metric.span().start, problem));
        }
        let at = entry.span().start;
        let units = check_units(entry.get_ref()).map_err(|problem| (at, problem))?;
        if units.is_some_and(|units| units <= Decimal::ZERO) {
            let problem = format!(
                "the add-on {id:?} adds nothing to {:?}: write how much one adds, or \"unlimited\"",
                metric.get_ref()
            );
            return Err((at, problem));
        }
        let most = units.map(|units| units.saturating_mul(max_quantity.into()));
        if most.is_some_and(|most| most > Decimal::from(MOST_UNITS)) {
            let problem = format!(
                "{max_quantity} of the add-on {id:?} would add more than {MOST_UNITS} to {:?}: \
                 write less, or a lower max_quantity",
                metric.get_ref()
            );
            return Err((at, problem));
        }
        quotas.insert(metric.get_ref().clone(), units);
    }
    Ok(quotas)
}

fn check_features(
    id: &str,
    features: &BTreeMap<String, Feature>,
    entries: Entries<Spanned<Written>>,
) -> Result<BTreeMap<String, FeatureValue>, Problem> {
    let mut values = BTreeMap::new();
    for (name, written) in entries {
        let (name_at, name) = (name.span().start, name.into_inner());
        let Some(feature) = features.get(&name) else {
            return Err((name_at, unknown(&name, features)));
        };
        let (at, written) = (written.span().start, written.into_inner());
        let value = check_value(written, feature.kind);
        let value = value.ok().flatten().filter(FeatureValue::is_on);
        let value = value.ok_or_else(|| {
            let expected = feature.kind.expected_of_addon();
            (at, format!("the add-on {id:?}: {name:?} {expected}"))
        })?;
        values.insert(name, value);
    }
    Ok(values)
}

/// Of licensed seats, those that were bought are the limit.
fn check_seats(
    catalogue: &Catalogue,
    addon: &Addon,
    entries: &BTreeMap<Spanned<String>, Spanned<QuotaValue>>,
) -> Result<(), Problem> {
    for metric in entries.keys() {
        let is_of_seats = |plan: &&Plan| {
            let seats = plan.licensed_seats();
            addon.goes_with(plan) && seats.is_some_and(|seats| seats.metric == *metric.get_ref())
        };
        if let Some(plan) = catalogue.plans.iter().find(is_of_seats) {
            let problem = format!(
                "the add-on {:?} adds to {:?}, whose limit in {:?} are the seats that are bought: \
                 sell more of those, or name other plans in `plans`",
                addon.id,
                metric.get_ref(),
                plan.tier
            );
            return Err((metric.span().start, problem));
        }
    }
    Ok(())
}

/// Each plan that it names can be bought with it, at one of the plan's prices.
fn check_reachable(catalogue: &Catalogue, addon: &Addon, at: usize) -> Result<(), Problem> {
    let is_sold_beside = |plan: &Plan| {
        let mut prices = plan.prices().into_iter();
        prices.any(|price| addon.price_beside(price).is_some())
    };
    let sold = addon.prices.iter().map(Price::place);
    let sold = Vec::from_iter(sold).join(", ");
    let plans = || catalogue.plans.iter().filter(|plan| addon.goes_with(plan));
    let unreached = match addon.plans {
        Some(_) => plans().find(|plan| !is_sold_beside(plan)),
        None if plans().any(is_sold_beside) => None,
        None => plans().next(),
    };
    match unreached {
        Some(plan) => {
            let prices = plan.prices().into_iter().map(Price::place);
            let problem = format!(
                "the add-on {:?} is sold for {sold}, and {:?} for {}: give it a price for one of those",
                addon.id,
                plan.tier,
                Vec::from_iter(prices).join(", ")
            );
            Err((at, problem))
        }
        None => Ok(()),
    }
}
