//! What runs beside intake, on threads of its own.

use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgListener};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::StripeConfig;
use crate::db;
use crate::inbox;
use crate::inbox::pressure::Pressure;
use crate::inbox::worker::Processor;
use crate::plans::Catalogue;

pub type Thread = std::thread::JoinHandle<()>;

/// Does `work` on a thread of its own.
pub fn thread<F: Future<Output = ()>>(
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> Thread {
    let run = move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("the system can start a runtime")
            .block_on(work());
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .expect("the system can start a thread")
}

/// Waits for a thread's end, but not for ever.
pub async fn ended(thread: Thread, patience: Duration) -> bool {
    let joined = tokio::task::spawn_blocking(move || thread.join());
    tokio::time::timeout(patience, joined).await.is_ok()
}

/// The processing thread's share.
pub struct Processing {
    pub options: PgConnectOptions,
    pub workers: u32,
    pub catalogue: Catalogue,
    pub stripe: StripeConfig,
    pub wake: Arc<Notify>,
    pub pressure: Arc<Pressure>,
    pub stop: CancellationToken,
}

impl Processing {
    pub async fn run(self) {
        let processor = Processor {
            pool: db::pool(self.options.clone(), self.workers + 1),
            catalogue: self.catalogue,
            key_is_live: self.stripe.key_is_live,
            max_retries: self.stripe.max_retries,
        };
        let listening = tokio::spawn(hear(self.options, self.wake.clone()));
        let workers =
            (0..self.workers).map(|_| processor.run(&self.wake, &self.stop, &self.pressure));
        tokio::join!(
            futures_util::future::join_all(workers),
            processor.keep_due(&self.stop)
        );
        listening.abort();
    }
}

/// Wakes the workers that wait, and leaves word for one that is about to.
pub fn wake_workers(wake: &Notify) {
    wake.notify_waiters();
    wake.notify_one();
}

/// Wakes the workers when another replica stored something. Deaf, they poll.
async fn hear(options: PgConnectOptions, wake: Arc<Notify>) {
    let pool = db::pool(options.log_statements(tracing::log::LevelFilter::Off), 1);
    loop {
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(inbox::CHANNEL).await.is_ok()
        {
            while listener.recv().await.is_ok() {
                wake_workers(&wake);
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
