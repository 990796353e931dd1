//! The background part of `serve`: settles open requests, refreshes stale
//! subscriptions, and reports findings.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Subscriptions;
use super::store::findings::{Findings, findings};
use crate::db::WorkerTx;
use crate::invoices;
use crate::telemetry::metrics;
use crate::telemetry::metrics::background::Runs;

/// Polling interval.
pub const SETTLE_EVERY: Duration = Duration::from_secs(2);
/// Polling intervals between checks of all subscriptions.
const ROUNDS_PER_CHECK: u32 = 30;
/// How long a call to Stripe may continue after the service was told to stop.
const GRACE: Duration = Duration::from_secs(5);

async fn grace_over(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

impl Subscriptions {
    /// Runs until `stop` is cancelled.
    pub async fn keep_settled(self, runs: Runs, stop: CancellationToken) {
        let Some(client) = self.stripe.clone() else {
            return stop.cancelled().await;
        };
        let mut rounds = 0_u32;
        let mut known = Findings::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SETTLE_EVERY) => {}
            }
            if rounds.is_multiple_of(ROUNDS_PER_CHECK) {
                match self.check_findings(&known).await {
                    Ok(found) => known = found,
                    Err(error) => tracing::warn!(%error, "Subscriptions could not be checked"),
                }
            }
            rounds = rounds.wrapping_add(1);
            let round = async {
                if let Err(error) = invoices::fetch_missing(&self.pool, &client).await {
                    tracing::warn!(%error, "Missing invoice lines could not be fetched");
                }
                if let Err(error) = self.fetch_coupon_terms(&client).await {
                    tracing::warn!(%error, "The terms of coupons could not be fetched");
                }
                self.settle_all(&client, &stop).await
            };
            let settled = tokio::select! {
                settled = round => settled,
                // Another replica or the next start settles what is cut off here,
                // as after a crash.
                () = grace_over(&stop) => return,
            };
            runs.ended(&settled);
            if let Err(error) = settled {
                tracing::warn!(%error, "Open changes of subscriptions could not be settled");
            }
        }
    }

    /// Counts the findings and logs the new ones.
    async fn check_findings(&self, known: &Findings) -> Result<Findings, sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let found = findings(tx.conn(), &self.catalogue).await?;
        tx.rollback().await?;
        found.log_new(known);
        metrics::findings(&found.counts());
        Ok(found)
    }
}
