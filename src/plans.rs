//! The plan catalogue (`PLANS_FILE`): tiers, prices, quotas and rates.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use crate::stripe::objects::Subscription;

/// The catalogue that ships with the program.
const BUILT_IN: &str = include_str!("../config/plans.toml");

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
    plans: Vec<Plan>,
    by_lookup_key: HashMap<String, usize>,
    by_price_id: HashMap<String, usize>,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub tier: String,
    pub name: String,
    pub price: Price,
    pub quotas: BTreeMap<String, Quota>,
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

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interval {
    Month,
    Year,
}

#[derive(Debug, Clone)]
pub struct Quota {
    /// None: unlimited.
    pub quota: Option<Decimal>,
    pub over_limit: OverLimit,
    /// In the currency's major unit, for one unit of the metric.
    pub overage_rate: Option<Decimal>,
}

/// What happens over the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverLimit {
    Hard,
    Grace,
    Overage,
}

impl OverLimit {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Grace => "grace",
            Self::Overage => "overage",
        }
    }
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
        let file: File = toml::from_str(text).map_err(|error| {
            invalid(
                error.span().map(|span| span.start),
                error.message().to_owned(),
            )
        })?;
        file.check()
            .map_err(|(at, problem)| invalid(Some(at), problem))
    }

    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    pub fn plan(&self, tier: &str) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.tier == tier)
    }

    /// Its place among the tiers; unknown tiers are below all.
    pub fn rank(&self, tier: &str) -> Option<usize> {
        self.plans.iter().position(|plan| plan.tier == tier)
    }

    /// The plan of a subscription: by its prices' lookup keys, then their ids,
    /// then the metadata of the subscription or of a price.
    pub fn plan_of(&self, subscription: &Subscription) -> Option<&Plan> {
        let items = || subscription.items.iter();
        let by_key = items()
            .filter_map(|item| item.lookup_key.as_ref())
            .find_map(|key| self.by_lookup_key.get(key));
        let by_price = || {
            items()
                .filter_map(|item| item.price_id.as_ref())
                .find_map(|id| self.by_price_id.get(id))
        };
        if let Some(index) = by_key.or_else(by_price) {
            return Some(&self.plans[*index]);
        }
        std::iter::once(&subscription.metadata)
            .chain(items().map(|item| &item.price_metadata))
            .find_map(named_tier)
            .and_then(|tier| self.plan(tier))
    }
}

fn named_tier(metadata: &Map<String, Value>) -> Option<&str> {
    ["plan_tier", "plan", "tier"]
        .iter()
        .find_map(|key| metadata.get(*key)?.as_str())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    metrics: BTreeMap<String, MetricEntry>,
    plans: Vec<PlanEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricEntry {
    // Read by the usage meters; named here so that a wrong word is an error.
    #[expect(dead_code)]
    aggregation: Aggregation,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Aggregation {
    Sum,
    Max,
    Last,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanEntry {
    tier: Spanned<String>,
    name: String,
    price: Spanned<Price>,
    quotas: BTreeMap<Spanned<String>, Spanned<QuotaEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuotaEntry {
    quota: QuotaValue,
    over_limit: OverLimit,
    #[serde(default)]
    overage_rate: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum QuotaValue {
    Number(i64),
    Text(String),
}

/// A problem and the byte where it stands.
type Problem = (usize, String);

impl File {
    fn check(self) -> Result<Catalogue, Problem> {
        let mut catalogue = Catalogue {
            plans: Vec::new(),
            by_lookup_key: HashMap::new(),
            by_price_id: HashMap::new(),
        };
        for entry in self.plans {
            let at = entry.tier.span().start;
            let tier = entry.tier.into_inner();
            if tier.is_empty() {
                return Err((at, "a tier needs a name".to_owned()));
            }
            if catalogue.plan(&tier).is_some() {
                return Err((at, format!("the tier {tier:?} is listed twice")));
            }
            let quotas = check_quotas(&tier, at, &self.metrics, entry.quotas)?;
            let (price_at, price) = (entry.price.span().start, entry.price.into_inner());
            if price.amount < 0 {
                return Err((price_at, format!("the price of {tier:?} is negative")));
            }
            let reachable = price.lookup_key.is_some() || !price.stripe_price_ids.is_empty();
            if price.amount > 0 && !reachable {
                return Err((
                    price_at,
                    format!("the price of {tier:?} needs a lookup_key or stripe_price_ids"),
                ));
            }
            let index = catalogue.plans.len();
            if let Some(key) = &price.lookup_key {
                claim(&mut catalogue.by_lookup_key, key, index, "lookup_key")?;
            }
            for id in &price.stripe_price_ids {
                claim(&mut catalogue.by_price_id, id, index, "price id")?;
            }
            catalogue.plans.push(Plan {
                tier,
                name: entry.name,
                price,
                quotas,
            });
        }
        if catalogue.plan(FREE_TIER).is_none() {
            return Err((0, format!("there is no plan with tier {FREE_TIER:?}")));
        }
        Ok(catalogue)
    }
}

fn claim(
    taken: &mut HashMap<String, usize>,
    name: &Spanned<String>,
    index: usize,
    what: &str,
) -> Result<(), Problem> {
    match taken.insert(name.get_ref().clone(), index) {
        None => Ok(()),
        Some(_) => Err((
            name.span().start,
            format!("the {what} {:?} is used twice", name.get_ref()),
        )),
    }
}

fn check_quotas(
    tier: &str,
    tier_at: usize,
    metrics: &BTreeMap<String, MetricEntry>,
    entries: BTreeMap<Spanned<String>, Spanned<QuotaEntry>>,
) -> Result<BTreeMap<String, Quota>, Problem> {
    let mut quotas = BTreeMap::new();
    for (metric, entry) in entries {
        let at = metric.span().start;
        let metric = metric.into_inner();
        if !metrics.contains_key(&metric) {
            return Err((at, format!("{metric:?} is not among [metrics]")));
        }
        let quota = check_quota(entry.into_inner()).map_err(|problem| (at, problem))?;
        quotas.insert(metric, quota);
    }
    match metrics.keys().find(|metric| !quotas.contains_key(*metric)) {
        Some(metric) => Err((tier_at, format!("{tier:?} says no quota for {metric:?}"))),
        None => Ok(quotas),
    }
}

fn check_quota(entry: QuotaEntry) -> Result<Quota, String> {
    let quota = match entry.quota {
        QuotaValue::Text(word) if word == "unlimited" => None,
        QuotaValue::Text(text) => Some(decimal(&text, "quota")?),
        QuotaValue::Number(number) => Some(Decimal::from(number)),
    };
    if quota.is_some_and(|quota| quota.is_sign_negative()) {
        return Err("a quota cannot be negative; write \"unlimited\" for no limit".to_owned());
    }
    let rate = entry
        .overage_rate
        .map(|rate| decimal(&rate, "overage_rate"))
        .transpose()?;
    if rate.is_some_and(|rate| rate.is_sign_negative()) {
        return Err("an overage_rate cannot be negative".to_owned());
    }
    let billed = entry.over_limit == OverLimit::Overage && quota.is_some();
    match (billed, rate) {
        (true, None) => Err("over_limit = \"overage\" needs an overage_rate".to_owned()),
        (false, Some(_)) => {
            Err("an overage_rate needs over_limit = \"overage\" and a quota".to_owned())
        }
        _ => Ok(Quota {
            quota,
            over_limit: entry.over_limit,
            overage_rate: rate,
        }),
    }
}

fn decimal(text: &str, what: &str) -> Result<Decimal, String> {
    Decimal::from_str_exact(text).map_err(|_| format!("{what} {text:?} is no decimal number"))
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
                "over_limit = \"grace\"",
                "over_limit = \"soft\"",
                "unknown variant",
            ),
        ] {
            let error = broken(from, to);
            assert!(
                error.contains(problem) && error.contains("plans.toml, line "),
                "{error}"
            );
        }
    }
}
