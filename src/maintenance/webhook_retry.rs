//! `webhooks retry`: the five-minute job. It processes due events beside `serve`;
//! leases keep both from processing the same event.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;

use super::Run;
use super::push::PushGateway;
use crate::db::{self, WorkerTx};
use crate::webhooks::worker::{Processor, Tally};
use crate::webhooks::{self, leases};

pub const JOB: &str = "webhook-retry";

/// A run ends before the next one starts, and leaves the rest to it.
const TIME_LIMIT: Duration = Duration::from_secs(240);

/// Processes due events until none is left or the time limit is reached.
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
        // Failed events are retried and counted separately.
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

/// With `all`, events that wait for their next attempt are due now.
async fn work(processor: &Processor, all: bool) -> Result<Tally, sqlx::Error> {
    match processor.bring_back().await {
        Err(error) if db::is_outage(&error) => return Err(error),
        // It is logged, and keeps nothing that is due from being processed.
        _ => {}
    }
    let mut tx = WorkerTx::begin(&processor.pool).await?;
    if all {
        leases::make_due(tx.conn()).await?;
        tx.commit().await?;
        tx = WorkerTx::begin(&processor.pool).await?;
    }
    let (due, now) = webhooks::count_due(tx.conn()).await?;
    tx.commit().await?;
    tracing::info!("Processing {due} webhook retries");

    // Two in parallel: while the database works for one, the other decodes events.
    let deadline = Instant::now() + TIME_LIMIT;
    let (mut tally, other) = tokio::try_join!(
        drain(processor, now, deadline),
        drain(processor, now, deadline)
    )?;
    tally += other;
    if tally.set_aside > 0 {
        tracing::warn!(
            events = tally.set_aside,
            "another transaction holds the organizations of these events; the next run will process them"
        );
    }
    Ok(tally)
}

/// Processes events that were due at `due_by`. Events that fail now are left to the next
/// run or to `serve`.
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
