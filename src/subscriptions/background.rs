//! The background parts of `serve`: one settles open requests and refreshes stale
//! subscriptions, the other reports findings, for which no key of Stripe's is needed.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Subscriptions;
use super::store::findings::{Findings, findings};
use crate::db::WorkerTx;
use crate::invoices;
use crate::metering::reports;
use crate::migrations::Gate;
use crate::telemetry::metrics;
use crate::telemetry::metrics::background::Runs;

/// Polling interval.
pub const SETTLE_EVERY: Duration = Duration::from_secs(2);
/// Time between checks of all subscriptions.
pub const CHECK_EVERY: Duration = Duration::from_mins(1);
/// Checks between those of all usage, which is reported every ten minutes.
const CHECKS_PER_USAGE: u32 = 10;
/// How long a call to Stripe may continue after the service was told to stop.
const GRACE: Duration = Duration::from_secs(5);

async fn grace_over(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

impl Subscriptions {
    /// Runs until `stop` is cancelled; it does nothing while `schema` lacks migrations.
    pub async fn keep_settled(self, runs: Runs, schema: Arc<Gate>, stop: CancellationToken) {
        let Some(client) = self.stripe.clone() else {
            return stop.cancelled().await;
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SETTLE_EVERY) => {}
            }
            let round = async {
                schema.check(&self.pool).await?;
                if let Err(error) = invoices::fetch_missing(&self.pool, &client).await {
                    tracing::warn!(%error, "Missing invoice lines could not be fetched");
                }
                if let Err(error) = reports::explain_new(&self.pool, &client).await {
                    tracing::warn!(%error, "Rejected usage could not be checked");
                }
                if let Err(error) = self.fetch_coupon_terms(&client).await {
                    tracing::warn!(%error, "The terms of coupons could not be fetched");
                }
                self.settle_all(&client, &stop).await?;
                self.settle_checkouts(&client, &stop).await
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

    /// Checks until `stop` is cancelled.
    pub async fn keep_checked(self, runs: Runs, stop: CancellationToken) {
        let mut checks = 0_u32;
        let mut known = Findings::default();
        loop {
            let with_usage = checks.is_multiple_of(CHECKS_PER_USAGE);
            let checked = tokio::select! {
                checked = self.check_findings(&mut known, with_usage) => checked,
                () = stop.cancelled() => return,
            };
            runs.ended(&checked);
            match checked {
                Ok(()) => checks = checks.wrapping_add(1),
                Err(error) => tracing::warn!(%error, "Subscriptions could not be checked"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(CHECK_EVERY) => {}
            }
        }
    }

    /// Counts the findings and logs those that are not `known`. Unbilled usage stays as
    /// it is known, unless the check is `with_usage`; if that fails, it hides no other.
    async fn check_findings(
        &self,
        known: &mut Findings,
        with_usage: bool,
    ) -> Result<(), sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let mut found = findings(tx.conn(), &self.catalogue).await?;
        tx.rollback().await?;
        let mut outcome = Ok(());
        found.unbilled_usage.clone_from(&known.unbilled_usage);
        if with_usage {
            let now = Timestamp::now();
            match reports::unbilled(&self.pool, &self.catalogue, now).await {
                Ok(unbilled) => {
                    found.unbilled_usage = unbilled.iter().map(ToString::to_string).collect();
                }
                Err(error) => outcome = Err(error),
            }
        }
        found.log_new(known);
        metrics::findings(&found.counts());
        *known = found;
        outcome
    }
}
