//! Add-ons in `plans list`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::catalogue::features::FeatureValue;
use crate::catalogue::{Addon, Interval, OnPlanChange, Price};
use crate::cli::output::table;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownAddon<'a> {
    id: &'a str,
    name: &'a str,
    prices: Vec<ShownPrice<'a>>,
    /// What one adds; null: it makes the metric unlimited.
    quotas: BTreeMap<&'a str, Option<String>>,
    features: &'a BTreeMap<String, FeatureValue>,
    on_plan_change: OnPlanChange,
    max_quantity: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownPrice<'a> {
    amount: i64,
    currency: &'a str,
    interval: Interval,
    lookup_key: Option<&'a str>,
    stripe_price_ids: &'a [String],
}

impl<'a> ShownPrice<'a> {
    fn of(price: &'a Price) -> Self {
        Self {
            amount: price.amount,
            currency: &price.currency,
            interval: price.interval,
            lookup_key: price.lookup_key.as_deref(),
            stripe_price_ids: &price.stripe_price_ids,
        }
    }
}

impl<'a> ShownAddon<'a> {
    pub fn of(addon: &'a Addon) -> Self {
        let quotas = addon.quotas.iter();
        let quotas = quotas.map(|(metric, units)| {
            let units = units.map(|units| units.normalize().to_string());
            (metric.as_str(), units)
        });
        Self {
            id: &addon.id,
            name: &addon.name,
            prices: addon.prices.iter().map(ShownPrice::of).collect(),
            quotas: quotas.collect(),
            features: &addon.features,
            on_plan_change: addon.on_plan_change,
            max_quantity: addon.max_quantity,
        }
    }
}

/// The add-ons as a table; nothing, if there are none.
pub fn describe(addons: &[Addon]) -> String {
    if addons.is_empty() {
        return String::new();
    }
    let mut rows = Vec::new();
    for addon in addons {
        for (n, price) in addon.prices.iter().enumerate() {
            let names = price.lookup_key.iter().chain(&price.stripe_price_ids);
            let id = if n == 0 { addon.id.as_str() } else { "" };
            rows.push(vec![
                id.to_owned(),
                price.display(),
                String::new(),
                Vec::from_iter(names.cloned()).join(", "),
            ]);
        }
        for (metric, units) in &addon.quotas {
            let units = match units {
                Some(units) => format!("+{}", units.normalize()),
                None => "unlimited".to_owned(),
            };
            rows.push(vec![String::new(), metric.clone(), units, String::new()]);
        }
        for (feature, value) in &addon.features {
            let value = match value {
                FeatureValue::Number(number) => format!("+{number}"),
                value => value.to_string(),
            };
            rows.push(vec![String::new(), feature.clone(), value, String::new()]);
        }
        let plans = match &addon.plans {
            Some(plans) => plans.join(", "),
            None => "all that are paid".to_owned(),
        };
        let plans = match addon.retired {
            true => format!("{plans}; sold no more"),
            false => plans,
        };
        rows.push(vec![
            String::new(),
            "plans".to_owned(),
            plans,
            String::new(),
        ]);
    }
    let head = ["ADD-ON", "PRICE, METRIC, FEATURE", "ADDS", "LOOKUP KEY"];
    format!("\n{}", table(&head, &rows))
}
