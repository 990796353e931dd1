//! What the catalogue is made of: plans with their terms, metrics, and routes that
//! quotas are enforced for. A plan is stored as it is here, as a version of its terms.

use std::collections::BTreeMap;

use billing_domain::period::Cadence;
use billing_domain::quota::{Aggregation, GraceCeiling, OverLimit};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::addons::Added;
use super::allowance::AllowancePeriod;
use super::features::FeatureValue;
use super::seats::Seats;

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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub tier: String,
    pub name: String,
    /// The default price.
    pub price: Price,
    /// Its prices in other currencies and intervals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_prices: Vec<Price>,
    /// The period of its quotas.
    #[serde(default)]
    pub allowance_period: AllowancePeriod,
    /// The longest trial that may be requested; 0 for none.
    #[serde(default)]
    pub trial_days_max: u16,
    /// What happens to overage in a trial without a way to charge.
    #[serde(default = "Plan::trial_over_limit_by_default")]
    pub trial_over_limit: OverLimit,
    /// Whether it is sold no more. Running subscriptions go on.
    #[serde(default)]
    pub retired: bool,
    /// What a change of its terms means for running subscriptions.
    #[serde(default)]
    pub existing: Existing,
    /// The quota of the seats' metric is among `quotas`, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seats: Option<Seats>,
    pub quotas: BTreeMap<String, Quota>,
    #[serde(default)]
    pub features: BTreeMap<String, FeatureValue>,
}

/// What a change of plan does to the usage of its period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsageAtChanges {
    /// What is over the quota is charged at the former rate, with the change.
    #[default]
    Charge,
    /// The quota is the plans' quotas in proportion to their time in the period. What
    /// is over it at the period's end is charged at the rate of the plan then.
    Prorate,
}

/// What a change of a plan's terms means for running subscriptions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Existing {
    /// They keep the terms that they bought.
    #[default]
    Keep,
    /// They follow at once where Stripe's prices stay the same, and else with
    /// `plans migrate`: until then Stripe charges by the former prices.
    Follow,
}

impl Plan {
    /// Nothing that would never be paid is given away.
    pub const fn trial_over_limit_by_default() -> OverLimit {
        OverLimit::Hard
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// In the currency's minor unit.
    pub amount: i64,
    pub currency: String,
    pub interval: Interval,
    pub lookup_key: Option<String>,
    #[serde(default)]
    pub stripe_price_ids: Vec<String>,
}

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
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

    /// Stripe's interval and its count, if plans are sold by it.
    pub fn of(interval: Option<&str>, count: Option<i32>) -> Option<Self> {
        match (interval?, count.unwrap_or(1)) {
            ("month", 1) => Some(Self::Month),
            ("year", 1) => Some(Self::Year),
            _ => None,
        }
    }

    pub fn cadence(self) -> Cadence {
        match self {
            Self::Month => Cadence::MONTHLY,
            Self::Year => Cadence::YEARLY,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// `None` for unlimited.
    pub quota: Option<Decimal>,
    pub over_limit: OverLimit,
    /// In the major unit of the price's currency, per unit of the metric.
    pub overage_rate: Option<Decimal>,
    /// The same in the currencies of the plan's other prices.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub other_rates: BTreeMap<String, Decimal>,
    /// The most usage that grace allows; `None` for the metric's default.
    #[serde(default, with = "super::quotas::ceiling_text")]
    pub grace_max: Option<GraceCeiling>,
    /// What add-ons have added to it, which is no term of the plan.
    #[serde(skip)]
    pub added: Added,
}

impl Quota {
    /// Whether Stripe charges usage over it.
    pub fn is_billed(&self) -> bool {
        self.over_limit == OverLimit::Overage && self.overage_rate.is_some()
    }
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
