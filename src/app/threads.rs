//! Event processing, on a thread of its own.

use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::catalogue::Catalogue;
use crate::config::StripeConfig;
use crate::db;
use crate::stripe::client::Client;
use crate::telemetry::metrics::background::Runs;
use crate::webhooks;
use crate::webhooks::backpressure::Backpressure;
use crate::webhooks::worker::Processor;

/// What the processing thread needs.
pub struct Processing {
    pub options: PgConnectOptions,
    pub pool: PgPool,
    pub workers: u32,
    pub catalogue: Catalogue,
    pub stripe: StripeConfig,
    pub client: Option<Client>,
    pub wake: Arc<Notify>,
    pub pressure: Arc<Backpressure>,
    pub stop: CancellationToken,
}

impl Processing {
    /// Processes until `stop`.
    pub async fn run(self, runs: Runs) {
        let processor = Processor::new(self.pool, self.catalogue, &self.stripe, self.client);
        let workers =
            (0..self.workers).map(|_| processor.run(&self.wake, &runs, &self.stop, &self.pressure));
        tokio::join!(
            futures_util::future::join_all(workers),
            processor.keep_due(&self.stop),
            listen(self.options, &self.wake, &self.stop),
        );
    }
}

/// Wakes the waiting workers, and one that is about to wait.
pub fn wake_workers(wake: &Notify) {
    wake.notify_waiters();
    wake.notify_one();
}

/// Wakes the workers when another replica stores an event, until `stop`. Without
/// notifications, they poll.
async fn listen(options: PgConnectOptions, wake: &Notify, stop: &CancellationToken) {
    let pool = db::pool(options.log_statements(tracing::log::LevelFilter::Off), 1);
    let listening = async {
        loop {
            if let Ok(mut listener) = PgListener::connect_with(&pool).await
                && listener.listen(webhooks::CHANNEL).await.is_ok()
            {
                while listener.recv().await.is_ok() {
                    wake_workers(wake);
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = listening => {}
    }
}
