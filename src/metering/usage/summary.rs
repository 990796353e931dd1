//! An organization's usage in the current billing period, metric by metric.

use billing_domain::{money, quantity};
use jiff::Timestamp;
use rust_decimal::prelude::ToPrimitive as _;
use rust_decimal::{Decimal, RoundingStrategy};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::response::{percentage, remaining};
use crate::catalogue::OverLimit;
use crate::metering::ledger::Account;
use crate::metering::ledger::{Rules, store};
use crate::server::number::Number;

/// Usage of a metric in the current billing period.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Usage)]
pub struct MetricUsage {
    #[schema(example = "llm_tokens")]
    pub metric: String,
    #[schema(value_type = String, format = DateTime)]
    pub period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub period_end: Timestamp,
    /// Usage so far, including reservations.
    pub usage: Number,
    /// Reserved for calls in progress.
    pub reserved: Number,
    /// Null if unlimited.
    #[schema(required)]
    pub quota: Option<Number>,
    #[schema(required)]
    pub remaining: Option<Number>,
    /// Usage as a percentage of the quota.
    pub percentage: Number,
    #[schema(value_type = String, example = "overage")]
    pub over_limit: OverLimit,
    /// The most that may be used during a grace period; absent if there is no
    /// such limit, or no grace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_max: Option<Number>,
    /// Usage over the quota.
    pub overage: Number,
    /// The price of one unit over the quota: a decimal number in the currency's
    /// major unit; null if overage is not billed.
    #[schema(required, example = "0.00001")]
    pub overage_rate: Option<String>,
    /// The price of the whole units over the quota so far, in the currency's
    /// minor unit; null if overage is not billed.
    #[schema(required)]
    pub overage_amount: Option<i64>,
    /// ISO 4217, in lower case; null if the catalogue no longer has the plan.
    #[schema(required, example = "usd")]
    pub currency: Option<String>,
}

/// Reads the usage of every metric for which the organization has a quota, by
/// name.
pub async fn read_all(
    conn: &mut PgConnection,
    rules: &Rules,
    organization_id: Uuid,
) -> Result<Vec<MetricUsage>, sqlx::Error> {
    let metrics = rules.catalogue.metrics().keys();
    let keys: Vec<(Uuid, String)> = metrics
        .map(|metric| (organization_id, metric.clone()))
        .collect();
    let accounts = store::read(conn, &keys, &rules.catalogue, rules.grace_hours).await?;
    let read = keys
        .into_iter()
        .zip(accounts)
        .filter_map(|((_, metric), account)| summarize(metric, &account));
    Ok(read.collect())
}

/// Returns `None` without a quota or a current period.
fn summarize(metric: String, account: &Account) -> Option<MetricUsage> {
    let period = account.current().ok()?;
    let counted = account.periods.get(&period.start_secs());
    let policy = account.policy?;
    let policy = counted.map_or(policy, |counted| counted.policy(policy));
    let usage = counted.map_or(Decimal::ZERO, |counted| counted.used());
    let reserved = counted.map_or(Decimal::ZERO, |counted| counted.reserved);
    let overage = policy
        .quota
        .map_or(Decimal::ZERO, |quota| (usage - quota).max(Decimal::ZERO));
    let instant = |secs| Timestamp::from_second(secs).ok();
    let rate = account.overage_rate;
    let currency = account.currency.as_deref();
    Some(MetricUsage {
        metric,
        period_start: instant(period.start_secs())?,
        period_end: instant(period.end_secs())?,
        usage: Number(usage),
        reserved: Number(reserved),
        quota: policy.quota.map(Number),
        remaining: policy.quota.map(|quota| Number(remaining(usage, quota))),
        percentage: Number(percentage(usage, policy.quota)),
        over_limit: policy.over_limit,
        grace_max: policy.grace_max.map(Number),
        overage: Number(overage),
        overage_rate: rate.map(|rate| rate.normalize().to_string()),
        overage_amount: rate
            .zip(currency)
            .and_then(|(rate, currency)| overage_amount(overage, rate, currency)),
        currency: currency.map(str::to_owned),
    })
}

/// Prices whole units at `rate` and rounds once to the minor unit, half up, as
/// Stripe does for prices in fractions of a cent. `None` if it overflows.
pub fn overage_amount(overage: Decimal, rate: Decimal, currency: &str) -> Option<i64> {
    let minor_units = Decimal::from(10_u32.pow(money::decimals(currency)));
    quantity::whole_units(overage)
        .checked_mul(rate)?
        .checked_mul(minor_units)?
        .round_dp_with_strategy(0, RoundingStrategy::MidpointAwayFromZero)
        .to_i64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_units_are_charged_and_rounded_once() {
        let amount = |overage: &str, rate: &str, currency: &str| {
            overage_amount(overage.parse().unwrap(), rate.parse().unwrap(), currency)
        };
        assert_eq!(amount("1500000", "0.00001", "usd"), Some(1_500));
        assert_eq!(amount("499", "0.00001", "usd"), Some(0));
        assert_eq!(amount("500", "0.00001", "usd"), Some(1));
        assert_eq!(amount("3.9999", "0.10", "usd"), Some(30));
        assert_eq!(amount("3", "5", "jpy"), Some(15));
        assert_eq!(amount("99999999999999999999", "5", "usd"), None);
    }
}
