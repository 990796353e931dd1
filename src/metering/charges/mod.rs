//! Usage over a quota whose price a change of plan removes within a billing period:
//! Stripe would charge it at no price any more. It is charged with the change, once,
//! and counts no more afterwards: the units that were charged raise the quota of the
//! rest of the period.
//!
//! Nothing here decides whether a plan changes. What was charged is booked in the
//! transaction that mirrors the change, whichever event or answer tells of it first.

mod booking;
mod raised;
mod sender;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::batch::lookup::Grouped;
use crate::catalogue::Catalogue;
use crate::db;
use crate::metering::reports::{self, Overage, Reason, Unbilled};
use crate::metering::usage;
use crate::server::number::Number;

pub use booking::{Booked, PriceSwap, adjust, book};
pub use raised::keep_over;
pub use sender::{Sent, send_open};

/// Audit action: a change of prices charges usage.
const CHARGED: &str = "usage_charged";
/// Audit action: Stripe has the invoice item of such a charge.
const INVOICED: &str = "usage_charge_invoiced";

/// The audit actions about charges of usage.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    [CHARGED, INVOICED].into_iter()
}

/// Usage over the quota, in whole units, and what it costs at the price that charges
/// it until the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageCharge {
    pub metric: String,
    pub period_start: Timestamp,
    pub stripe_price_id: String,
    pub units: Decimal,
    /// For one unit, in the currency's major unit.
    pub rate: Decimal,
    /// In the minor unit.
    pub amount: i64,
    pub currency: String,
}

impl UsageCharge {
    /// Whether `now` is this charge, with at least as many units: usage only grows.
    pub fn still_holds(&self, now: &Self) -> bool {
        now.units >= self.units
            && Self {
                units: self.units,
                amount: self.amount,
                ..now.clone()
            } == *self
    }
}

/// Batched reads of organizations' usage over their quotas, as of a second of the
/// customer's clock.
pub type OverageLookup = Grouped<(Uuid, i64), Vec<Overage>>;

/// The connections of `lookups` have the role billing_worker from the start.
pub fn overage_lookup(lookups: PgPool, catalogue: Arc<Catalogue>) -> OverageLookup {
    Grouped::new(move |asked| {
        let (lookups, catalogue) = (lookups.clone(), catalogue.clone());
        Box::pin(async move {
            let mut conn = db::acquire(&lookups).await?;
            overages(&mut conn, &catalogue, &asked).await
        })
    })
}

/// What organizations are over their quotas by, each at a second of the customer's time.
pub async fn overages(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    asked: &[(Uuid, i64)],
) -> Result<HashMap<(Uuid, i64), Vec<Overage>>, sqlx::Error> {
    let mut by_second = BTreeMap::<i64, Vec<Uuid>>::new();
    for (organization_id, second) in asked {
        by_second.entry(*second).or_default().push(*organization_id);
    }
    let mut found = HashMap::new();
    for (second, organizations) in by_second {
        let now =
            Timestamp::from_second(second).map_err(|error| sqlx::Error::Decode(error.into()))?;
        for overage in reports::overages(conn, catalogue, &organizations, now).await? {
            let key = (overage.organization_id, second);
            found.entry(key).or_insert_with(Vec::new).push(overage);
        }
    }
    Ok(found)
}

/// What the subscription's usage so far costs, for each metric that is over its
/// quota and has a price, at `now`: the customer's time. Usage of a trial, and an
/// amount of nothing, are not charged.
pub async fn due(
    lookup: &OverageLookup,
    organization_id: Uuid,
    subscription_id: &str,
    now: Timestamp,
) -> Result<Vec<UsageCharge>, Arc<sqlx::Error>> {
    let overages = lookup.find((organization_id, now.as_second())).await?;
    Ok(charged(overages.unwrap_or_default(), subscription_id))
}

/// What the subscription's part of `overages` costs.
pub fn charged(overages: Vec<Overage>, subscription_id: &str) -> Vec<UsageCharge> {
    let mine = overages
        .into_iter()
        .filter(|overage| overage.stripe_subscription_id == subscription_id);
    let charges = mine.filter_map(|overage| {
        let amount = usage::overage_amount(overage.units, overage.rate, &overage.currency)?;
        (amount > 0).then_some(UsageCharge {
            metric: overage.metric,
            period_start: overage.period_start,
            stripe_price_id: overage.stripe_price_id,
            units: overage.units,
            rate: overage.rate.normalize(),
            amount,
            currency: overage.currency,
        })
    });
    charges.collect()
}

/// The charges that Stripe does not take: nobody pays that usage.
pub async fn refused(conn: &mut PgConnection) -> Result<Vec<Unbilled>, sqlx::Error> {
    let refused = store::refused(conn).await?.into_iter();
    Ok(refused
        .map(|charge| Unbilled {
            organization_id: charge.organization_id,
            metric: charge.metric,
            period_start: charge.period_start,
            period_end: charge.changed_at,
            units: Number(charge.units),
            reason: Reason::ChargeRefused,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(units: i64, amount: i64) -> UsageCharge {
        UsageCharge {
            metric: "api_calls".to_owned(),
            period_start: "2026-11-01T00:00:00Z".parse().unwrap(),
            stripe_price_id: "price_1".to_owned(),
            units: units.into(),
            rate: "0.001".parse().unwrap(),
            amount,
            currency: "usd".to_owned(),
        }
    }

    #[test]
    fn what_was_shown_holds_while_usage_grows_at_the_same_price() {
        let shown = charge(100_000, 10_000);
        assert!(shown.still_holds(&charge(100_000, 10_000)));
        assert!(shown.still_holds(&charge(250_000, 25_000)));
        // An operator raised the quota meanwhile.
        assert!(!shown.still_holds(&charge(50_000, 5_000)));
        let other_price = UsageCharge {
            stripe_price_id: "price_2".to_owned(),
            ..charge(100_000, 10_000)
        };
        assert!(!shown.still_holds(&other_price));
    }
}
