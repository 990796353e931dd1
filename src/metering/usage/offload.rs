//! Parses large bodies and serializes large responses on blocking threads, so
//! that they do not hold up Stripe's deliveries. Each organization has one at a
//! time; organizations take turns.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::limits;
use crate::server::budget::organizations::Turnstile;
use crate::server::problem::Problem;

/// Bodies up to this size are parsed where they arrive.
pub const LARGE_BYTES: usize = 16 * 1024;
/// Blocking threads used at once; the remaining cores have other work.
const THREADS: usize = 2;
/// The limit on an organization's concurrent requests takes effect long before
/// this queue is full.
const ONE_AT_A_TIME: limits::OfOrganization = limits::OfOrganization {
    units: 1,
    waiting: 4_096,
};
/// Longer than any request's time limit.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Offload {
    turns: Arc<Turnstile>,
    threads: Arc<Semaphore>,
}

impl Default for Offload {
    fn default() -> Self {
        Self {
            turns: Arc::new(Turnstile::new(ONE_AT_A_TIME)),
            threads: Arc::new(Semaphore::new(THREADS)),
        }
    }
}

impl Offload {
    /// Runs `work` on a blocking thread when it is the organization's turn.
    pub async fn run<T: Send + 'static>(
        &self,
        organization_id: Uuid,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = self.turns.enter(organization_id, 1, PATIENCE).await;
        let turn = turn.map_err(|_| Problem::internal())?;
        let thread = self.threads.clone().acquire_owned().await;
        let thread = thread.map_err(|_| Problem::internal())?;
        // The permits are held until the work ends, even if the request is gone.
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop((thread, turn));
            done
        });
        done.await.map_err(|error| {
            tracing::error!(%error, "parsing a batch of usage events panicked");
            Problem::internal()
        })
    }
}
