//! A difference between our state and Stripe's.

use serde::Serialize;
use uuid::Uuid;

use super::DriftKind;

/// One difference.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    pub kind: DriftKind,
    pub organization_id: Uuid,
    /// The subscription, customer, invoice, payment method or request.
    pub id: String,
    /// The fields that differ, as `field: ours, Stripe's`.
    pub differences: Vec<String>,
    pub healed: bool,
    /// The operator's next step.
    pub fix: &'static str,
}

impl Drift {
    pub(super) fn new(
        kind: DriftKind,
        organization_id: Uuid,
        id: impl Into<String>,
        differences: Vec<String>,
    ) -> Self {
        Self {
            kind,
            organization_id,
            id: id.into(),
            differences,
            healed: false,
            fix: kind.fix(),
        }
    }
}
