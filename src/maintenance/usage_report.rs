//! `usage report`: the ten-minute job.

use jiff::Timestamp;

use super::Run;
use crate::catalogue::Catalogue;
use crate::metering::reports::{self, Report, ReportError};
use crate::stripe::client::Client;

pub const JOB: &str = "usage-report";

/// Reports usage to Stripe's meters. Calls `progress` after each meter event.
pub async fn run(
    run: &Run<'_>,
    client: &Client,
    catalogue: &Catalogue,
    progress: impl Fn(usize, usize),
) -> Result<Report, ReportError> {
    let now = Timestamp::now();
    let report = run
        .counted(
            reports::report(run.pool, client, catalogue, now, progress),
            Report::is_complete,
        )
        .await?;
    tracing::info!(
        sent = report.sent,
        failed = report.failed,
        doubtful = report.doubtful,
        refused = report.refused,
        charged = report.charged,
        unbilled = report.unbilled.len(),
        "Usage report completed"
    );
    Ok(report)
}
