//! What was sold when, and what a change of the file would mean: `plans versions` and
//! `plans diff`.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::money;
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgPool;

use super::versions::read_terms;
use super::{Catalogue, Existing, Plan, Quota, store};
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
    /// What it changed of the version before.
    pub changes: Vec<TermChange>,
    #[serde(skip)]
    pub terms: Option<Plan>,
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
    let held = store::held_versions(tx.conn()).await?;
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
        versions.push(PlanVersion {
            in_file: file.any(|plan| plan.tier == row.plan_tier && plan.digest() == row.digest),
            plan_tier: row.plan_tier,
            version: row.version,
            created_at: row.created_at.to_jiff(),
            subscriptions: row.subscriptions,
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
    Ok(plans.map(|plan| diff_of(plan, &versions)).collect())
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
    let subscribers = subscribers.filter_map(|one| {
        let terms = one.terms.as_ref()?;
        let effect = match plan.existing {
            _ if one.in_file => Effect::Same,
            Existing::Keep => Effect::Kept,
            Existing::Follow if charged_alike(one) => Effect::Follows,
            Existing::Follow => Effect::Migrate,
        };
        let comparable = terms.price.currency == plan.price.currency
            && terms.price.interval == plan.price.interval;
        Some(Affected {
            version: one.version,
            subscriptions: one.subscriptions,
            effect,
            fee_difference_amount: comparable
                .then(|| plan.price.amount.checked_sub(terms.price.amount))
                .flatten(),
            currency: plan.price.currency.clone(),
        })
    });
    PlanDiff {
        plan_tier: plan.tier.clone(),
        outcome,
        changes: newest
            .and_then(|newest| newest.terms.as_ref())
            .map(|terms| differences(terms, plan))
            .unwrap_or_default(),
        needs_sync: plan.price.lookup_key.is_some() && !of_plan().any(charged_alike),
        subscribers: subscribers.collect(),
    }
}

/// The terms in which two versions of a plan differ.
fn differences(from: &Plan, to: &Plan) -> Vec<TermChange> {
    let mut changes = Vec::new();
    let mut note = |term: String, from: Option<String>, to: Option<String>| {
        if from != to {
            changes.push(TermChange { term, from, to });
        }
    };
    note("fee".to_owned(), Some(fee(from)), Some(fee(to)));
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
        compare("overage rate", |quota| {
            quota.overage_rate.map(|rate| rate.normalize().to_string())
        });
        compare("grace maximum", |quota| {
            quota.grace_max.map(super::ceiling_text)
        });
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

fn fee(plan: &Plan) -> String {
    let amount = money::display(plan.price.amount, &plan.price.currency);
    format!("{amount} a {}", plan.price.interval.as_str())
}

fn quantity(quota: Option<Decimal>) -> String {
    quota.map_or_else(
        || "unlimited".to_owned(),
        |quota| quota.normalize().to_string(),
    )
}
