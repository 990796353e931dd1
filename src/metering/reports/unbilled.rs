//! Usage that is billed by nothing, or not as it was used.

use jiff::Timestamp;
use sqlx::postgres::PgPool;

use super::due::{self, Reason, Unbilled};
use super::{Report, invoiced, store};
use crate::catalogue::Catalogue;
use crate::db::WorkerTx;
use crate::metering::charges;
use crate::telemetry::metrics;

/// Finds unbilled usage in the periods for which Stripe still accepts usage.
pub async fn unbilled(
    pool: &PgPool,
    catalogue: &Catalogue,
    now: Timestamp,
) -> Result<Vec<Unbilled>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let open = store::open(tx.conn(), catalogue, now, None).await?;
    let refused = charges::refused(tx.conn()).await?;
    let invoiced = invoiced::find(tx.conn(), catalogue, now).await?;
    tx.commit().await?;
    let unbilled = open.iter().filter_map(|total| due::unbilled(total, now));
    Ok(unbilled.chain(refused).chain(invoiced).collect())
}

/// Counts and logs the unbilled usage of a run. Usage of deleted customers was
/// logged when Stripe refused it, and is counted in that run only.
pub(super) fn warn(report: &Report) {
    for found in &report.unbilled {
        let deleted = found.reason == Reason::CustomerDeleted;
        if deleted && report.refused == 0 {
            continue;
        }
        metrics::usage_unbilled(found.reason.as_str());
        if deleted {
            continue;
        }
        tracing::warn!(
            organization_id = %found.organization_id,
            metric = found.metric,
            period_start = %found.period_start,
            units = %found.units.0,
            reason = found.reason.as_str(),
            "Usage is not billed as it was used"
        );
    }
}
