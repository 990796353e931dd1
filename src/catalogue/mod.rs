//! The plan catalogue (`PLANS_FILE`): tiers, prices, quotas and rates.

mod file;
mod quotas;
pub mod routes;
mod sync;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use billing_domain::period::Cadence;
use billing_domain::preview::Settlement;
pub use billing_domain::quota::{Aggregation, Ceiling, OverLimit};
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
    /// Tells this catalogue from every other.
    version: String,
    /// When a change to a higher tier is charged, and one to a lower credited.
    upgrade: Settlement,
    downgrade: Settlement,
    metrics: BTreeMap<String, Metric>,
    plans: Vec<Plan>,
    by_lookup_key: HashMap<String, usize>,
    by_price_id: HashMap<String, usize>,
    enforced: Vec<EnforcedRoute>,
}

/// A route of the product's, in front of which usage is enforced.
#[derive(Debug, Clone)]
pub struct EnforcedRoute {
    /// As the router has it; `{*rest}` may end it.
    pub path: String,
    pub metric: String,
    /// What a call uses.
    pub amount: Decimal,
    pub upstream: reqwest::Url,
    /// Whether calls pass when it cannot be told how much is used.
    pub fail_open: bool,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub tier: String,
    pub name: String,
    pub price: Price,
    /// The longest trial that may be asked for; 0: none.
    pub trial_days_max: u16,
    pub quotas: BTreeMap<String, Quota>,
}

impl Plan {
    /// Whether it is paid by a subscription of Stripe's.
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
    /// None: unlimited.
    pub quota: Option<Decimal>,
    pub over_limit: OverLimit,
    /// In the currency's major unit, for one unit of the metric.
    pub overage_rate: Option<Decimal>,
    /// What grace lets be used at most; None: as the metric says.
    pub grace_max: Option<Ceiling>,
}

/// What is metered, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub aggregation: Aggregation,
    /// Whether a use is allowed when it cannot be told how much is used.
    pub fail_open: bool,
    /// Whether only API keys may tell of it, and no user.
    pub by_keys_only: bool,
    /// What grace lets be used at most, where the plan says nothing of it;
    /// None: no end.
    pub grace_max: Option<Ceiling>,
}

impl Catalogue {
    /// Reads the catalogue at `path`; without a path, `config/plans.toml` if it
    /// is there, else the built-in one.
    pub fn load(path: Option<&Path>) -> Result<Self, CatalogueError> {
        let default = Path::new("config/plans.toml");
        let path = match path {
            Some(path) => path,
            None if default.exists() => default,
            None => return Self::parse(Path::new("the built-in catalogue"), BUILT_IN),
        };
        let text = std::fs::read_to_string(path).map_err(|error| CatalogueError::Unreadable {
            path: path.to_owned(),
            error,
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, CatalogueError> {
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
        file.check(version)
            .map_err(|(at, problem)| invalid(Some(at), problem))
    }

    /// What is metered, and how.
    pub fn metrics(&self) -> &BTreeMap<String, Metric> {
        &self.metrics
    }

    pub fn metric(&self, name: &str) -> Option<Metric> {
        self.metrics.get(name).copied()
    }

    /// The product's routes that usage is enforced in front of.
    pub fn enforced(&self) -> &[EnforcedRoute] {
        &self.enforced
    }

    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    pub fn plan(&self, tier: &str) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.tier == tier)
    }

    /// What the grace of a metric lets be used at most, in a plan. A plan that is
    /// not here any more has what the metric says.
    pub fn grace_max(&self, tier: &str, metric: &str) -> Option<Ceiling> {
        let plan = self.plan(tier).and_then(|plan| plan.quotas.get(metric));
        plan.and_then(|quota| quota.grace_max)
            .or_else(|| self.metric(metric)?.grace_max)
    }

    /// The same, as a quantity, where a plan has grace for the metric.
    pub fn grace_max_of(&self, plan: &Plan, metric: &str) -> Option<Decimal> {
        let quota = plan.quotas.get(metric)?;
        let ceiling = self.grace_max(&plan.tier, metric)?;
        let quota = quota
            .quota
            .filter(|_| quota.over_limit == OverLimit::Grace)?;
        Some(ceiling.over(quota))
    }

    /// Its place among the tiers; unknown tiers are below all.
    pub fn rank(&self, tier: &str) -> Option<usize> {
        self.plans.iter().position(|plan| plan.tier == tier)
    }

    /// Tells this catalogue from every other.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// When a change between two tiers is settled.
    pub fn settlement(&self, from: &str, to: &str) -> Settlement {
        if self.rank(to) >= self.rank(from) {
            self.upgrade
        } else {
            self.downgrade
        }
    }

    /// The plan that has this price, by lookup key or id.
    pub fn plan_of_price(&self, lookup_key: Option<&str>, price_id: Option<&str>) -> Option<&Plan> {
        let by_key = lookup_key.and_then(|key| self.by_lookup_key.get(key));
        let index = by_key.or_else(|| self.by_price_id.get(price_id?))?;
        Some(&self.plans[*index])
    }

    /// Whether a plan is paid, or its usage charged, by this price.
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

    /// Reads a subscription of Stripe's, with the period that counts.
    pub fn subscription(&self, object: &Value) -> Result<Subscription, ShapeError> {
        let mut subscription = Subscription::read(object)?;
        let (start, end) = self.period_of(&subscription);
        subscription.current_period_start = start;
        subscription.current_period_end = end;
        Ok(subscription)
    }

    /// The plan of a subscription: the highest that one of its items pays, by
    /// lookup key or id of its price; else the highest that the metadata of the
    /// subscription, else of a price, names. Where an item stands in the list
    /// means nothing.
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

    /// The item that pays the plan, and the plan.
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

    /// The billing period of a subscription: that of the item that pays the
    /// plan. Of one without a plan of ours, what the subscription says.
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
        Catalogue::parse(Path::new("plans.toml"), text)
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
        let percent = Ceiling::Percent(200.into());
        assert_eq!(most("free", "llm_tokens"), Some(percent));
        let number = Ceiling::Quantity(150.into());
        assert_eq!(most("free", "agent_executions"), Some(number));
        let of_metric = Ceiling::Quantity("1500.5".parse().unwrap());
        assert_eq!(most("free", "api_calls"), Some(of_metric));
        // An operator may set the kind in any plan, and plans go.
        assert_eq!(most("standard", "api_calls"), Some(of_metric));
        assert_eq!(most("gone", "api_calls"), Some(of_metric));
        assert_eq!(most("standard", "llm_tokens"), None);
        let shipped = parse(BUILT_IN).unwrap();
        assert_eq!(shipped.grace_max("free", "llm_tokens"), None);
    }

    #[test]
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
