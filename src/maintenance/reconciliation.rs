//! `subscriptions reconcile`: the daily comparison with Stripe.

use jiff::Timestamp;

use super::Run;
use crate::subscriptions::{Failure, Healing, Reconciliation, Subscriptions};

pub const JOB: &str = "reconciliation";

/// Compares everything. The run counts as failed if something could not be compared;
/// differences are no failure. What was found until the end is returned in any case.
pub async fn run(
    run: &Run<'_>,
    subscriptions: &Subscriptions,
    healing: Healing,
    since: Timestamp,
) -> Result<(Reconciliation, Result<(), Failure>), sqlx::Error> {
    let work = async { Ok::<_, sqlx::Error>(subscriptions.reconcile(healing, since).await) };
    let (found, ended) = run
        .counted(work, |(found, _): &(Reconciliation, _)| found.is_whole())
        .await?;
    tracing::info!(
        compared = found.compared,
        drift = found.drift.len(),
        healed = found.healed(),
        complete = found.complete,
        "Subscription reconciliation completed"
    );
    Ok((found, ended))
}
