//! Billable usage that is not billed as it was used.

use super::{Drift, DriftKind};
use crate::metering::reports::{Reason, Unbilled};

pub fn drift(unbilled: &Unbilled) -> Drift {
    let units = unbilled.units.0.normalize();
    let difference = match unbilled.reason {
        Reason::NoMeteredItem => {
            "units over the quota: billed, nothing (no subscription has a price for it)"
        }
        Reason::ToldTooLate => {
            "units over the quota: billed, nothing (the invoice of the period was created before \
             the usage was reported to Stripe)"
        }
        Reason::EndedWithoutInvoice => {
            "units over the quota: billed, nothing (its subscription ended without a last invoice)"
        }
        Reason::CustomerDeleted => {
            "units over the quota: billed, nothing (the customer was deleted in Stripe before the \
             usage was reported: bill it in another way or write it off)"
        }
        Reason::ChargeRefused => {
            "units over the quota: billed, nothing (their price was removed in Stripe, which then \
             refused an invoice item for them: bill it in another way or write it off)"
        }
        Reason::Rejected => {
            "units over the quota: billed, nothing (Stripe accepted the usage and rejected it \
             afterwards: `usage rejected` says why)"
        }
        Reason::InvoicedLess => {
            "units over the quota: billed, nothing (Stripe's invoice lacks them, though it was told \
             of them before: it had not counted them yet, or rejected them)"
        }
        Reason::InvoicedMore => {
            "units were billed of which Stripe was not told here (something else sends meter events \
             for the customer, or Stripe had not counted a correction)"
        }
        Reason::BilledTooMuch => {
            "units were billed and not used (the invoice of the period was created before the \
             correction was reported to Stripe)"
        }
    };
    Drift::new(
        DriftKind::UnbilledUsage,
        unbilled.organization_id,
        format!("{} since {}", unbilled.metric, unbilled.period_start),
        vec![format!("{units} {difference}")],
    )
}
