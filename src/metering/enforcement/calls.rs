//! What all forwarded calls share.

use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::call_budget::CallBudget;
use super::reservation::OpenReservations;
use crate::telemetry::metrics::background::Runs;

/// The calls in progress. When the service stops they run to their end, and
/// each settles its reservation.
#[derive(Clone)]
pub struct Calls {
    pub(super) client: reqwest::Client,
    pub(super) budget: CallBudget,
    pub(super) reservations: OpenReservations,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Calls {
    /// `client` sends the calls to their upstreams.
    pub fn new(client: reqwest::Client, stop: CancellationToken) -> Self {
        Self {
            client,
            budget: CallBudget::default(),
            reservations: OpenReservations::new(stop.clone()),
            tasks: TaskTracker::new(),
            stop,
        }
    }

    /// Renews the calls' reservations until the service stops, then waits for
    /// the calls to end.
    pub async fn keep(self, pool: PgPool, runs: Runs) {
        self.reservations.clone().keep_renewed(pool, runs).await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}
