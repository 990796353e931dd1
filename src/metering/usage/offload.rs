//! Large bodies are read, and large answers written, away from the thread that
//! takes Stripe's deliveries: one organization's at a time, in turn.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::limits;
use crate::server::budget::organizations::Turnstile;
use crate::server::problem::Problem;

/// What is no longer than this is read where it arrives.
pub const LARGE_BYTES: usize = 16 * 1024;
/// At once, on threads of their own: the other cores have more to do.
const THREADS: usize = 2;
/// What one organization may have under way bounds those that wait long before.
const ONE_AT_A_TIME: limits::OfOrganization = limits::OfOrganization {
    units: 1,
    waiting: 4_096,
};
/// Requests are given up after less.
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
    /// Does it on another thread, in the organization's turn.
    pub async fn run<T: Send + 'static>(
        &self,
        organization_id: Uuid,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = self.turns.enter(organization_id, 1, PATIENCE).await;
        let turn = turn.map_err(|_| Problem::internal())?;
        let thread = self.threads.clone().acquire_owned().await;
        let thread = thread.map_err(|_| Problem::internal())?;
        // They are held as long as it takes, also when nobody waits any more.
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop((thread, turn));
            done
        });
        done.await.map_err(|error| {
            tracing::error!(%error, "a batch of usage events could not be read");
            Problem::internal()
        })
    }
}
