//! What was sold when, and what a change of the file would mean: `plans versions` and
//! `plans diff`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgPool;

use super::versions::read_terms;
use super::{Catalogue, Existing, Interval, Plan, Quota, store};
use crate::db::WorkerTx;

/// A version of a plan.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanVersion {
    pub plan_tier: String,
    pub version: i32,
    pub created_at: Timestamp,
    /// Whether the file has these terms.
    pub in_file: bool,
    /// Running subscriptions.
    pub subscriptions: i64,
    /// Its prices, and how many pay each.
    pub prices: Vec<PaidPrice>,
    /// What it changed of the version before.
    pub changes: Vec<TermChange>,
    #[serde(skip)]
    pub terms: Option<Plan>,
}

/// A price of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PaidPrice {
    /// In the currency's minor unit; null for one that was agreed in Stripe.
    pub amount: Option<i64>,
    pub currency: String,
    /// Null for an interval by which no plan is sold.
    pub interval: Option<Interval>,
    /// Running subscriptions.
    pub subscriptions: i64,
}

/// A term that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TermChange {
    /// `fee`, or `llm_tokens quota`, `llm_tokens overage rate` and the like.
    pub term: String,
    /// Null: it was not there.
    pub from: Option<String>,
    pub to: Option<String>,
}

/// What the file would change of a plan.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanDiff {
    pub plan_tier: String,
    pub outcome: Outcome,
    /// Against the newest version.
    pub changes: Vec<TermChange>,
    /// Whether Stripe charges otherwise, so that `plans sync` makes prices.
    pub needs_sync: bool,
    /// Those who run on each version, and what they will notice.
    pub subscribers: Vec<Affected>,
    /// Where the file no longer has the plan: the organizations that do.
    pub organizations: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    Unchanged,
    /// The file adds the plan.
    NewPlan,
    /// The change makes a version.
    NewVersion,
    /// An earlier version is sold again.
    FormerVersion,
    /// The file no longer has the plan, and organizations do.
    Gone,
}

/// Running subscriptions of one version.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Affected {
    pub version: i32,
    pub subscriptions: i64,
    pub effect: Effect,
    /// What one pays more in each interval, without usage, once it has the file's
    /// terms; negative: less. In the minor unit; null between currencies.
    pub fee_difference_amount: Option<i64>,
    pub currency: String,
    /// Null for an interval by which no plan is sold.
    pub interval: Option<Interval>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// They keep their terms.
    Kept,
    /// They follow when the service starts with the file.
    Follows,
    /// They would follow, but Stripe charges otherwise: `plans migrate` moves them.
    Migrate,
    /// They have the file's terms.
    Same,
}

/// All versions of all plans, oldest first.
pub async fn versions(
    pool: &PgPool,
    catalogue: &Catalogue,
) -> Result<Vec<PlanVersion>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let held = store::all_versions(tx.conn()).await?;
    let holders = store::holders(tx.conn()).await?;
    tx.commit().await?;
    let mut former = BTreeMap::<String, Plan>::new();
    let mut versions = Vec::new();
    for row in held {
        let terms = read_terms(row.definition);
        let before = former.get(&row.plan_tier);
        let changes = match (before, &terms) {
            (Some(before), Some(terms)) => differences(before, terms),
            _ => Vec::new(),
        };
        if let Some(terms) = &terms {
            former.insert(row.plan_tier.clone(), terms.clone());
        }
        let mut file = catalogue.file_plans().iter();
        let of_version =
            |one: &&store::Holders| one.plan_tier == row.plan_tier && one.version == row.version;
        let holders: Vec<&store::Holders> = holders.iter().filter(of_version).collect();
        versions.push(PlanVersion {
            in_file: file.any(|plan| plan.tier == row.plan_tier && plan.digest() == row.digest),
            plan_tier: row.plan_tier,
            version: row.version,
            created_at: row.created_at.to_jiff(),
            subscriptions: holders.iter().map(|one| one.subscriptions).sum(),
            prices: paid_prices(terms.as_ref(), &holders),
            changes,
            terms,
        });
    }
    Ok(versions)
}

/// What the file would change, plan by plan.
pub async fn diff(pool: &PgPool, catalogue: &Catalogue) -> Result<Vec<PlanDiff>, sqlx::Error> {
    let versions = versions(pool, catalogue).await?;
    let plans = catalogue.file_plans().iter();
    let mut diffs: Vec<PlanDiff> = plans.map(|plan| diff_of(plan, &versions)).collect();
    let mut tx = WorkerTx::begin(pool).await?;
    let held = store::held_tiers(tx.conn()).await?;
    tx.commit().await?;
    let gone = held
        .into_iter()
        .filter(|(tier, _)| catalogue.file_plans().iter().all(|plan| plan.tier != *tier));
    diffs.extend(gone.map(|(plan_tier, organizations)| PlanDiff {
        plan_tier,
        outcome: Outcome::Gone,
        changes: Vec::new(),
        needs_sync: false,
        subscribers: Vec::new(),
        organizations,
    }));
    Ok(diffs)
}

fn diff_of(plan: &Plan, versions: &[PlanVersion]) -> PlanDiff {
    let of_plan = || versions.iter().filter(|one| one.plan_tier == plan.tier);
    let newest = of_plan().next_back();
    let same = of_plan().find(|one| one.in_file);
    let outcome = match (newest, same) {
        (None, _) => Outcome::NewPlan,
        (Some(newest), Some(same)) if newest.version == same.version => Outcome::Unchanged,
        (Some(_), Some(_)) => Outcome::FormerVersion,
        (Some(_), None) => Outcome::NewVersion,
    };
    let billed = plan.billed_digest();
    let charged_alike =
        |one: &PlanVersion| one.terms.as_ref().map(Plan::billed_digest) == Some(billed.clone());
    let subscribers = of_plan().filter(|one| one.subscriptions > 0);
    let subscribers = subscribers.flat_map(|one| {
        let effect = match plan.existing {
            _ if one.in_file => Effect::Same,
            Existing::Keep => Effect::Kept,
            Existing::Follow if charged_alike(one) => Effect::Follows,
            Existing::Follow => Effect::Migrate,
        };
        let paid = one.prices.iter().filter(|price| price.subscriptions > 0);
        paid.map(move |price| {
            let next = plan.price_in(Some(&price.currency), price.interval);
            let next = next.filter(|_| price.interval.is_some());
            let amounts = next.map(|next| next.amount).zip(price.amount);
            Affected {
                version: one.version,
                subscriptions: price.subscriptions,
                effect,
                fee_difference_amount: amounts.and_then(|(next, paid)| next.checked_sub(paid)),
                currency: price.currency.clone(),
                interval: price.interval,
            }
        })
    });
    PlanDiff {
        plan_tier: plan.tier.clone(),
        outcome,
        changes: newest
            .and_then(|newest| newest.terms.as_ref())
            .map(|terms| differences(terms, plan))
            .unwrap_or_default(),
        needs_sync: plan.is_synced() && !of_plan().any(charged_alike),
        subscribers: subscribers.collect(),
        organizations: 0,
    }
}

/// The prices of a version, each with those who pay it, and what else is paid.
fn paid_prices(terms: Option<&Plan>, holders: &[&store::Holders]) -> Vec<PaidPrice> {
    let prices = terms.map(Plan::prices).unwrap_or_default().into_iter();
    let mut paid: Vec<PaidPrice> = prices
        .map(|price| PaidPrice {
            amount: Some(price.amount),
            currency: price.currency.clone(),
            interval: Some(price.interval),
            subscriptions: 0,
        })
        .collect();
    let own = terms.map(|terms| &terms.price);
    for one in holders {
        let currency = one.currency.as_ref().or(own.map(|price| &price.currency));
        let currency = currency.cloned().unwrap_or_default();
        // A row of before does not say its interval: it has the only price.
        let interval = match &one.plan_interval {
            None => own.map(|price| price.interval),
            Some(interval) => Interval::of(Some(interval), None),
        };
        let is_same =
            |price: &&mut PaidPrice| price.currency == currency && price.interval == interval;
        match paid.iter_mut().find(is_same) {
            Some(price) => price.subscriptions += one.subscriptions,
            None => paid.push(PaidPrice {
                amount: None,
                currency,
                interval,
                subscriptions: one.subscriptions,
            }),
        }
    }
    paid
}

/// The terms in which two versions of a plan differ.
fn differences(from: &Plan, to: &Plan) -> Vec<TermChange> {
    let mut changes = Vec::new();
    let mut note = |term: String, from: Option<String>, to: Option<String>| {
        if from != to {
            changes.push(TermChange { term, from, to });
        }
    };
    fees(from, to, &mut note);
    if from.is_paid_by_year() && to.is_paid_by_year() {
        let period = |plan: &Plan| Some(plan.allowance_period.as_str().to_owned());
        note("allowance period".to_owned(), period(from), period(to));
    }
    let metrics: BTreeSet<&String> = from.quotas.keys().chain(to.quotas.keys()).collect();
    for metric in metrics {
        let of = |plan: &Plan, term: fn(&Quota) -> Option<String>| {
            plan.quotas.get(metric).and_then(term)
        };
        let mut compare = |name: &str, term: fn(&Quota) -> Option<String>| {
            note(format!("{metric} {name}"), of(from, term), of(to, term));
        };
        compare("quota", |quota| Some(quantity(quota.quota)));
        compare("over the quota", |quota| {
            Some(quota.over_limit.as_str().to_owned())
        });
        compare("grace maximum", |quota| {
            quota.grace_max.map(super::ceiling_text)
        });
        rates(from, to, metric, &mut note);
    }
    let features: BTreeSet<&String> = from.features.keys().chain(to.features.keys()).collect();
    for feature in features {
        let of = |plan: &Plan| {
            plan.features
                .get(feature)
                .map(|value| json!(value).to_string())
        };
        note(format!("feature {feature}"), of(from), of(to));
    }
    changes
}

/// The fees that differ: of the only price, or of each one.
fn fees(from: &Plan, to: &Plan, note: &mut impl FnMut(String, Option<String>, Option<String>)) {
    if from.other_prices.is_empty() && to.other_prices.is_empty() {
        let (from, to) = (from.price.display(), to.price.display());
        note("fee".to_owned(), Some(from), Some(to));
    } else {
        let points = from.prices().into_iter().chain(to.prices());
        let points: BTreeSet<(&str, Interval)> = points.map(|price| price.point()).collect();
        for (currency, interval) in points {
            let of = |plan: &Plan| {
                let price = plan.price_in(Some(currency), Some(interval))?;
                Some(price.display())
            };
            let term = format!("fee in {currency} by the {}", interval.as_str());
            note(term, of(from), of(to));
        }
    }
    note("seats".to_owned(), seats(from), seats(to));
}

/// Licensed seats in words.
fn seats(plan: &Plan) -> Option<String> {
    let seats = plan.licensed_seats()?;
    let prices = seats.prices.iter().map(|price| price.display());
    let prices = Vec::from_iter(prices).join(", ");
    let charged = match prices.is_empty() {
        true => "the fee is for each".to_owned(),
        false => format!("{prices} for each further one"),
    };
    Some(format!("{} of {}; {charged}", seats.included, seats.metric))
}

/// The overage rates that differ: in the only currency, or in each one.
fn rates(
    from: &Plan,
    to: &Plan,
    metric: &str,
    note: &mut impl FnMut(String, Option<String>, Option<String>),
) {
    let of = |plan: &Plan| {
        let quota = plan.quotas.get(metric);
        quota.map(|quota| plan.rates(quota)).unwrap_or_default()
    };
    let (before, after) = (of(from), of(to));
    let single = from.currencies().len() == 1 && from.currencies() == to.currencies();
    let currencies: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for currency in currencies {
        let rate = |rates: &BTreeMap<String, Decimal>| {
            rates.get(currency).map(|rate| rate.normalize().to_string())
        };
        let term = match single {
            true => format!("{metric} overage rate"),
            false => format!("{metric} overage rate in {currency}"),
        };
        note(term, rate(&before), rate(&after));
    }
}

pub(super) fn quantity(quota: Option<Decimal>) -> String {
    quota.map_or_else(
        || "unlimited".to_owned(),
        |quota| quota.normalize().to_string(),
    )
}
