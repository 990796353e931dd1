//! Versions of plans. Changing a plan's terms in the file makes a version;
//! subscriptions keep theirs, and everything that a subscriber sees or pays comes
//! from it.
//!
//! What Stripe charges must exist in Stripe before it is sold. Until `plans sync` has
//! made the prices of a change, a service goes on selling the version before.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;

use super::memory::KnownVersion;
use super::{Catalogue, Existing, Plan, Price, store, synced};
use crate::db::WorkerTx;
use crate::stripe::objects::Subscription;

/// The metadata key under which a subscription names its version, as `standard@2`.
pub const METADATA_KEY: &str = "plan_version";

/// The metadata value that names a version.
pub fn version_name(tier: &str, version: i32) -> String {
    format!("{tier}@{version}")
}

/// The version of `tier` that metadata names.
fn named_version(metadata: &Map<String, Value>, tier: &str) -> Option<i32> {
    let (named, version) = metadata.get(METADATA_KEY)?.as_str()?.rsplit_once('@')?;
    (named == tier).then(|| version.parse().ok())?
}

impl Catalogue {
    /// The version of a plan that is sold; `None` until the versions were recorded.
    pub fn current_version(&self, tier: &str) -> Option<i32> {
        let recorded = self.recorded.get()?;
        recorded.versions.get(tier).copied()
    }

    /// Records the file's plans as versions, each once for all processes. `in_stripe`:
    /// Stripe charges, so that a change of prices waits for `plans sync`.
    pub async fn record_versions(&self, pool: &PgPool, in_stripe: bool) -> Result<(), sqlx::Error> {
        if self.recorded.get().is_some() {
            return Ok(());
        }
        let mut tx = WorkerTx::begin(pool).await?;
        let mut recorded = super::Recorded::default();
        let mut unsynced = Vec::new();
        for plan in &self.plans {
            let (version, sold) = record(tx.conn(), plan, in_stripe).await?;
            if sold.is_some() {
                unsynced.push((&plan.tier, version));
            }
            recorded.versions.insert(plan.tier.clone(), version);
            recorded.plans.push(sold.unwrap_or_else(|| plan.clone()));
        }
        let (metrics, aggregations): (Vec<&str>, Vec<&str>) = self
            .metrics()
            .iter()
            .map(|(metric, how)| (metric.as_str(), how.aggregation.as_str()))
            .unzip();
        store::record_metrics(tx.conn(), &metrics, &aggregations).await?;
        store::record_addons(tx.conn(), &self.addons).await?;
        let corrected = store::correct(tx.conn(), &self.addon_price_ids()).await?;
        self.read_versions(tx.conn()).await?;
        tx.commit().await?;
        if !corrected.is_empty() {
            synced::mark_untold(pool, &corrected).await?;
        }
        for (plan, sold) in unsynced {
            tracing::warn!(
                plan,
                sold,
                "PLANS_FILE changes prices that Stripe does not have yet: this service goes on \
                 selling the former version. Run `plans sync`, then restart it"
            );
        }
        // Another task of this process may have been faster; it found the same.
        let _ = self.recorded.set(recorded);
        Ok(())
    }

    /// The terms of a version, as they were sold. A version that is not known is the
    /// plan as it is sold now.
    pub fn terms(&self, tier: &str, version: Option<i32>) -> Option<Plan> {
        self.known_terms(tier, version).or_else(|| {
            tracing::error!(tier, version, "Unknown version of a plan");
            self.plan(tier).cloned()
        })
    }

    /// The same; `None` if this process must read the versions first.
    pub fn known_terms(&self, tier: &str, version: Option<i32>) -> Option<Plan> {
        match version.filter(|version| self.current_version(tier) != Some(*version)) {
            None => self.plan(tier).cloned(),
            Some(version) => self.memory.terms(tier, version),
        }
    }

    /// The same; as the plan is sold now, if this process does not know them yet.
    pub fn known_or_sold(&self, tier: &str, version: Option<i32>) -> Option<Plan> {
        let known = self.known_terms(tier, version);
        known.or_else(|| self.plan(tier).cloned())
    }

    /// The terms of the plan whose price this is: those of the newest version that is sold
    /// with it, or else as the plan is sold now.
    pub fn terms_of_price(&self, price_id: &str) -> Option<Plan> {
        let used = self.price_use(None, Some(price_id))?;
        let tier = used.tier.as_str();
        let version = self.memory.of_versions(tier, |versions| {
            let mut newest_first = versions.iter().rev();
            let sold = newest_first.find(|(_, version)| version.price_ids.contains(price_id));
            sold.map(|(number, _)| *number)
        });
        self.known_or_sold(tier, version)
    }

    /// The version of a subscription that has the plan `tier`: among those that are
    /// sold with its prices, the one that its metadata names, else the newest one of
    /// when it was made, else the oldest one. `None` for a plan without versions.
    pub fn version_of(&self, subscription: &Subscription, tier: &str) -> Option<i32> {
        let follows = self.follows(tier);
        // Who follows has the one that is sold, whichever was bought.
        let named = match follows {
            true => self.current_version(tier),
            false => named_version(&subscription.metadata, tier),
        };
        let items = subscription.items.iter();
        let of_plan =
            items.filter(|item| self.item_use(item).is_some_and(|used| used.tier == tier));
        let prices: Vec<&String> = of_plan.filter_map(|item| item.price_id.as_ref()).collect();
        self.memory.of_versions(tier, |versions| {
            let is_linked = |id: &String| versions.values().any(|one| one.price_ids.contains(id));
            // A price of no version, agreed in Stripe, says nothing.
            let telling: Vec<&String> = prices.into_iter().filter(|id| is_linked(id)).collect();
            versions
                .iter()
                .max_by_key(|(number, version)| {
                    let sold_so = telling.iter().all(|id| version.price_ids.contains(*id));
                    let was_there = follows
                        || subscription
                            .created
                            .is_some_and(|created| version.created_at <= created);
                    let age = if was_there { **number } else { -**number };
                    (sold_so, named == Some(**number), was_there, age)
                })
                .map(|(number, _)| *number)
        })
    }

    /// The version of who bought a plan before there were versions.
    pub fn oldest_version(&self, tier: &str) -> Option<i32> {
        let oldest = |versions: &BTreeMap<i32, KnownVersion>| versions.keys().next().copied();
        self.memory.of_versions(tier, oldest)
    }

    /// Whether running subscriptions of a plan follow its changes.
    pub fn follows(&self, tier: &str) -> bool {
        self.plan(tier)
            .is_some_and(|plan| plan.existing == Existing::Follow)
    }
}

pub(super) fn read_terms(definition: Value) -> Option<Plan> {
    serde_json::from_value(definition).ok()
}

/// Records a plan. Returns the version that is sold, and its plan if that is not the
/// file's.
async fn record(
    conn: &mut PgConnection,
    plan: &Plan,
    in_stripe: bool,
) -> Result<(i32, Option<Plan>), sqlx::Error> {
    let versions = store::versions(conn, &plan.tier).await?;
    let (digest, billed) = (plan.digest(), plan.billed_digest());
    if let Some(same) = versions.iter().find(|one| one.digest == digest) {
        return Ok((same.version, None));
    }
    let has_prices = versions.iter().any(|one| one.billed_digest == billed);
    let waits = in_stripe && plan.is_synced() && !has_prices;
    if let Some(newest) = versions.last().filter(|_| waits)
        && let Some(terms) = read_terms(newest.definition.clone())
    {
        return Ok((newest.version, Some(as_sold(plan, terms))));
    }
    let version = add(conn, plan).await?;
    for offer in plan.offers() {
        store::link_prices(conn, &offer, version).await?;
    }
    Ok((version, None))
}

/// Stores a plan's terms as a version.
pub(super) async fn add(conn: &mut PgConnection, plan: &Plan) -> Result<i32, sqlx::Error> {
    let definition =
        serde_json::to_value(plan).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let new = store::NewVersion {
        plan_tier: &plan.tier,
        digest: &plan.digest(),
        billed_digest: &plan.billed_digest(),
        definition,
    };
    store::add_version(conn, &new).await
}

/// The file's plan with the terms of an earlier version. A price that the file has as
/// well is found by the file's names for it.
fn as_sold(plan: &Plan, terms: Plan) -> Plan {
    let named = |price: Price| {
        let mut in_file = plan.prices().into_iter();
        let same = in_file.find(|other| other.point() == price.point());
        match same.cloned() {
            Some(same) => Price {
                amount: price.amount,
                ..same
            },
            None => price,
        }
    };
    Plan {
        price: named(terms.price),
        other_prices: terms.other_prices.into_iter().map(named).collect(),
        allowance_period: terms.allowance_period,
        seats: terms.seats,
        quotas: terms.quotas,
        features: terms.features,
        ..plan.clone()
    }
}
