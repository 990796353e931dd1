//! The catalogue's file and its validation.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use rust_decimal::Decimal;
use serde::Deserialize;
use toml::Spanned;

use billing_domain::preview::ProrationBehavior;
use billing_domain::quantity;

use super::addons::file::{self as addons, AddonEntry};
use super::changes::Changes;
use super::features::{self, check_features};
use super::names;
use super::prices::{self, PlanPrices, PriceEntry};
use super::quotas::{CeilingValue, QuotaEntry, check_ceiling, check_quotas};
use super::recovery::RecoveryEntry;
use super::seats::{SeatsEntry, check_seats};
use super::{
    Aggregation, Catalogue, EnforcedRoute, Existing, FREE_TIER, Memory, Metric, OverLimit, Plan,
    allowance,
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
    changes: Changes,
    #[serde(default)]
    tax: TaxEntry,
    #[serde(default)]
    recovery: RecoveryEntry,
    plans: Vec<PlanEntry>,
    #[serde(default)]
    addons: Vec<AddonEntry>,
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
    #[serde(default)]
    price: Option<Spanned<PriceEntry>>,
    #[serde(default)]
    prices: Option<Spanned<Vec<Spanned<PriceEntry>>>>,
    /// `month`, which is the default, or `billing`.
    #[serde(default)]
    allowance_period: Option<Spanned<toml::Value>>,
    #[serde(default)]
    seats: Option<Spanned<SeatsEntry>>,
    #[serde(default)]
    trial_days_max: Option<Spanned<u16>>,
    #[serde(default)]
    trial_over_limit: Option<Spanned<OverLimit>>,
    #[serde(default)]
    retired: bool,
    #[serde(default)]
    existing: Existing,
    quotas: BTreeMap<Spanned<String>, Spanned<QuotaEntry>>,
    #[serde(default)]
    features: features::Entries<Spanned<features::Written>>,
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
            changes: self.changes,
            automatic_tax: self.tax.automatic,
            recovery: self.recovery.check()?,
            metrics: check_metrics(self.metrics)?,
            names,
            features: check_features(self.features)?,
            plans: Vec::new(),
            addons: Vec::new(),
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
        let mut plans = Vec::new();
        for entry in self.plans {
            plans.push(entry.into_parts());
        }
        let currencies = plans.iter();
        let currencies =
            currencies.map(|(entry, prices)| (entry.tier.get_ref().as_str(), prices.currency()));
        let home = prices::home_currency(currencies);
        let mut places = Vec::new();
        for (entry, prices) in plans {
            places.push(entry.tier.span().start);
            add_plan(&mut catalogue, &home, entry, prices)?;
        }
        if catalogue.plan(FREE_TIER).is_none() {
            return Err((0, format!("there is no plan with tier {FREE_TIER:?}")));
        }
        for entry in self.addons {
            addons::add(&mut catalogue, &home, entry)?;
        }
        for (at, plan) in places.into_iter().zip(catalogue.plans.clone()) {
            prices::claim_metered(&mut catalogue, at, &plan)?;
        }
        Ok(catalogue)
    }
}

impl PlanEntry {
    fn into_parts(mut self) -> (Self, PlanPrices) {
        let prices = PlanPrices {
            one: self.price.take(),
            several: self.prices.take(),
            list: "plans.prices",
        };
        (self, prices)
    }
}

fn add_plan(
    catalogue: &mut Catalogue,
    home: &str,
    entry: PlanEntry,
    prices: PlanPrices,
) -> Result<(), Problem> {
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
    let places = prices.places();
    let sold = prices::check_prices(&tier, at, home, prices)?;
    let seats = entry.seats;
    let seats = seats.map(|seats| check_seats(&tier, &catalogue.metrics, &sold, seats));
    let (seats, seat_quota) = seats.transpose()?.unzip();
    let quota = seats.as_ref().map(|seats| seats.metric.as_str());
    let quota = quota.zip(seat_quota);
    let quotas = check_quotas(&tier, at, &catalogue.metrics, &sold, quota, entry.quotas)?;
    let amount = sold.iter().map(|price| price.amount).max().unwrap_or(0);
    let trial_days_max = check_trial(&tier, amount, entry.trial_days_max)?;
    let allowance_period = allowance::check(&tier, entry.allowance_period.as_ref())?;
    let trial_over_limit = check_trial_over_limit(&tier, trial_days_max, entry.trial_over_limit)?;
    let mut sold = sold.into_iter();
    let price = sold.next().ok_or((at, format!("{tier:?} has no price")))?;
    let plan = Plan {
        tier,
        name: entry.name,
        price,
        other_prices: sold.collect(),
        allowance_period,
        trial_days_max,
        trial_over_limit,
        retired: entry.retired,
        existing: entry.existing,
        seats,
        quotas,
        features,
    };
    prices::claim(catalogue, at, &places, &plan)?;
    catalogue.plans.push(plan);
    Ok(())
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

fn check_trial_over_limit(
    tier: &str,
    trial_days_max: u16,
    entry: Option<Spanned<OverLimit>>,
) -> Result<OverLimit, Problem> {
    match entry {
        None => Ok(Plan::trial_over_limit_by_default()),
        Some(entry) if trial_days_max == 0 => Err((
            entry.span().start,
            format!("{tier:?} has no trial: trial_over_limit needs trial_days_max"),
        )),
        Some(entry) => Ok(entry.into_inner()),
    }
}
