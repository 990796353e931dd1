//! `webhooks retry`: the five-minute job. It processes what is due, beside
//! whatever `serve` does: leases keep them from the same event.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;

use super::push::PushGateway;
use super::runs::{self, Counters};
use crate::db::WorkerTx;
use crate::inbox;
use crate::inbox::worker::{Processor, Tally};
use crate::metrics;

pub const JOB: &str = "webhook-retry";

/// A run ends before the next one is due, and leaves the rest to it.
const TIME_LIMIT: Duration = Duration::from_secs(240);

/// Processes due events until none is left, or time is up.
pub async fn run(
    processor: &Processor,
    metrics: &PrometheusHandle,
    gateway: Option<&PushGateway>,
) -> Result<Tally, sqlx::Error> {
    tracing::info!("Starting webhook retry job");
    let started_at = Timestamp::now();
    // A series must be there before it grows, or its first growth is not seen.
    let zeros = metrics::counters(&metrics.render());
    let before = runs::totals(&processor.pool, JOB).await?;
    push(gateway, &sum(&before, &zeros), None).await;

    let worked = work(processor)
        .await
        .inspect_err(|error| tracing::error!(%error, "Webhook retry job failed"));
    let counted = metrics::counters(&metrics.render());
    let succeeded = worked.is_ok();
    runs::record(&processor.pool, JOB, started_at, succeeded, &counted).await?;
    // Asked again: what another run counted meanwhile must not be taken back.
    let after = runs::totals(&processor.pool, JOB).await?;
    push(gateway, &after, succeeded.then(Timestamp::now)).await;

    let tally = worked?;
    tracing::info!(
        processed = tally.processed,
        succeeded = tally.succeeded,
        failed = tally.failed,
        "Webhook retry job completed"
    );
    Ok(tally)
}

async fn work(processor: &Processor) -> Result<Tally, sqlx::Error> {
    let mut tx = WorkerTx::begin(&processor.pool).await?;
    let (due, now) = inbox::count_due(tx.conn()).await?;
    tx.commit().await?;
    tracing::info!("Processing {due} webhook retries");

    // Two at once: while the database works for one, the other reads events.
    let deadline = Instant::now() + TIME_LIMIT;
    let (mut tally, other) = tokio::try_join!(
        drain(processor, now, deadline),
        drain(processor, now, deadline)
    )?;
    tally += other;
    Ok(tally)
}

/// Processes what was due at `due_by`: what fails now is the next run's, or
/// serve's; once is enough for a run.
async fn drain(
    processor: &Processor,
    due_by: Timestamp,
    deadline: Instant,
) -> Result<Tally, sqlx::Error> {
    let mut tally = Tally::default();
    while Instant::now() < deadline {
        let batch = processor.process_due(Some(due_by)).await?;
        if batch.processed == 0 {
            break;
        }
        tally += batch;
    }
    Ok(tally)
}

fn sum(before: &Counters, counted: &Counters) -> Counters {
    let mut sum = before.clone();
    for (series, count) in counted {
        *sum.entry(series.clone()).or_default() += count;
    }
    sum
}

/// A gateway that is away costs its metrics, not the job.
async fn push(gateway: Option<&PushGateway>, totals: &Counters, succeeded_at: Option<Timestamp>) {
    let Some(gateway) = gateway else { return };
    if let Err(error) = gateway.push(JOB, totals, succeeded_at).await {
        tracing::warn!(%error, "the job's metrics could not be pushed");
    }
}
