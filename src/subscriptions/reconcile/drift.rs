//! Differences, and the result of a reconciliation.

use serde::Serialize;
use uuid::Uuid;

use super::DriftKind;
use crate::stripe::client::StripeError;
use crate::subscriptions::change::recover::stops_round;
use crate::subscriptions::failure::Failure;
use crate::telemetry::metrics;

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

    /// Records the result of healing. A failure is added to the differences and
    /// ends the reconciliation only if nothing else can be healed now.
    pub(super) fn set_healed(&mut self, healed: Result<bool, Failure>) -> Result<(), Failure> {
        match healed {
            Ok(healed) => self.healed = healed,
            Err(failure) if stops_round(&failure) => return Err(failure),
            Err(failure) => {
                tracing::warn!(
                    organization_id = %self.organization_id, kind = self.kind.as_str(), id = self.id,
                    %failure, "A difference could not be healed"
                );
                self.differences.push(format!("not healed: {failure}"));
            }
        }
        Ok(())
    }

    /// Whether `other` is the same difference, though its amounts may have grown.
    fn is(&self, other: &Self) -> bool {
        self.kind == other.kind && self.id == other.id
    }

    /// The names of the fields that differ. Their values may be personal data, which
    /// logs are not to have.
    fn fields(&self) -> String {
        let names = self.differences.iter();
        let names = names.filter_map(|difference| difference.split(':').next());
        Vec::from_iter(names).join(", ")
    }
}

/// The result of a reconciliation.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reconciliation {
    /// Whether everything was compared that Stripe could show.
    pub complete: bool,
    /// The number of Stripe's subscriptions that were compared.
    pub compared: usize,
    /// The number of Stripe's subscriptions that belong to no organization.
    pub foreign: usize,
    pub drift: Vec<Drift>,
}

impl Reconciliation {
    pub fn healed(&self) -> usize {
        self.drift.iter().filter(|drift| drift.healed).count()
    }

    /// Whether Stripe showed every object, and each could be read.
    pub fn is_whole(&self) -> bool {
        let unreadable = |drift: &Drift| drift.kind == DriftKind::Unreadable;
        self.complete && !self.drift.iter().any(unreadable)
    }

    pub(super) fn add(
        &mut self,
        kind: DriftKind,
        owner: Uuid,
        id: impl Into<String>,
        differences: Vec<String>,
    ) {
        let drift = Drift::new(kind, owner, id, differences);
        self.drift.push(drift);
    }

    /// What Stripe shows of an object. An object that Stripe keeps failing for is a
    /// finding, and hides no other.
    pub(super) fn shown<T>(
        &mut self,
        owner: Uuid,
        id: &str,
        shown: Result<T, StripeError>,
    ) -> Result<Option<T>, Failure> {
        match shown.map_err(Failure::Stripe) {
            Ok(shown) => Ok(Some(shown)),
            Err(failure) if stops_round(&failure) => Err(failure),
            Err(failure) => {
                self.add(DriftKind::Unreadable, owner, id, vec![failure.to_string()]);
                Ok(None)
            }
        }
    }

    /// Leaves the differences that `before` has, too.
    pub(super) fn retain_lasting(&mut self, before: &Self) {
        let lasts = |drift: &Drift| before.drift.iter().any(|known| known.is(drift));
        self.drift.retain(lasts);
    }

    /// Sorts, logs and counts the differences.
    pub(super) fn conclude(&mut self) {
        self.drift
            .sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        for drift in &self.drift {
            metrics::drift(drift.kind.as_str(), drift.healed);
            tracing::warn!(
                organization_id = %drift.organization_id, kind = drift.kind.as_str(), id = drift.id,
                fields = drift.fields(), healed = drift.healed, fix = drift.fix,
                "Our state differs from Stripe's"
            );
        }
    }
}
