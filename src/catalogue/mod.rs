//! The plan catalogue (`PLANS_FILE`): tiers, prices, quotas and rates. It says
//! what is sold; which organization has which plan is decided elsewhere.

pub mod addons;
pub mod allowance;
mod bought;
pub mod changes;
pub mod features;
mod file;
pub mod history;
mod memory;
mod names;
mod offers;
mod plan;
mod prices;
mod quotas;
pub mod raise;
mod recovery;
pub mod routes;
mod seats;
mod store;
mod sync;
mod synced;
pub mod versions;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use std::sync::OnceLock;

use billing_domain::preview::ProrationBehavior;
pub use billing_domain::quota::{Aggregation, GraceCeiling, OverLimit};
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::stripe::objects::{ShapeError, Subscription, SubscriptionItem};
pub use addons::{
    Added, Addon, Addons, BoughtAddon, MAX_ADDONS, OnPlanChange, count as count_addons,
    stored as stored_addons,
};
pub use allowance::AllowancePeriod;
pub use bought::Bought;
use changes::Changes;
pub use changes::When;
use file::File;
use memory::Memory;
pub use memory::PriceUse;
pub use plan::{EnforcedRoute, Existing, Interval, Metric, Plan, Price, Quota, UsageAtChanges};
pub use quotas::{ceiling_text, stored_ceiling};
pub use recovery::{TrialCard, TrialEnd, TrialPer};
pub use seats::{MAX_SEATS, SeatItems, SeatMode, Seats};
pub use store::{RecordedPrice, addon_price, prices_of_version as recorded_prices};
pub use sync::{Action, Step, SyncError, Synced, meter_event_name, metered_lookup_key, sync};
pub use synced::{is_addon_price, is_fee_of, is_seat_of, is_usage_of, record};

/// The catalogue that ships with the program.
const BUILT_IN: &str = include_str!("../../config/plans.toml");

/// The tier of an organization without a subscription.
pub const FREE_TIER: &str = "free";

#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error("PLANS_FILE: cannot read {path}: {error}")]
    Unreadable {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("PLANS_FILE: {path}{}: {problem}", line.map(|l| format!(", line {l}")).unwrap_or_default())]
    Invalid {
        path: PathBuf,
        line: Option<usize>,
        problem: String,
    },
}

/// The plans from the lowest tier to the highest.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// A digest of the catalogue.
    version: String,
    /// When changes to a higher and to a lower tier are charged.
    upgrade: ProrationBehavior,
    downgrade: ProrationBehavior,
    changes: Changes,
    /// Whether Stripe taxes new subscriptions by the customer's address.
    automatic_tax: bool,
    recovery: recovery::Recovery,
    metrics: BTreeMap<String, Metric>,
    names: BTreeMap<String, names::MetricName>,
    features: BTreeMap<String, features::Feature>,
    plans: Vec<Plan>,
    addons: Vec<Addon>,
    by_lookup_key: HashMap<String, PriceUse>,
    by_price_id: HashMap<String, PriceUse>,
    metered_by_key: HashMap<String, PriceUse>,
    enforced: Vec<EnforcedRoute>,
    memory: Memory,
    /// Set once the file's plans are recorded as versions.
    recorded: OnceLock<Recorded>,
}

/// The plans as they are sold.
#[derive(Debug, Clone, Default)]
struct Recorded {
    /// In the file's order.
    plans: Vec<Plan>,
    versions: HashMap<String, i32>,
}

impl Catalogue {
    /// Reads the catalogue at `path`; without a path, `config/plans.toml` if it
    /// exists, otherwise the built-in one.
    pub fn load(path: Option<&Path>) -> Result<Self, CatalogueError> {
        Self::load_beside(path, &[])
    }

    /// The same; no route of the product's may be in the way of a `reserved` path.
    pub fn load_beside(path: Option<&Path>, reserved: &[String]) -> Result<Self, CatalogueError> {
        let default = Path::new("config/plans.toml");
        let path = match path {
            Some(path) => path,
            None if default.exists() => default,
            None => {
                return Self::parse(Path::new("the built-in catalogue"), BUILT_IN, reserved);
            }
        };
        let text = std::fs::read_to_string(path).map_err(|error| CatalogueError::Unreadable {
            path: path.to_owned(),
            error,
        })?;
        Self::parse(path, &text, reserved)
    }

    fn parse(path: &Path, text: &str, reserved: &[String]) -> Result<Self, CatalogueError> {
        let invalid = |at: Option<usize>, problem: String| CatalogueError::Invalid {
            path: path.to_owned(),
            line: at.map(|at| text[..at.min(text.len())].matches('\n').count() + 1),
            problem,
        };
        let version = hex::encode(&Sha256::digest(text)[..16]);
        let file: File = toml::from_str(text).map_err(|error| {
            invalid(
                error.span().map(|span| span.start),
                error.message().to_owned(),
            )
        })?;
        file.check(version, reserved)
            .map_err(|(at, problem)| invalid(Some(at), problem))
    }

    /// What is metered, and how.
    pub fn metrics(&self) -> &BTreeMap<String, Metric> {
        &self.metrics
    }

    pub fn metric(&self, name: &str) -> Option<Metric> {
        self.metrics.get(name).copied()
    }

    /// The product's routes that quotas are enforced for.
    pub fn enforced(&self) -> &[EnforcedRoute] {
        &self.enforced
    }

    /// The plans as they are sold.
    pub fn plans(&self) -> &[Plan] {
        let recorded = self.recorded.get();
        recorded.map_or(&self.plans, |recorded| &recorded.plans)
    }

    /// The plans as the file has them.
    pub fn file_plans(&self) -> &[Plan] {
        &self.plans
    }

    pub fn plan(&self, tier: &str) -> Option<&Plan> {
        self.plans().iter().find(|plan| plan.tier == tier)
    }

    /// The most usage that grace allows for a metric in a plan. A plan that no longer
    /// exists has the metric's default.
    pub fn grace_max(&self, tier: &str, metric: &str) -> Option<GraceCeiling> {
        let plan = self.plan(tier).and_then(|plan| plan.quotas.get(metric));
        plan.and_then(|quota| quota.grace_max)
            .or_else(|| self.metric(metric)?.grace_max)
    }

    /// The same as a quantity, if the plan has grace for the metric.
    pub fn grace_max_of(&self, plan: &Plan, metric: &str) -> Option<Decimal> {
        let quota = plan.quotas.get(metric)?;
        let ceiling = self.grace_max(&plan.tier, metric)?;
        let quota = quota
            .quota
            .filter(|_| quota.over_limit == OverLimit::Grace)?;
        Some(ceiling.over(quota))
    }

    /// What happens to usage over the quota in a trial without a way to charge, where
    /// the plan has overage.
    pub fn trial_over_limit(&self, tier: &str) -> OverLimit {
        let plan = self.plan(tier);
        plan.map_or(Plan::trial_over_limit_by_default(), |plan| {
            plan.trial_over_limit
        })
    }

    /// What a change of plan does to the usage of its period.
    pub fn usage_at_changes(&self) -> UsageAtChanges {
        self.changes.usage
    }

    /// The rank of a tier; `None`, below all others, for an unknown one.
    pub fn rank(&self, tier: &str) -> Option<usize> {
        self.plans.iter().position(|plan| plan.tier == tier)
    }

    /// A digest of the catalogue.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// When a change between two tiers is charged.
    pub fn proration_behavior(&self, from: &str, to: &str) -> ProrationBehavior {
        if self.rank(to) >= self.rank(from) {
            self.upgrade
        } else {
            self.downgrade
        }
    }

    /// When fewer seats of the same plan are charged.
    pub fn proration_of_less(&self) -> ProrationBehavior {
        self.downgrade
    }

    /// Whether Stripe taxes new subscriptions by the customer's address.
    pub fn automatic_tax(&self) -> bool {
        self.automatic_tax
    }

    /// The plan whose fee this price is.
    pub fn plan_of_price(&self, lookup_key: Option<&str>, price_id: Option<&str>) -> Option<&Plan> {
        let used = self.price_use(lookup_key, price_id)?;
        self.plan(&used.tier).filter(|_| used.is_fee())
    }

    /// Whether this price is a plan's fee, charges its usage, or is an add-on's.
    pub fn knows_price(&self, lookup_key: Option<&str>, price_id: Option<&str>) -> bool {
        self.price_use(lookup_key, price_id).is_some()
    }

    /// Reads a Stripe subscription, with the billing period that counts.
    pub fn subscription(&self, object: &Value) -> Result<Subscription, ShapeError> {
        let mut subscription = Subscription::read(object)?;
        let (start, end) = self.period_of(&subscription);
        let (usage_start, usage_end) = self.usage_period_of(&subscription);
        subscription.current_period_start = start;
        subscription.current_period_end = end;
        subscription.usage_period_start = usage_start;
        subscription.usage_period_end = usage_end;
        Ok(subscription)
    }

    /// The plan of a subscription: the highest one that an item pays for, by id or
    /// lookup key of its price; otherwise the one named in the metadata of the
    /// subscription, the highest one whose product an item is of, or the highest one
    /// named in the metadata of a price. Positions of items mean nothing.
    pub fn plan_of(&self, subscription: &Subscription) -> Option<&Plan> {
        if let Some((_, plan)) = self.paying_item(subscription) {
            return Some(plan);
        }
        let named = |metadata| {
            let tier = named_tier(metadata)?;
            self.rank(tier)
        };
        let by_products = || {
            let items = subscription.items.iter();
            let tiers = items.filter_map(|item| self.tier_of_product(item));
            tiers.filter_map(|tier| self.rank(&tier)).max()
        };
        let by_prices = || {
            let items = subscription.items.iter();
            items.filter_map(|item| named(&item.price_metadata)).max()
        };
        let named = named(&subscription.metadata);
        let index = named.or_else(by_products).or_else(by_prices)?;
        self.plans().get(index)
    }

    /// The item that pays for the plan, and the plan.
    fn paying_item<'s>(
        &self,
        subscription: &'s Subscription,
    ) -> Option<(&'s SubscriptionItem, &Plan)> {
        let paid = subscription.items.iter().filter_map(|item| {
            let used = self.item_use(item).filter(PriceUse::is_fee)?;
            Some((item, self.plan(&used.tier)?))
        });
        paid.max_by_key(|(item, plan)| {
            let metered = item.usage_type.as_deref() == Some("metered");
            (self.rank(&plan.tier), !metered, std::cmp::Reverse(&item.id))
        })
    }

    /// The item whose product, or whose price's metadata, names the plan.
    fn naming_item<'s>(&self, subscription: &'s Subscription) -> Option<&'s SubscriptionItem> {
        let tier = &self.plan_of(subscription)?.tier;
        let of_product = |item| self.tier_of_product(item).as_ref() == Some(tier);
        let named = |item: &SubscriptionItem| named_tier(&item.price_metadata) == Some(tier);
        let items = subscription.items.iter();
        let naming = items.filter(|item| of_product(item) || named(item));
        naming.max_by_key(|item| {
            let metered = item.usage_type.as_deref() == Some("metered");
            (!metered, of_product(item), std::cmp::Reverse(&item.id))
        })
    }

    /// The billing period of a subscription: the one of the item that pays for the
    /// plan, or names it; or the subscription's own if there is none.
    pub fn period_of(&self, subscription: &Subscription) -> (Option<Timestamp>, Option<Timestamp>) {
        let item = self.paying_item(subscription).map(|(item, _)| item);
        let item = item.or_else(|| self.naming_item(subscription));
        match item.filter(|item| item.current_period_end.is_some()) {
            Some(item) => (item.current_period_start, item.current_period_end),
            None => (
                subscription.current_period_start,
                subscription.current_period_end,
            ),
        }
    }
}

fn named_tier(metadata: &Map<String, Value>) -> Option<&str> {
    ["plan_tier", "plan", "tier"]
        .iter()
        .find_map(|key| metadata.get(*key)?.as_str())
}

#[cfg(test)]
mod tests;
