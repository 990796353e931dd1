//! What the figures are made of, and reading them.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;
use uuid::Uuid;

use super::store::{self, Filter};
use crate::metering::usage::overage_amount;
use crate::server::pagination::page::Listed;

/// The business figures as of now. Amounts of different currencies are never added.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Movements are booked until then; null: none was booked yet.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub booked_until: Option<Timestamp>,
    pub recurring_revenue: Vec<Revenue>,
    /// This month so far, of each currency.
    pub this_month: Vec<Month>,
    pub trials: RunningTrials,
    pub past_due: Vec<Owed>,
    pub usage_at_risk: Vec<AtRisk>,
}

/// What is paid a month, of a currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RecurringRevenue)]
pub struct Revenue {
    #[schema(example = "usd")]
    pub currency: String,
    /// Before discounts.
    pub mrr_amount: i64,
    /// The part of it that discounts are taken off.
    pub discounted_mrr_amount: i64,
    /// Organizations that pay it.
    pub customers: i64,
}

/// A month (UTC) of a currency: `openingAmount` and the movements add up to `closingAmount`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RevenueMonth)]
pub struct Month {
    #[schema(example = "2026-11")]
    pub month: String,
    #[schema(example = "usd")]
    pub currency: String,
    pub opening_amount: i64,
    pub new_amount: i64,
    pub reactivation_amount: i64,
    pub expansion_amount: i64,
    /// Zero or less.
    pub contraction_amount: i64,
    /// Zero or less.
    pub churn_amount: i64,
    pub closing_amount: i64,
    pub opening_customers: i64,
    pub new_customers: i64,
    pub reactivated_customers: i64,
    pub churned_customers: i64,
    pub closing_customers: i64,
    /// Null where nobody paid when the month began; with two places.
    #[schema(required, example = "2.50")]
    pub customer_churn_percent: Option<String>,
    #[schema(required, example = "2.50")]
    pub revenue_churn_percent: Option<String>,
    #[schema(required, example = "101.25")]
    pub net_retention_percent: Option<String>,
}

/// Trials that run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunningTrials {
    pub running: i64,
    /// Of those, the ones that end within seven days.
    pub ending: i64,
    /// Those that ended, by month, newest first.
    pub months: Vec<Trials>,
}

/// The trials that ended in a month (UTC).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EndedTrials)]
pub struct Trials {
    #[schema(example = "2026-11")]
    pub month: String,
    pub ended: i64,
    /// An invoice of more than zero was paid.
    pub converted: i64,
    /// The subscription runs, and nothing was paid yet.
    pub unpaid: i64,
    pub lost: i64,
    #[schema(example = "33.33")]
    pub conversion_percent: String,
}

/// What subscriptions owe whose payment failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PastDue)]
pub struct Owed {
    #[schema(example = "usd")]
    pub currency: String,
    pub subscriptions: i64,
    /// Open invoices.
    pub invoices: i64,
    pub owed_amount: i64,
}

/// Usage over quotas, on no invoice yet, of organizations whose payment failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UsageAtRisk)]
pub struct AtRisk {
    #[schema(example = "usd")]
    pub currency: String,
    pub organizations: i64,
    pub amount: i64,
}

/// Of a metric, as the view has it.
pub struct Used {
    pub organization_id: Uuid,
    pub metric: String,
    pub currency: Option<String>,
    pub overage: Decimal,
    pub overage_rate: Decimal,
}

/// How many organizations of a plan stand so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomerCount {
    #[schema(example = "standard")]
    pub plan_tier: String,
    /// `paying`, `past_due`, `trialing` or `free`.
    #[schema(example = "paying")]
    pub standing: String,
    pub organizations: i64,
}

/// An organization, and what it pays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FiguresCustomer)]
pub struct Customer {
    pub organization_id: Uuid,
    pub name: String,
    #[schema(required)]
    pub external_id: Option<String>,
    pub plan_tier: String,
    /// `paying`, `past_due`, `trialing` or `free`.
    pub standing: String,
    /// A month, of each currency.
    #[schema(value_type = Vec<Pays>)]
    pub pays: Value,
}

/// What an organization pays a month, of a currency.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pays {
    pub currency: String,
    pub mrr_amount: i64,
}

impl Listed for Customer {
    type Position = Uuid;

    fn position(&self) -> Uuid {
        self.organization_id
    }
}

/// What changed of an organization's monthly payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RevenueMovement)]
pub struct Movement {
    pub organization_id: Uuid,
    #[schema(required)]
    pub name: Option<String>,
    pub currency: String,
    /// Counts the movements of the organization in this currency.
    pub sequence: i64,
    /// `new`, `reactivation`, `expansion`, `contraction` or `churn`.
    pub kind: String,
    pub before_amount: i64,
    pub after_amount: i64,
    #[schema(value_type = String, format = DateTime)]
    pub occurred_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub booked_at: Timestamp,
    pub stripe_subscription_id: String,
    /// The event that wrote the subscription last, or `request:…` for Stripe's answer.
    pub stripe_event_id: String,
}

/// A movement's place in the list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    pub occurred_at: Timestamp,
    pub organization_id: Uuid,
    pub currency: String,
    pub sequence: i64,
}

impl Listed for Movement {
    type Position = Place;

    fn position(&self) -> Place {
        Place {
            occurred_at: self.occurred_at,
            organization_id: self.organization_id,
            currency: self.currency.clone(),
            sequence: self.sequence,
        }
    }
}

/// How organizations stand, and what movements are.
pub const STANDINGS: [&str; 4] = ["paying", "past_due", "trialing", "free"];
pub const KINDS: [&str; 5] = ["new", "reactivation", "expansion", "contraction", "churn"];

/// Months that are shown unless it is said.
pub const MONTHS: u32 = 12;
/// The most that are.
pub const MOST_MONTHS: u32 = 120;

/// When the month began that is `back` months before that of `now`.
pub fn month_start(now: Timestamp, back: u32) -> Timestamp {
    let here = now.to_zoned(TimeZone::UTC).first_of_month();
    let start = here.and_then(|first| first.start_of_day());
    let start = start.and_then(|first| first.checked_sub(i64::from(back).months()));
    start.map_or(Timestamp::MIN, |start| start.timestamp())
}

pub async fn read(conn: &mut PgConnection, now: Timestamp) -> Result<Figures, sqlx::Error> {
    let this_month = month_start(now, 0);
    let (running, ending) = store::running_trials(conn).await?;
    Ok(Figures {
        at: now,
        booked_until: store::booked_until(conn).await?,
        recurring_revenue: store::revenue(conn).await?,
        this_month: store::months(conn, this_month).await?,
        trials: RunningTrials {
            running,
            ending,
            months: store::trials(conn, month_start(now, 2)).await?,
        },
        past_due: store::owed(conn).await?,
        usage_at_risk: at_risk(&store::at_risk(conn).await?),
    })
}

/// Organizations that are neither archived nor erased, by plan and standing.
pub async fn standings(conn: &mut PgConnection) -> Result<Vec<CustomerCount>, sqlx::Error> {
    store::customer_counts(conn).await
}

/// The months of each currency, newest first.
pub async fn months(
    conn: &mut PgConnection,
    now: Timestamp,
    count: u32,
) -> Result<Vec<Month>, sqlx::Error> {
    store::months(conn, month_start(now, count.saturating_sub(1))).await
}

pub async fn movements(
    conn: &mut PgConnection,
    filter: &Filter,
    after: Option<&Place>,
    limit: i64,
) -> Result<Vec<Movement>, sqlx::Error> {
    store::movements(conn, filter, after, limit).await
}

pub async fn customers(
    conn: &mut PgConnection,
    standing: &str,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Customer>, sqlx::Error> {
    store::customers(conn, standing, after.unwrap_or_default(), limit).await
}

/// Each metric of an organization is rounded to the minor unit, as on its invoice.
fn at_risk(used: &[Used]) -> Vec<AtRisk> {
    let mut found = BTreeMap::<&str, (BTreeSet<Uuid>, i64)>::new();
    for one in used {
        let Some(currency) = one.currency.as_deref() else {
            continue;
        };
        let amount = overage_amount(one.overage, one.overage_rate, currency);
        let entry = found.entry(currency).or_default();
        if let Some(amount) = amount.filter(|amount| *amount > 0) {
            entry.0.insert(one.organization_id);
            entry.1 = entry.1.saturating_add(amount);
        }
    }
    let found = found.into_iter().filter(|(_, (_, amount))| *amount > 0);
    found
        .map(|(currency, (organizations, amount))| AtRisk {
            currency: currency.to_owned(),
            organizations: i64::try_from(organizations.len()).unwrap_or(i64::MAX),
            amount,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_in_utc() {
        let of = |now: &str, back| month_start(now.parse().unwrap(), back).to_string();
        assert_eq!(of("2026-03-31T23:59:59Z", 0), "2026-03-01T00:00:00Z");
        assert_eq!(of("2026-03-01T00:00:00Z", 1), "2026-02-01T00:00:00Z");
        assert_eq!(of("2026-01-15T12:00:00Z", 13), "2024-12-01T00:00:00Z");
    }

    #[test]
    fn usage_at_risk_is_rounded_by_metric_and_never_added_over_currencies() {
        let used = |organization: u128, currency: &str, overage: &str, rate: &str| Used {
            organization_id: Uuid::from_u128(organization),
            metric: "calls".to_owned(),
            currency: Some(currency.to_owned()),
            overage: overage.parse().unwrap(),
            overage_rate: rate.parse().unwrap(),
        };
        let found = at_risk(&[
            used(1, "usd", "1.9", "0.005"),
            used(1, "usd", "1", "0.005"),
            used(2, "usd", "100", "0.10"),
            used(3, "jpy", "7", "3"),
            used(4, "eur", "0.5", "3"),
        ]);
        let expected = |currency: &str, organizations, amount| AtRisk {
            currency: currency.to_owned(),
            organizations,
            amount,
        };
        assert_eq!(found, [expected("jpy", 1, 21), expected("usd", 2, 1_002)]);
    }
}
