//! Installing the recorder of metrics, with the label values that features define.

use metrics_exporter_prometheus::PrometheusHandle;

use crate::catalogue::Catalogue;
use crate::console;
use crate::explain;
use crate::features;
use crate::mail;
use crate::maintenance::retention;
use crate::metering::{charges, grace, ledger, quotas, reports};
use crate::outbox;
use crate::portal;
use crate::projection;
use crate::reporting;
use crate::server::budget::{Class, Doing, Shortage};
use crate::subscriptions::{self, DriftKind, Findings};
use crate::telemetry::metrics::{self, Labels};
use crate::tenancy::{auth, organizations};
use crate::timeline;
use crate::webhooks;

/// Starts to record for `serve`, which found `missing` connections missing.
pub fn of_service(catalogue: &Catalogue, missing: u32) -> PrometheusHandle {
    let recorder = install(
        projection::audit_actions()
            .chain(webhooks::audit_actions())
            .chain(organizations::audit_actions())
            .chain(subscriptions::audit_actions())
            .chain(quotas::audit_actions())
            .chain(grace::audit_actions())
            .chain(charges::audit_actions())
            .chain(ledger::audit_actions())
            .chain(features::audit_actions())
            .chain(explain::audit_actions())
            .chain(outbox::audit_actions())
            .chain(mail::audit_actions())
            .chain(console::audit_actions())
            .chain(portal::audit_actions())
            .chain(auth::audit_actions())
            .chain(timeline::audit_actions())
            .chain(reporting::audit_actions()),
    );
    metrics::of_service(
        catalogue.metrics().keys().map(String::as_str),
        catalogue.features().keys().map(String::as_str),
    );
    metrics::connections_missing(missing);
    recorder
}

/// Starts to record, with every known series at zero, and returns the handle that
/// the metrics are read from. `audit_actions` are those of this process.
pub fn install(audit_actions: impl IntoIterator<Item = &'static str>) -> PrometheusHandle {
    let findings = Findings::default().counts();
    let recorder = metrics::install(&Labels {
        audit_actions: audit_actions.into_iter().collect(),
        drift_kinds: DriftKind::ALL.map(DriftKind::as_str).to_vec(),
        findings: findings.map(|(kind, _)| kind).to_vec(),
        rejection_codes: reports::REJECTION_CODES
            .into_iter()
            .chain([reports::OTHER_REJECTION])
            .collect(),
        unbilled_reasons: reports::Reason::ALL.map(reports::Reason::as_str).to_vec(),
        connection_activities: Doing::ALL.map(Doing::as_str).to_vec(),
        body_classes: Class::ALL.map(Class::as_str).to_vec(),
        body_shortages: [Shortage::Own, Shortage::All]
            .map(Shortage::as_str)
            .to_vec(),
        heads_shortage: Shortage::All.as_str(),
    });
    retention::start_metrics();
    recorder
}
