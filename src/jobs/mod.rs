//! Scheduled jobs: processes that run for a while and end.

pub mod backfill;
pub mod backup;
pub mod grace_cleanup;
mod push;
mod runs;
pub mod usage_report;
pub mod webhook_retry;

use std::future::Future;

use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::postgres::PgPool;

pub use push::{PushGateway, PushUrlError};
pub use runs::{LastRun, Retried, last_runs, retried_today, since_success_secs};

use crate::metrics;
use runs::Counters;

/// One run of a job, whose counters outlive it: in the database, and at the
/// gateway if there is one.
pub struct Run<'a> {
    pub job: &'static str,
    pub pool: &'a PgPool,
    pub metrics: &'a PrometheusHandle,
    pub gateway: Option<&'a PushGateway>,
}

impl Run<'_> {
    /// Does `work`, enters the run, and pushes what all runs counted.
    pub async fn counted<T, E: From<sqlx::Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let started_at = Timestamp::now();
        // A series must be there before it grows, or its first growth is not seen.
        let zeros = metrics::counters(&self.metrics.render());
        let before = runs::totals(self.pool, self.job).await?;
        self.push(&sum(&before, &zeros), None).await;

        let worked = work.await;
        let counted = metrics::counters(&self.metrics.render());
        let succeeded = worked.is_ok();
        runs::record(self.pool, self.job, started_at, succeeded, &counted).await?;
        // Asked again: what another run counted meanwhile must not be taken back.
        let after = runs::totals(self.pool, self.job).await?;
        self.push(&after, succeeded.then(Timestamp::now)).await;
        worked
    }

    /// A gateway that is away costs its metrics, not the job.
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
