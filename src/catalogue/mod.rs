//! The plan catalogue (`PLANS_FILE`): tiers, prices, quotas and rates. It says
//! what is sold; which organization has which plan is decided elsewhere.

pub mod features;
mod file;
mod quotas;
pub mod routes;
mod sync;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use billing_domain::period::Cadence;
use billing_domain::preview::ProrationBehavior;
pub use billing_domain::quota::{Aggregation, GraceCeiling, OverLimit};
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use toml::Spanned;
use utoipa::ToSchema;

use crate::stripe::objects::{ShapeError, Subscription, SubscriptionItem};
use file::File;
pub use sync::{
    Action, MeteredPrices, Step, SyncError, meter_event_name, metered_lookup_key, sync,
};

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
    metrics: BTreeMap<String, Metric>,
    features: BTreeMap<String, features::Feature>,
    plans: Vec<Plan>,
    by_lookup_key: HashMap<String, usize>,
    by_price_id: HashMap<String, usize>,
    enforced: Vec<EnforcedRoute>,
}

/// A route of the product that quotas are enforced for.
#[derive(Debug, Clone)]
pub struct EnforcedRoute {
    /// In the router's syntax; may end in `{*rest}`.
    pub path: String,
    pub metric: String,
    /// The usage of one call.
    pub amount: Decimal,
    pub upstream: reqwest::Url,
    /// Whether calls pass when the usage cannot be determined.
    pub fail_open: bool,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub tier: String,
    pub name: String,
    pub price: Price,
    /// The longest trial that may be requested; 0 for none.
    pub trial_days_max: u16,
    pub quotas: BTreeMap<String, Quota>,
    pub features: BTreeMap<String, features::FeatureValue>,
}

impl Plan {
    /// Whether it is paid through a Stripe subscription.
    pub fn is_billed(&self) -> bool {
        self.price.lookup_key.is_some() || !self.price.stripe_price_ids.is_empty()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// In the currency's minor unit.
    pub amount: i64,
    pub currency: String,
    pub interval: Interval,
    #[serde(default)]
    pub lookup_key: Option<Spanned<String>>,
    #[serde(default)]
    pub stripe_price_ids: Vec<Spanned<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Interval {
    Month,
    Year,
}

impl Interval {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    pub fn cadence(self) -> Cadence {
        match self {
            Self::Month => Cadence::MONTHLY,
            Self::Year => Cadence::YEARLY,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Quota {
    /// `None` for unlimited.
    pub quota: Option<Decimal>,
    pub over_limit: OverLimit,
    /// In the currency's major unit, per unit of the metric.
    pub overage_rate: Option<Decimal>,
    /// The most usage that grace allows; `None` for the metric's default.
    pub grace_max: Option<GraceCeiling>,
}

/// A metric and how it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub aggregation: Aggregation,
    /// Whether usage is allowed when the total cannot be determined.
    pub fail_open: bool,
    /// Whether only API keys may report it.
    pub by_keys_only: bool,
    /// The most usage that grace allows, unless the plan sets it; `None` for no
    /// limit.
    pub grace_max: Option<GraceCeiling>,
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

    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    pub fn plan(&self, tier: &str) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.tier == tier)
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

    /// The plan with this price, by lookup key or id.
    pub fn plan_of_price(&self, lookup_key: Option<&str>, price_id: Option<&str>) -> Option<&Plan> {
        let by_key = lookup_key.and_then(|key| self.by_lookup_key.get(key));
        let index = by_key.or_else(|| self.by_price_id.get(price_id?))?;
        Some(&self.plans[*index])
    }

    /// Whether this price is a plan's fee or charges its usage.
    pub fn knows_price(&self, lookup_key: Option<&str>, price_id: Option<&str>) -> bool {
        let is_metered = |key: &str| {
            let mut plans = self.plans.iter();
            plans.any(|plan| {
                let mut metrics = self.metrics.keys();
                metrics.any(|metric| metered_lookup_key(plan, metric).as_deref() == Some(key))
            })
        };
        self.plan_of_price(lookup_key, price_id).is_some() || lookup_key.is_some_and(is_metered)
    }

    /// Reads a Stripe subscription, with the billing period that counts.
    pub fn subscription(&self, object: &Value) -> Result<Subscription, ShapeError> {
        let mut subscription = Subscription::read(object)?;
        let (start, end) = self.period_of(&subscription);
        subscription.current_period_start = start;
        subscription.current_period_end = end;
        Ok(subscription)
    }

    /// The plan of a subscription: the highest one that an item pays for, by lookup
    /// key or id of its price; otherwise the highest one named in the metadata of
    /// the subscription, otherwise of a price. Positions of items mean nothing.
    pub fn plan_of(&self, subscription: &Subscription) -> Option<&Plan> {
        if let Some((_, plan)) = self.paying_item(subscription) {
            return Some(plan);
        }
        let named = |metadata| {
            let tier = named_tier(metadata)?;
            self.plans.iter().position(|plan| plan.tier == tier)
        };
        let by_prices = || {
            let items = subscription.items.iter();
            items.filter_map(|item| named(&item.price_metadata)).max()
        };
        let index = named(&subscription.metadata).or_else(by_prices)?;
        Some(&self.plans[index])
    }

    /// The item that pays for the plan, and the plan.
    fn paying_item<'s>(
        &self,
        subscription: &'s Subscription,
    ) -> Option<(&'s SubscriptionItem, &Plan)> {
        let paid = subscription.items.iter().filter_map(|item| {
            let (key, id) = (item.lookup_key.as_deref(), item.price_id.as_deref());
            Some((item, self.plan_of_price(key, id)?))
        });
        paid.max_by_key(|(item, plan)| {
            let metered = item.usage_type.as_deref() == Some("metered");
            (self.rank(&plan.tier), !metered, std::cmp::Reverse(&item.id))
        })
    }

    /// The billing period of a subscription: the one of the item that pays for the
    /// plan, or the subscription's own if it has no plan of the catalogue.
    pub fn period_of(&self, subscription: &Subscription) -> (Option<Timestamp>, Option<Timestamp>) {
        let item = self.paying_item(subscription).map(|(item, _)| item);
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
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Catalogue, CatalogueError> {
        Catalogue::parse(Path::new("plans.toml"), text, &[])
    }

    #[test]
    fn the_built_in_catalogue_has_the_three_tiers() {
        let catalogue = parse(BUILT_IN).unwrap();
        let tiers: Vec<&str> = catalogue
            .plans()
            .iter()
            .map(|plan| plan.tier.as_str())
            .collect();
        assert_eq!(tiers, ["free", "standard", "enterprise"]);
        let standard = catalogue.plan("standard").unwrap();
        assert_eq!(standard.price.amount, 9_900);
        let tokens = &standard.quotas["llm_tokens"];
        assert_eq!(tokens.quota, Some(Decimal::from(1_000_000)));
        assert_eq!(tokens.overage_rate.unwrap().to_string(), "0.00001");
        assert_eq!(
            catalogue.plan("enterprise").unwrap().quotas["user_seats"].quota,
            None
        );
    }

    #[test]
    fn grace_may_have_a_ceiling_by_plan_and_by_metric() {
        let text = BUILT_IN
            .replacen(
                "quota = 10_000, over_limit = \"grace\"",
                "quota = 10_000, over_limit = \"grace\", grace_max = \"200%\"",
                1,
            )
            .replacen(
                "quota = 100, over_limit = \"grace\"",
                "quota = 100, over_limit = \"grace\", grace_max = 150",
                1,
            )
            .replacen(
                "api_calls = { aggregation = \"sum\" }",
                "api_calls = { aggregation = \"sum\", grace_max = \"1500.5\" }",
                1,
            );
        let catalogue = parse(&text).unwrap();
        let most = |tier, metric| catalogue.grace_max(tier, metric);
        let percent = GraceCeiling::Percent(200.into());
        assert_eq!(most("free", "llm_tokens"), Some(percent));
        let number = GraceCeiling::Quantity(150.into());
        assert_eq!(most("free", "agent_executions"), Some(number));
        let of_metric = GraceCeiling::Quantity("1500.5".parse().unwrap());
        assert_eq!(most("free", "api_calls"), Some(of_metric));
        // An operator may set the kind in any plan, and plans can be removed.
        assert_eq!(most("standard", "api_calls"), Some(of_metric));
        assert_eq!(most("gone", "api_calls"), Some(of_metric));
        assert_eq!(most("standard", "llm_tokens"), None);
        let shipped = parse(BUILT_IN).unwrap();
        assert_eq!(shipped.grace_max("free", "llm_tokens"), None);
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a flat table of cases")]
    fn a_mistake_is_named_with_its_line() {
        let broken = |from: &str, to: &str| {
            parse(&BUILT_IN.replacen(from, to, 1))
                .unwrap_err()
                .to_string()
        };
        for (from, to, problem) in [
            (
                "user_seats = { quota = 3",
                "seats = { quota = 3",
                "is not among [metrics]",
            ),
            (
                "user_seats = { quota = 3, over_limit = \"hard\" }",
                "",
                "says no quota for \"user_seats\"",
            ),
            ("quota = 100, ", "quota = -1, ", "cannot be negative"),
            (
                "valuecanvas_enterprise_monthly",
                "valuecanvas_standard_monthly",
                "used twice",
            ),
            (
                ", lookup_key = \"valuecanvas_standard_monthly\"",
                "",
                "needs a lookup_key",
            ),
            ("\"0.00001\"", "\"1e-5\"", "is no decimal number"),
            ("tier = \"standard\"", "tier = \"free\"", "listed twice"),
            (
                "trial_days_max = 30",
                "trial_days_max = 731",
                "above Stripe's 730",
            ),
            (
                "upgrade = \"always_invoice\"",
                "upgrade = \"at_once\"",
                "unknown variant",
            ),
            (
                "over_limit = \"grace\"",
                "over_limit = \"soft\"",
                "unknown variant",
            ),
            (
                "quota = 10_000, over_limit = \"grace\"",
                "quota = 10_000, over_limit = \"grace\", grace_max = \"99.9%\"",
                "is below the quota",
            ),
            (
                "quota = 10_000, over_limit = \"grace\"",
                "quota = 10_000, over_limit = \"grace\", grace_max = 9_999",
                "is below the quota",
            ),
            (
                "quota = 10_000, over_limit = \"grace\"",
                "quota = 10_000, over_limit = \"grace\", grace_max = \"twice\"",
                "write a percentage of the quota",
            ),
            (
                "quota = 10_000, over_limit = \"grace\"",
                "quota = 10_000, over_limit = \"grace\", grace_max = \"1000000.1%\"",
                "at most 1000000%",
            ),
            (
                "quota = 3, over_limit = \"hard\"",
                "quota = 3, over_limit = \"hard\", grace_max = \"200%\"",
                "needs over_limit = \"grace\"",
            ),
            (
                "quota = 10_000, over_limit = \"grace\"",
                "quota = \"unlimited\", over_limit = \"grace\", grace_max = \"200%\"",
                "needs over_limit = \"grace\" and a quota",
            ),
            (
                "llm_tokens = { aggregation = \"sum\" }",
                "llm_tokens = { aggregation = \"sum\", grace_max = \"50%\" }",
                "is below the quota",
            ),
            (
                "quota = 10_000, ",
                "quota = \"123456789012345678901\", ",
                "at most 20 digits",
            ),
            ("quota = 10_000, ", "quota = \"0.00001\", ", "and 4 after"),
            ("\"0.00001\"", "\"1234567890123\"", "at most 12 digits"),
            ("\"0.00001\"", "\"0.0000000000001\"", "at most 12 digits"),
        ] {
            let error = broken(from, to);
            assert!(
                error.contains(problem) && error.contains("plans.toml, line "),
                "{error}"
            );
        }
    }
}
