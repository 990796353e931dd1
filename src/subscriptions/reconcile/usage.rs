//! Usage that was promised to be billed, and is billed by nothing.

use super::{Drift, DriftKind};
use crate::usage_reports::{Reason, Unbilled};

pub fn drift(unbilled: &Unbilled) -> Drift {
    let units = unbilled.units.0.normalize();
    let reason = match unbilled.reason {
        Reason::NoMeteredItem => "no subscription has a price for it",
        Reason::ToldTooLate => "the invoice of the period was made before Stripe was told",
        Reason::EndedWithoutInvoice => "its subscription ended without a last invoice",
    };
    Drift::new(
        DriftKind::UnbilledUsage,
        unbilled.organization_id,
        format!("{} since {}", unbilled.metric, unbilled.period_start),
        vec![format!(
            "{units} units over the quota: billed, nothing ({reason})"
        )],
    )
}
