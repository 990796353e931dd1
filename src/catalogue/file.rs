//! The catalogue's file and its validation.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use rust_decimal::Decimal;
use serde::Deserialize;
use toml::Spanned;

use billing_domain::preview::ProrationBehavior;
use billing_domain::quantity;

use super::features::{self, check_features};
use super::names;
use super::quotas::{CeilingValue, QuotaEntry, check_ceiling, check_quotas};
use super::{
    Aggregation, Catalogue, EnforcedRoute, Existing, FREE_TIER, Interval, Memory, Metric, Plan,
    Price, PriceUse,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    metrics: BTreeMap<String, MetricEntry>,
    #[serde(default)]
    features: features::Entries<features::FeatureEntry>,
    #[serde(default)]
    proration: ProrationEntry,
    #[serde(default)]
    tax: TaxEntry,
    plans: Vec<PlanEntry>,
    #[serde(default)]
    enforcement: EnforcementEntry,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct EnforcementEntry {
    #[serde(default)]
    routes: Vec<RouteEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteEntry {
    path: Spanned<String>,
    metric: Spanned<String>,
    #[serde(default)]
    amount: Option<Spanned<String>>,
    upstream: Spanned<String>,
    #[serde(default)]
    on_failure: OnFailure,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum OnFailure {
    #[default]
    Closed,
    Open,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct TaxEntry {
    /// Whether Stripe taxes new subscriptions by the customer's address.
    #[serde(default)]
    automatic: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProrationEntry {
    #[serde(default = "ProrationEntry::at_once")]
    upgrade: Proration,
    #[serde(default = "ProrationEntry::with_the_renewal")]
    downgrade: Proration,
}

impl ProrationEntry {
    fn at_once() -> Proration {
        Proration::AlwaysInvoice
    }

    fn with_the_renewal() -> Proration {
        Proration::CreateProrations
    }
}

impl Default for ProrationEntry {
    fn default() -> Self {
        Self {
            upgrade: Self::at_once(),
            downgrade: Self::with_the_renewal(),
        }
    }
}

/// Stripe's `proration_behavior`.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Proration {
    AlwaysInvoice,
    CreateProrations,
}

impl From<Proration> for ProrationBehavior {
    fn from(behavior: Proration) -> Self {
        match behavior {
            Proration::AlwaysInvoice => Self::AlwaysInvoice,
            Proration::CreateProrations => Self::CreateProrations,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricEntry {
    aggregation: Aggregation,
    #[serde(default)]
    fail_open: bool,
    #[serde(default)]
    told_by: ReportedBy,
    #[serde(default)]
    grace_max: Option<Spanned<CeilingValue>>,
    /// For people, such as `LLM tokens`.
    #[serde(default)]
    name: Option<Spanned<String>>,
    /// What one is called, such as `token`.
    #[serde(default)]
    unit: Option<Spanned<String>>,
}

/// Who may report usage.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum ReportedBy {
    /// Everyone with `usage.write`.
    #[default]
    Anyone,
    ApiKeys,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanEntry {
    tier: Spanned<String>,
    name: String,
    price: Spanned<PriceEntry>,
    #[serde(default)]
    trial_days_max: Option<Spanned<u16>>,
    #[serde(default)]
    retired: bool,
    #[serde(default)]
    existing: Existing,
    quotas: BTreeMap<Spanned<String>, Spanned<QuotaEntry>>,
    #[serde(default)]
    features: features::Entries<Spanned<features::Written>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceEntry {
    amount: i64,
    currency: String,
    interval: Interval,
    #[serde(default)]
    lookup_key: Option<Spanned<String>>,
    #[serde(default)]
    stripe_price_ids: Vec<Spanned<String>>,
}

/// A problem with its byte offset.
pub(super) type Problem = (usize, String);

impl File {
    pub(super) fn check(
        mut self,
        version: String,
        reserved: &[String],
    ) -> Result<Catalogue, Problem> {
        let names = names::check(
            self.metrics
                .iter_mut()
                .map(|(metric, entry)| (metric.as_str(), entry.name.take(), entry.unit.take())),
        )?;
        let mut catalogue = Catalogue {
            version,
            upgrade: self.proration.upgrade.into(),
            downgrade: self.proration.downgrade.into(),
            automatic_tax: self.tax.automatic,
            metrics: check_metrics(self.metrics)?,
            names,
            features: check_features(self.features)?,
            plans: Vec::new(),
            by_lookup_key: HashMap::new(),
            by_price_id: HashMap::new(),
            metered_by_key: HashMap::new(),
            enforced: Vec::new(),
            memory: Memory::default(),
            recorded: OnceLock::new(),
        };
        for route in self.enforcement.routes {
            let route = check_route(&catalogue, route, reserved)?;
            catalogue.enforced.push(route);
        }
        for entry in self.plans {
            add_plan(&mut catalogue, entry)?;
        }
        if catalogue.plan(FREE_TIER).is_none() {
            return Err((0, format!("there is no plan with tier {FREE_TIER:?}")));
        }
        catalogue.metered_by_key = metered_by_key(&catalogue.plans);
        Ok(catalogue)
    }
}

fn add_plan(catalogue: &mut Catalogue, entry: PlanEntry) -> Result<(), Problem> {
    let at = entry.tier.span().start;
    let tier = entry.tier.into_inner();
    if tier.is_empty() {
        return Err((at, "a tier needs a name".to_owned()));
    }
    if tier == FREE_TIER && entry.retired {
        let problem = format!(
            "{FREE_TIER:?} cannot be retired: organizations without a subscription have it"
        );
        return Err((at, problem));
    }
    if catalogue.plan(&tier).is_some() {
        return Err((at, format!("the tier {tier:?} is listed twice")));
    }
    let features = features::check_plan(&tier, &catalogue.features, entry.features)?;
    let quotas = check_quotas(&tier, at, &catalogue.metrics, entry.quotas)?;
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
    let trial_days_max = check_trial(&tier, price.amount, entry.trial_days_max)?;
    let index = catalogue.plans.len();
    if let Some(key) = &price.lookup_key {
        claim(&mut catalogue.by_lookup_key, key, index, "lookup_key")?;
    }
    for id in &price.stripe_price_ids {
        claim(&mut catalogue.by_price_id, id, index, "price id")?;
    }
    let ids = price.stripe_price_ids.into_iter();
    catalogue.plans.push(Plan {
        tier,
        name: entry.name,
        price: Price {
            amount: price.amount,
            currency: price.currency,
            interval: price.interval,
            lookup_key: price.lookup_key.map(Spanned::into_inner),
            stripe_price_ids: ids.map(Spanned::into_inner).collect(),
        },
        trial_days_max,
        retired: entry.retired,
        existing: entry.existing,
        quotas,
        features,
    });
    Ok(())
}

/// Metered prices by the lookup keys that `plans sync` gives them.
fn metered_by_key(plans: &[Plan]) -> HashMap<String, PriceUse> {
    let mut by_key = HashMap::new();
    for plan in plans {
        for metric in plan.quotas.keys() {
            // Also without a rate now: a former version may have had one.
            if let Some(base) = &plan.price.lookup_key {
                let used = PriceUse {
                    tier: plan.tier.clone(),
                    metric: Some(metric.clone()),
                };
                by_key.insert(format!("{base}_{metric}"), used);
            }
        }
    }
    by_key
}

fn check_metrics(
    entries: BTreeMap<String, MetricEntry>,
) -> Result<BTreeMap<String, Metric>, Problem> {
    let check = |(name, entry): (String, MetricEntry)| {
        let metric = Metric {
            aggregation: entry.aggregation,
            fail_open: entry.fail_open,
            by_keys_only: entry.told_by == ReportedBy::ApiKeys,
            grace_max: entry.grace_max.map(check_ceiling).transpose()?,
        };
        Ok((name, metric))
    };
    entries.into_iter().map(check).collect()
}

/// Validates the path of a product's route: no conflict with our own paths, and no
/// characters with a special meaning.
fn check_path(
    catalogue: &Catalogue,
    at: usize,
    path: &str,
    reserved: &[String],
) -> Result<(), Problem> {
    let plain = |segment: &str| {
        !segment.is_empty()
            && segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
    };
    let fixed = path.strip_suffix("/{*rest}").unwrap_or(path);
    let segments = fixed
        .strip_prefix('/')
        .map(|rest| rest.split('/').all(plain));
    if segments != Some(true) {
        return Err((
            at,
            format!("the path {path:?} must be like \"/tools/run\", or end in \"/{{*rest}}\""),
        ));
    }
    let in_the_way = |prefix: &&String| {
        fixed == **prefix
            || fixed.starts_with(&format!("{prefix}/"))
            || prefix.starts_with(&format!("{fixed}/"))
    };
    if let Some(prefix) = reserved.iter().find(in_the_way) {
        return Err((
            at,
            format!("the path {path:?} conflicts with {prefix}, which this service uses"),
        ));
    }
    if catalogue.enforced.iter().any(|other| other.path == path) {
        return Err((at, format!("the path {path:?} is used twice")));
    }
    Ok(())
}

fn check_route(
    catalogue: &Catalogue,
    entry: RouteEntry,
    reserved: &[String],
) -> Result<EnforcedRoute, Problem> {
    let at = entry.path.span().start;
    let path = entry.path.into_inner();
    check_path(catalogue, at, &path, reserved)?;
    let metric_at = entry.metric.span().start;
    let metric = entry.metric.into_inner();
    match catalogue.metric(&metric) {
        None => return Err((metric_at, format!("{metric:?} is not among [metrics]"))),
        Some(found) if found.aggregation != Aggregation::Sum => {
            return Err((
                metric_at,
                format!("{metric:?} is a level, and a call can only add to a sum"),
            ));
        }
        Some(_) => {}
    }
    let amount = match entry.amount {
        None => Decimal::ONE,
        Some(text) => quantity::parse(text.get_ref())
            .map_err(|error| error.to_string())
            .and_then(|amount| {
                let uses = (!amount.is_zero()).then_some(amount);
                uses.ok_or_else(|| "a call must use more than 0".to_owned())
            })
            .map_err(|error| (text.span().start, format!("amount: {error}")))?,
    };
    let upstream_at = entry.upstream.span().start;
    let upstream = entry.upstream.into_inner().parse::<reqwest::Url>().ok();
    let upstream = upstream
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| {
            (
                upstream_at,
                "upstream must be an http:// or https:// URL".to_owned(),
            )
        })?;
    Ok(EnforcedRoute {
        path,
        metric,
        amount,
        upstream,
        fail_open: entry.on_failure == OnFailure::Open,
    })
}

/// Stripe's limit: two years.
const MAX_TRIAL_DAYS: u16 = 730;

fn check_trial(tier: &str, amount: i64, entry: Option<Spanned<u16>>) -> Result<u16, Problem> {
    let Some(entry) = entry else {
        return Ok(0);
    };
    let (at, days) = (entry.span().start, entry.into_inner());
    if days > MAX_TRIAL_DAYS {
        return Err((
            at,
            format!("trial_days_max of {tier:?} is above Stripe's {MAX_TRIAL_DAYS}"),
        ));
    }
    if days > 0 && amount == 0 {
        return Err((at, format!("{tier:?} costs nothing and needs no trial")));
    }
    Ok(days)
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
