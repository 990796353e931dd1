//! What the file would change of add-ons: part of `plans diff`.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgPool;

use super::Addon;
use crate::catalogue::history::{TermChange, quantity};
use crate::catalogue::{Catalogue, Interval, store};
use crate::db::WorkerTx;

/// What the file would change of an add-on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddonDiff {
    pub addon_id: String,
    pub outcome: AddonOutcome,
    pub changes: Vec<TermChange>,
    /// Whether Stripe charges otherwise, so that `plans sync` makes prices.
    pub needs_sync: bool,
    /// Those that have it. What it adds follows the file; the price that each bought stays.
    pub organizations: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AddonOutcome {
    Unchanged,
    New,
    Changed,
    /// The file no longer has it, and organizations do.
    Gone,
}

/// What the file would change, add-on by add-on.
pub async fn diff(pool: &PgPool, catalogue: &Catalogue) -> Result<Vec<AddonDiff>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let stored = store::stored_addons(tx.conn()).await?;
    let held = store::addons_held(tx.conn()).await?;
    let mut unsynced = BTreeSet::new();
    for addon in catalogue.addons() {
        // A service that has started with the file recorded it, and no price.
        for price in addon.prices.iter().filter(|one| one.lookup_key.is_some()) {
            if !store::has_addon_price(tx.conn(), &addon.id, price).await? {
                unsynced.insert(addon.id.as_str());
            }
        }
    }
    tx.commit().await?;
    let held: BTreeMap<String, i64> = held.into_iter().collect();
    let mut known = BTreeMap::<String, Option<Addon>>::new();
    for one in stored {
        known.insert(one.id, serde_json::from_value(one.definition).ok());
    }
    let in_file = catalogue.addons().iter().map(|addon| {
        let before = known.get(&addon.id).map(Option::as_ref);
        let organizations = held.get(&addon.id).copied().unwrap_or(0);
        AddonDiff {
            needs_sync: unsynced.contains(addon.id.as_str()),
            ..diff_of(addon, before, organizations)
        }
    });
    let gone = held.iter().filter(|(id, _)| catalogue.addon(id).is_none());
    let gone = gone.map(|(id, organizations)| AddonDiff {
        addon_id: id.clone(),
        outcome: AddonOutcome::Gone,
        changes: Vec::new(),
        needs_sync: false,
        organizations: *organizations,
    });
    Ok(in_file.chain(gone).collect())
}

/// `before` is what was recorded of it, if anything was.
fn diff_of(addon: &Addon, before: Option<Option<&Addon>>, organizations: i64) -> AddonDiff {
    let former = before.flatten();
    let changes = former
        .map(|former| differences(former, addon))
        .unwrap_or_default();
    let outcome = match before {
        None => AddonOutcome::New,
        Some(_) if changes.is_empty() => AddonOutcome::Unchanged,
        Some(_) => AddonOutcome::Changed,
    };
    AddonDiff {
        addon_id: addon.id.clone(),
        outcome,
        changes,
        needs_sync: false,
        organizations,
    }
}

/// The terms in which an add-on differs from what it was.
fn differences(from: &Addon, to: &Addon) -> Vec<TermChange> {
    let mut changes = Vec::new();
    let mut note = |term: String, from: Option<String>, to: Option<String>| {
        if from != to {
            changes.push(TermChange { term, from, to });
        }
    };
    let points = from.prices.iter().chain(&to.prices);
    let points: BTreeSet<(&str, Interval)> = points.map(|price| price.point()).collect();
    for (currency, interval) in points {
        let of = |addon: &Addon| {
            let mut prices = addon.prices.iter();
            let price = prices.find(|price| price.point() == (currency, interval))?;
            Some(price.display())
        };
        let term = format!("price in {currency} by the {}", interval.as_str());
        note(term, of(from), of(to));
    }
    let metrics: BTreeSet<&String> = from.quotas.keys().chain(to.quotas.keys()).collect();
    for metric in metrics {
        let of = |addon: &Addon| {
            let units: Option<Decimal> = *addon.quotas.get(metric)?;
            Some(quantity(units))
        };
        note(format!("adds {metric}"), of(from), of(to));
    }
    let features: BTreeSet<&String> = from.features.keys().chain(to.features.keys()).collect();
    for feature in features {
        let of = |addon: &Addon| {
            let value = addon.features.get(feature);
            value.map(|value| json!(value).to_string())
        };
        note(format!("feature {feature}"), of(from), of(to));
    }
    let plans = |addon: &Addon| match &addon.plans {
        Some(plans) => Some(plans.join(", ")),
        None => Some("all that are paid".to_owned()),
    };
    note("plans".to_owned(), plans(from), plans(to));
    let on_change = |addon: &Addon| Some(addon.on_plan_change.as_str().to_owned());
    note("on plan change".to_owned(), on_change(from), on_change(to));
    let most = |addon: &Addon| Some(addon.max_quantity.to_string());
    note("max quantity".to_owned(), most(from), most(to));
    let sold = |addon: &Addon| Some(if addon.retired { "no" } else { "yes" }.to_owned());
    note("sold".to_owned(), sold(from), sold(to));
    changes
}
