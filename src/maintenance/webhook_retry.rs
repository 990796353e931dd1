//! `webhooks retry`: the five-minute job. It processes what is due, beside
//! whatever `serve` does: leases keep them from the same event.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;

use super::Run;
use super::push::PushGateway;
use crate::db::WorkerTx;
use crate::webhooks::worker::{Processor, Tally};
use crate::webhooks::{self, leases};

pub const JOB: &str = "webhook-retry";

/// A run ends before the next one is due, and leaves the rest to it.
const TIME_LIMIT: Duration = Duration::from_secs(240);

/// Processes due events until none is left, or time is up.
pub async fn run(
    processor: &Processor,
    metrics: &PrometheusHandle,
    gateway: Option<&PushGateway>,
    now: bool,
) -> Result<Tally, sqlx::Error> {
    tracing::info!("Starting webhook retry job");
    let run = Run {
        job: JOB,
        pool: &processor.pool,
        metrics,
        gateway,
    };
    let worked = async {
        let worked = work(processor, now).await;
        worked.inspect_err(|error| tracing::error!(%error, "Webhook retry job failed"))
    };
    let tally = run
        // What fails now is tried again, and counted by itself.
        .counted(worked, |_| true)
        .await?;
    tracing::info!(
        processed = tally.processed,
        succeeded = tally.succeeded,
        failed = tally.failed,
        "Webhook retry job completed"
    );
    Ok(tally)
}

/// `all`: what waits for its next attempt is due now.
async fn work(processor: &Processor, all: bool) -> Result<Tally, sqlx::Error> {
    processor.bring_back().await?;
    let mut tx = WorkerTx::begin(&processor.pool).await?;
    if all {
        leases::make_due(tx.conn()).await?;
        tx.commit().await?;
        tx = WorkerTx::begin(&processor.pool).await?;
    }
    let (due, now) = webhooks::count_due(tx.conn()).await?;
    tx.commit().await?;
    tracing::info!("Processing {due} webhook retries");

    // Two at once: while the database works for one, the other reads events.
    let deadline = Instant::now() + TIME_LIMIT;
    let (mut tally, other) = tokio::try_join!(
        drain(processor, now, deadline),
        drain(processor, now, deadline)
    )?;
    tally += other;
    if tally.set_aside > 0 {
        tracing::warn!(
            events = tally.set_aside,
            "another transaction holds the organizations of these events; the next run tries them"
        );
    }
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
        if batch.is_empty() {
            break;
        }
        tally += batch;
    }
    Ok(tally)
}
