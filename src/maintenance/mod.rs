//! Jobs that run beside the service, and the record of their runs.
//!
//! What a job does belongs to the feature; here is when, how often, and what it
//! counted.

pub mod audit_verification;
pub mod backfill;
pub mod backup;
pub mod grace_cleanup;
mod push;
pub mod reconciliation;
pub mod retention;
mod runs;
pub mod stripe_import;
pub mod usage_report;
pub mod webhook_retry;

use std::future::Future;

use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::postgres::PgPool;

pub use push::{PushGateway, PushUrlError};
pub use runs::{LastRun, Retried, last_runs, retried_today, since_success_secs};

use crate::subscriptions::DriftKind;
use crate::telemetry::metrics;
use runs::Counters;

/// The jobs that a deployment schedules.
pub const SCHEDULED: [&str; 7] = [
    webhook_retry::JOB,
    grace_cleanup::JOB,
    usage_report::JOB,
    backup::JOB,
    retention::JOB,
    reconciliation::JOB,
    audit_verification::JOB,
];

/// Measures when each scheduled job last succeeded, whether it fails, and which
/// differences from Stripe the newest reconciliation left.
pub async fn measure(pool: &PgPool) -> Result<(), sqlx::Error> {
    let runs = last_runs(pool, &SCHEDULED).await?;
    for job in SCHEDULED {
        let run = runs.iter().find(|run| run.job == job);
        let succeeded_at = run.and_then(|run| run.success_secs).unwrap_or(0);
        metrics::scheduled_job(
            job,
            succeeded_at,
            run.is_some_and(|run| !run.last_succeeded),
        );
    }
    let counted = runs::newest_counters(pool, reconciliation::JOB).await?;
    for kind in DriftKind::ALL {
        metrics::drift_left(kind.as_str(), &counted);
    }
    Ok(())
}

/// The differences from Stripe that the newest reconciliation left, by kind.
pub async fn drift_left(pool: &PgPool) -> Result<Vec<(&'static str, u64)>, sqlx::Error> {
    let counted = runs::newest_counters(pool, reconciliation::JOB).await?;
    let kinds = DriftKind::ALL.map(DriftKind::as_str).into_iter();
    let left = kinds.map(|kind| (kind, metrics::drift_in(kind, &counted)));
    Ok(left.filter(|(_, left)| *left > 0).collect())
}

/// Enters a run within the service, whose counters its metrics have.
pub async fn record_run(
    pool: &PgPool,
    job: &str,
    started_at: Timestamp,
    succeeded: bool,
) -> Result<(), sqlx::Error> {
    runs::record(pool, job, started_at, succeeded, &Counters::new()).await
}

/// One run of a job. Its counters outlive the process: in the database, and at the
/// Pushgateway if there is one.
pub struct Run<'a> {
    pub job: &'static str,
    pub pool: &'a PgPool,
    pub metrics: &'a PrometheusHandle,
    pub gateway: Option<&'a PushGateway>,
}

impl Run<'_> {
    /// Does `work`, records the run, and pushes the totals of all runs. A run whose
    /// result is not `whole` counts as failed.
    pub async fn counted<T, E: From<sqlx::Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
        whole: impl FnOnce(&T) -> bool,
    ) -> Result<T, E> {
        let started_at = Timestamp::now();
        // A series must exist before it grows, or Prometheus misses the first
        // increase.
        let zeros = metrics::counters(&self.metrics.render());
        let before = self.totals().await?;
        self.push(&sum(&before, &zeros), None).await;

        let worked = work.await;
        let counted = metrics::counters(&self.metrics.render());
        let succeeded = worked.as_ref().is_ok_and(whole);
        runs::record(self.pool, self.job, started_at, succeeded, &counted).await?;
        // Read again, so as not to take back what another run counted meanwhile.
        let after = sum(&self.totals().await?, &zeros);
        self.push(&after, succeeded.then(Timestamp::now)).await;
        worked
    }

    /// The totals of all runs, without gauges: older versions of the program took
    /// gauges that end in `_total` for counters.
    async fn totals(&self) -> Result<Counters, sqlx::Error> {
        let rendered = self.metrics.render();
        let gauges = metrics::gauges(&rendered);
        let mut totals = runs::totals(self.pool, self.job).await?;
        totals.retain(|series, _| !gauges.contains(metrics::name_of(series)));
        Ok(totals)
    }

    /// An unreachable gateway does not fail the job.
    async fn push(&self, totals: &Counters, succeeded_at: Option<Timestamp>) {
        let Some(gateway) = self.gateway else { return };
        if let Err(error) = gateway.push(self.job, totals, succeeded_at).await {
            tracing::warn!(%error, "the job's metrics could not be pushed");
        }
    }
}

fn sum(before: &Counters, counted: &Counters) -> Counters {
    let mut sum = before.clone();
    for (series, count) in counted {
        *sum.entry(series.clone()).or_default() += count;
    }
    sum
}
