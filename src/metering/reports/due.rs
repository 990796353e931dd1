//! What Stripe is to be told of a total, and what nothing bills: pure.

use billing_domain::quantity::whole_units;
use billing_domain::quota::OverLimit;
use billing_domain::usage_period::FINALIZED;
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::store::{Billed, Entered, Open};
use crate::catalogue::{Aggregation, meter_event_name};
use crate::server::number::Number;

/// Stripe takes usage of the last 35 days; a little less, for its clock.
pub const OLDEST: SignedDuration = SignedDuration::from_hours(35 * 24 - 1);

/// The units of which Stripe is told, so that it bills just what our API shows:
/// its price includes what the plan does, and an operator may have set another
/// quota.
pub fn billed_units(total: &Open, included: Decimal) -> Decimal {
    // A quota that was set after the invoice changes it no more.
    if total.overridden_at.is_some_and(|at| at >= closes_at(total)) {
        return total.reported;
    }
    let whole = whole_units(total.total);
    match (total.quota, total.over_limit) {
        (Some(quota), Some(OverLimit::Overage)) if quota == included => whole,
        (Some(quota), Some(OverLimit::Overage)) if total.total > quota => {
            let over = whole_units(total.total - quota);
            if over.is_zero() {
                whole.min(included)
            } else {
                included + over
            }
        }
        // Nothing of it is billed.
        _ => whole.min(included),
    }
}

/// From when on no invoice takes what is told of it.
fn closes_at(total: &Open) -> Timestamp {
    let planned = total.period_end.saturating_add(FINALIZED);
    total.closed_at.unwrap_or(planned.unwrap_or(Timestamp::MAX))
}

/// What of a total Stripe is to be told; None: nothing new.
pub fn to_report(
    aggregation: Aggregation,
    total: &Open,
    billed: &Billed,
    now: Timestamp,
) -> Option<Entered> {
    let target = billed_units(total, billed.included);
    if total.waits || target == total.reported {
        return None;
    }
    // Less than was told: an override came after it. Stripe takes it back.
    let units = match aggregation {
        Aggregation::Last => target,
        Aggregation::Sum | Aggregation::Max => target - total.reported,
    };
    // Of a period that ended, as its last second's.
    let last = total.period_end - SignedDuration::from_secs(1);
    let at = now.min(last).max(total.period_start);
    let is_late = now >= closes_at(total);
    (at >= now - OLDEST).then(|| Entered {
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

/// The name by which Stripe knows a report: another one for each metric, exact
/// period, and state of its total; at most 100 characters.
pub fn identifier(total: &Open, entered: &Entered, salt: u32) -> String {
    let state = format!(
        "{}\n{}\n{}\n{}\n{}\n{}\n{salt}",
        total.organization_id,
        total.metric,
        total.period_start.as_microsecond(),
        total.events,
        total.reported.normalize(),
        entered.units.normalize(),
    );
    format!("usage-{}", hex::encode(&Sha256::digest(state)[..20]))
}

/// Why usage that was counted is not what is billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The subscription has no price for the metric, or there is none.
    NoMeteredItem,
    /// The invoice of its period was made before Stripe was told.
    ToldTooLate,
    /// The subscription was ended without an invoice of its last usage.
    EndedWithoutInvoice,
    /// The invoice of its period was made before Stripe was told that it is less:
    /// the units were billed, and not used.
    BilledTooMuch,
    /// The customer was deleted in Stripe before it was told.
    CustomerDeleted,
}

impl Reason {
    pub const ALL: [Self; 5] = [
        Self::NoMeteredItem,
        Self::ToldTooLate,
        Self::EndedWithoutInvoice,
        Self::BilledTooMuch,
        Self::CustomerDeleted,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoMeteredItem => "no_metered_item",
            Self::ToldTooLate => "told_too_late",
            Self::EndedWithoutInvoice => "ended_without_invoice",
            Self::BilledTooMuch => "billed_too_much",
            Self::CustomerDeleted => "customer_deleted",
        }
    }
}

/// Usage over a quota that was promised to be billed, and is billed by nothing; or
/// that was billed, and not used.
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

/// What of a total nothing bills.
pub fn unbilled(total: &Open, now: Timestamp) -> Option<Unbilled> {
    let (units, reason) = match &total.billed {
        None => {
            let promised = total.rated && total.over_limit == Some(OverLimit::Overage);
            let quota = total.quota.filter(|_| promised)?;
            (whole_units(total.total - quota), Reason::NoMeteredItem)
        }
        Some(billed) if billed.on_trial => return None,
        Some(billed) => {
            let target = billed_units(total, billed.included);
            let over = |units: Decimal| (units - billed.included).max(Decimal::ZERO);
            let deleted = Some(Reason::CustomerDeleted).filter(|_| total.customer_deleted);
            if billed.never_invoiced {
                let reason = deleted.unwrap_or(Reason::EndedWithoutInvoice);
                return lost(total, over(target), reason);
            }
            let pending = if now >= closes_at(total) {
                target - total.reported
            } else {
                Decimal::ZERO
            };
            let in_time = target - total.reported_late - total.refused - pending;
            match over(target) - over(in_time) {
                less if less < Decimal::ZERO => (-less, Reason::BilledTooMuch),
                units => (units, deleted.unwrap_or(Reason::ToldTooLate)),
            }
        }
    };
    lost(total, units, reason)
}

fn lost(total: &Open, units: Decimal, reason: Reason) -> Option<Unbilled> {
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

    fn open(total: &str, quota: Option<i64>, over_limit: OverLimit) -> Open {
        Open {
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
            quota: quota.map(Decimal::from),
            over_limit: Some(over_limit),
            overridden_at: None,
            rated: true,
            billed: Some(Billed {
                stripe_customer_id: "cus_1".to_owned(),
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
    fn what_was_told_before_an_override_is_taken_back() {
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
        // Not once the invoice is made.
        total.overridden_at = Some("2026-12-01T01:00:00Z".parse().unwrap());
        assert!(to_report(Aggregation::Sum, &total, &billed, now).is_none());
    }

    #[test]
    fn what_is_told_after_the_invoice_is_billed_by_nothing() {
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
        let told = to_report(Aggregation::Sum, &total, &billed, late).unwrap();
        assert_eq!((told.units, told.late), (300.into(), 300.into()));
        assert_eq!(told.at, at("2026-11-30T23:59:59Z"));
        // It stays so when it was told.
        total.reported = told.reported;
        total.reported_late = told.late;
        assert_eq!(unbilled(&total, late).unwrap().units.0, 300.into());
        // Less was used than Stripe knew when it made the invoice.
        (total.reported, total.reported_late) = (500.into(), 0.into());
        total.total = 300.into();
        let found = unbilled(&total, late).unwrap();
        assert_eq!(
            (found.units.0, found.reason),
            (200.into(), Reason::BilledTooMuch)
        );
        let told = to_report(Aggregation::Last, &total, &billed, late).unwrap();
        (total.reported, total.reported_late) = (told.reported, told.late);
        assert_eq!(unbilled(&total, late).unwrap().units.0, 200.into());
        // Within what the price includes, nothing is lost.
        total.total = 90.into();
        (total.reported, total.reported_late) = (50.into(), 0.into());
        assert!(unbilled(&total, late).is_none());
    }

    #[test]
    fn identifiers_differ_by_metric_period_and_state() {
        let now = "2026-11-20T00:00:00Z".parse().unwrap();
        let name = |total: &Open| {
            let entered =
                to_report(Aggregation::Sum, total, total.billed.as_ref().unwrap(), now).unwrap();
            identifier(total, &entered, 0)
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
