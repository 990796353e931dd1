//! Decides how many units of a total to report to Stripe, and finds usage that
//! nothing bills. Pure: no database, no clock, no Stripe.

use billing_domain::quantity::whole_units;
use billing_domain::quota::OverLimit;
use billing_domain::usage_period::FINALIZED;
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::store::{Billed, OpenTotal, ReportEntry};
use crate::catalogue::{Aggregation, meter_event_name};
use crate::server::number::Number;

/// Stripe accepts usage from the last 35 days. The hour allows for a difference
/// between its clock and ours.
pub const OLDEST: SignedDuration = SignedDuration::from_hours(35 * 24 - 1);

/// The units to report so that Stripe bills exactly the overage our API shows.
/// They may differ from what was used: Stripe's price includes the plan's quota,
/// and an operator may have set another one.
pub fn billed_units(total: &OpenTotal, included: Decimal) -> Decimal {
    // A quota set after the invoice no longer changes it.
    if total.overridden_at.is_some_and(|at| at >= closes_at(total)) {
        return total.reported;
    }
    // What a change of plan charged is not reported at the new price again.
    let left = (total.total - total.adjustment).max(Decimal::ZERO);
    let whole = whole_units(left);
    match (total.quota, total.over_limit) {
        (Some(quota), Some(OverLimit::Overage)) if quota == included => whole,
        (Some(quota), Some(OverLimit::Overage)) if left > quota => {
            let over = whole_units(left - quota);
            if over.is_zero() {
                whole.min(included)
            } else {
                included + over
            }
        }
        // No overage is billed.
        _ => whole.min(included),
    }
}

/// The time from which no invoice includes what is reported for the period.
fn closes_at(total: &OpenTotal) -> Timestamp {
    let planned = total.period_end.saturating_add(FINALIZED);
    total.closed_at.unwrap_or(planned.unwrap_or(Timestamp::MAX))
}

/// The next report for a total; `None` if Stripe is up to date.
pub fn to_report(
    aggregation: Aggregation,
    total: &OpenTotal,
    billed: &Billed,
    now: Timestamp,
) -> Option<ReportEntry> {
    let target = billed_units(total, billed.included);
    if total.waits || target == total.reported {
        return None;
    }
    // Negative if an override lowered the target after a report; Stripe subtracts.
    let units = match aggregation {
        Aggregation::Last => target,
        Aggregation::Sum | Aggregation::Max => target - total.reported,
    };
    // Usage of an ended period is dated to its last second.
    let last = total.period_end - SignedDuration::from_secs(1);
    let at = now.min(last).max(total.period_start);
    let is_late = now >= closes_at(total);
    (at >= now - OLDEST).then(|| ReportEntry {
        event_name: meter_event_name(&total.metric),
        units,
        reported: target,
        late: if is_late {
            target - total.reported
        } else {
            Decimal::ZERO
        },
        at,
        ahead: false,
    })
}

/// The identifier by which Stripe deduplicates a report: unique for each
/// metric, period and state of the total; at most 100 characters.
pub fn identifier(total: &OpenTotal, entry: &ReportEntry, salt: u32) -> String {
    let state = format!(
        "{}\n{}\n{}\n{}\n{}\n{}\n{salt}",
        total.organization_id,
        total.metric,
        total.period_start.as_microsecond(),
        total.events,
        total.reported.normalize(),
        entry.units.normalize(),
    );
    format!("usage-{}", hex::encode(&Sha256::digest(state)[..20]))
}

/// Why billed usage differs from counted usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is no subscription, or it has no price for the metric.
    NoMeteredItem,
    /// The period was invoiced before the usage was reported.
    ToldTooLate,
    /// The subscription ended without an invoice for its last usage.
    EndedWithoutInvoice,
    /// The period was invoiced before a correction was reported: units were
    /// billed that do not count as used.
    BilledTooMuch,
    /// The customer was deleted in Stripe before the usage was reported.
    CustomerDeleted,
    /// Stripe refused to charge what a change of prices left.
    ChargeRefused,
    /// Stripe rejected the usage after it had accepted it.
    Rejected,
    /// Stripe's invoice has less usage than Stripe was told of before.
    InvoicedLess,
    /// Stripe's invoice has more usage than Stripe was told of.
    InvoicedMore,
}

impl Reason {
    pub const ALL: [Self; 9] = [
        Self::NoMeteredItem,
        Self::ToldTooLate,
        Self::EndedWithoutInvoice,
        Self::BilledTooMuch,
        Self::CustomerDeleted,
        Self::ChargeRefused,
        Self::Rejected,
        Self::InvoicedLess,
        Self::InvoicedMore,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoMeteredItem => "no_metered_item",
            Self::ToldTooLate => "told_too_late",
            Self::EndedWithoutInvoice => "ended_without_invoice",
            Self::BilledTooMuch => "billed_too_much",
            Self::CustomerDeleted => "customer_deleted",
            Self::ChargeRefused => "charge_refused",
            Self::Rejected => "rejected",
            Self::InvoicedLess => "invoiced_less",
            Self::InvoicedMore => "invoiced_more",
        }
    }
}

/// Usage over a quota that should have been billed and was not, or that was
/// billed and not used.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unbilled {
    pub organization_id: Uuid,
    pub metric: String,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    /// Whole units over the quota.
    pub units: Number,
    pub reason: Reason,
}

/// The units are left out: they grow while it is the same finding.
impl std::fmt::Display for Unbilled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (organization, metric) = (self.organization_id, &self.metric);
        let (since, reason) = (self.period_start, self.reason.as_str());
        write!(f, "{organization}: {metric} since {since}, {reason}")
    }
}

/// Finds the part of a total that is billed wrongly or not at all.
pub fn unbilled(total: &OpenTotal, now: Timestamp) -> Option<Unbilled> {
    let (units, reason) = match &total.billed {
        None => {
            let billable = total.rate.is_some() && total.over_limit == Some(OverLimit::Overage);
            let quota = total.quota.filter(|_| billable)?;
            let over = total.total - total.adjustment - quota;
            (whole_units(over), Reason::NoMeteredItem)
        }
        Some(billed) if billed.on_trial => return None,
        Some(billed) => {
            let target = billed_units(total, billed.included);
            let over = |units: Decimal| (units - billed.included).max(Decimal::ZERO);
            let refused = Some(Reason::CustomerDeleted).filter(|_| total.customer_deleted);
            let refused = refused.or(Some(Reason::Rejected).filter(|_| total.rejected));
            if billed.never_invoiced {
                let reason = refused.unwrap_or(Reason::EndedWithoutInvoice);
                return finding(total, over(target), reason);
            }
            let pending = if now >= closes_at(total) {
                target - total.reported
            } else {
                Decimal::ZERO
            };
            let in_time = target - total.reported_late - total.refused - pending;
            match over(target) - over(in_time) {
                less if less < Decimal::ZERO => (-less, Reason::BilledTooMuch),
                units => (units, refused.unwrap_or(Reason::ToldTooLate)),
            }
        }
    };
    finding(total, units, reason)
}

fn finding(total: &OpenTotal, units: Decimal, reason: Reason) -> Option<Unbilled> {
    (units > Decimal::ZERO).then(|| Unbilled {
        organization_id: total.organization_id,
        metric: total.metric.clone(),
        period_start: total.period_start,
        period_end: total.period_end,
        units: Number(units),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(total: &str, quota: Option<i64>, over_limit: OverLimit) -> OpenTotal {
        OpenTotal {
            organization_id: Uuid::nil(),
            metric: "api_calls".to_owned(),
            period_start: "2026-11-01T00:00:00Z".parse().unwrap(),
            period_end: "2026-12-01T00:00:00Z".parse().unwrap(),
            closed_at: None,
            total: total.parse().unwrap(),
            waits: false,
            events: 1,
            reported: Decimal::ZERO,
            reported_late: Decimal::ZERO,
            refused: Decimal::ZERO,
            customer_deleted: false,
            rejected: false,
            quota: quota.map(Decimal::from),
            over_limit: Some(over_limit),
            overridden_at: None,
            adjustment: Decimal::ZERO,
            rate: Some("0.10".parse().unwrap()),
            currency: Some("usd".to_owned()),
            billed: Some(Billed {
                stripe_customer_id: "cus_1".to_owned(),
                stripe_subscription_id: "sub_1".to_owned(),
                stripe_price_id: Some("price_1".to_owned()),
                included: 100.into(),
                on_trial: false,
                never_invoiced: false,
            }),
        }
    }

    #[test]
    fn stripe_bills_what_is_over_the_quota_in_force() {
        let billed = |total, quota, kind| {
            let units = billed_units(&open(total, quota, kind), 100.into());
            (units - Decimal::from(100)).max(Decimal::ZERO)
        };
        for (total, quota, kind, over) in [
            ("90", Some(100), OverLimit::Overage, 0),
            ("150.9", Some(100), OverLimit::Overage, 50),
            ("150", Some(200), OverLimit::Overage, 0),
            ("250", Some(200), OverLimit::Overage, 50),
            ("90", Some(50), OverLimit::Overage, 40),
            ("50.5", Some(50), OverLimit::Overage, 0),
            ("1000", None, OverLimit::Overage, 0),
            ("1000", Some(100), OverLimit::Hard, 0),
            ("1000", Some(100), OverLimit::Grace, 0),
        ] {
            assert_eq!(
                billed(total, quota, kind),
                Decimal::from(over),
                "{total} {quota:?}"
            );
        }
    }

    #[test]
    fn an_override_takes_back_what_was_already_reported() {
        let mut total = open("500", Some(100), OverLimit::Overage);
        let billed = total.billed.clone().unwrap();
        let now: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let first = to_report(Aggregation::Sum, &total, &billed, now).unwrap();
        assert_eq!((first.units, first.late), (500.into(), 0.into()));
        total.reported = first.reported;
        assert!(to_report(Aggregation::Sum, &total, &billed, now).is_none());
        total.quota = None;
        let second = to_report(Aggregation::Sum, &total, &billed, now).unwrap();
        assert_eq!((second.units, second.reported), ((-400).into(), 100.into()));
        // Not after the period was invoiced.
        total.overridden_at = Some("2026-12-01T01:00:00Z".parse().unwrap());
        assert!(to_report(Aggregation::Sum, &total, &billed, now).is_none());
    }

    #[test]
    fn usage_reported_after_the_invoice_is_unbilled() {
        let mut total = open("500", Some(100), OverLimit::Overage);
        let billed = total.billed.clone().unwrap();
        total.reported = 200.into();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(unbilled(&total, at("2026-12-01T00:59:59Z")).is_none());
        let late = at("2026-12-01T01:00:00Z");
        let found = unbilled(&total, late).unwrap();
        assert_eq!(
            (found.units.0, found.reason),
            (300.into(), Reason::ToldTooLate)
        );
        let entry = to_report(Aggregation::Sum, &total, &billed, late).unwrap();
        assert_eq!((entry.units, entry.late), (300.into(), 300.into()));
        assert_eq!(entry.at, at("2026-11-30T23:59:59Z"));
        // Reporting it late does not change that.
        total.reported = entry.reported;
        total.reported_late = entry.late;
        assert_eq!(unbilled(&total, late).unwrap().units.0, 300.into());
        // Less was used than Stripe knew when it invoiced.
        (total.reported, total.reported_late) = (500.into(), 0.into());
        total.total = 300.into();
        let found = unbilled(&total, late).unwrap();
        assert_eq!(
            (found.units.0, found.reason),
            (200.into(), Reason::BilledTooMuch)
        );
        let entry = to_report(Aggregation::Last, &total, &billed, late).unwrap();
        (total.reported, total.reported_late) = (entry.reported, entry.late);
        assert_eq!(unbilled(&total, late).unwrap().units.0, 200.into());
        // Nothing is lost within what the price includes.
        total.total = 90.into();
        (total.reported, total.reported_late) = (50.into(), 0.into());
        assert!(unbilled(&total, late).is_none());
    }

    #[test]
    fn identifiers_differ_by_metric_period_and_state() {
        let now = "2026-11-20T00:00:00Z".parse().unwrap();
        let name = |total: &OpenTotal| {
            let entry =
                to_report(Aggregation::Sum, total, total.billed.as_ref().unwrap(), now).unwrap();
            identifier(total, &entry, 0)
        };
        let first = open("500", Some(100), OverLimit::Overage);
        let prefix = "m".repeat(60);
        let mut others = vec![first.clone(); 5];
        others[0].metric = format!("{prefix}a");
        others[1].metric = format!("{prefix}b");
        others[2].period_start = "2026-11-01T00:00:01Z".parse().unwrap();
        others[3].events = 2;
        others[4].reported = 100.into();
        let mut names: Vec<String> = others.iter().map(name).collect();
        names.push(name(&first));
        assert!(names.iter().all(|name| name.len() <= 100));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 6);
    }
}
