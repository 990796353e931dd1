//! A running sandbox: the server and its background tasks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::schedule;
use crate::server::{self, SharedState};
use crate::webhooks::sender;

/// How often the wall clock is checked for due events.
const TICK: Duration = Duration::from_secs(1);

/// A running sandbox. It stops when dropped.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    shared: Arc<SharedState>,
    tasks: Vec<JoinHandle<()>>,
}

impl Sandbox {
    /// Starts a sandbox on a free local port.
    pub async fn start(config: Config) -> std::io::Result<Self> {
        Self::listen(config, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts a sandbox on the given address.
    pub async fn listen(mut config: Config, address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        config
            .public_url
            .get_or_insert_with(|| format!("http://{address}"));
        let shared = SharedState::new(config);
        let router = server::router(&shared);
        let serving = tokio::spawn(async move {
            // axum's server only ends when its task is aborted.
            let _: std::io::Result<()> = axum::serve(listener, router).await;
        });
        let sending = tokio::spawn(sender::run(Arc::clone(&shared)));
        let ticking = tokio::spawn(tick(Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            tasks: vec![serving, sending, ticking],
        })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL, for `STRIPE_API_BASE`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until every delivery has succeeded or was abandoned.
    pub async fn deliveries_settled(&self) {
        loop {
            let ended = self.shared.delivery_ended.notified();
            tokio::pin!(ended);
            // Register before checking, so that no notification is missed.
            ended.as_mut().enable();
            let idle = {
                let state = self.shared.lock();
                state.outbox.is_empty() && self.shared.in_flight.load(Ordering::SeqCst) == 0
            };
            if idle {
                return;
            }
            ended.await;
        }
    }

    /// Runs until the process ends.
    pub async fn wait(mut self) {
        if let Some(serving) = self.tasks.first_mut() {
            // The task ends only when aborted, which needs no report.
            let _: Result<(), tokio::task::JoinError> = serving.await;
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn tick(shared: Arc<SharedState>) {
    let mut interval = tokio::time::interval(TICK);
    loop {
        interval.tick().await;
        let mut state = shared.lock();
        let now_secs = server::wall_secs(&state.config);
        if let Err(error) = schedule::tick(&mut state, now_secs) {
            eprintln!("stripe-sandbox: a scheduled change failed: {error}");
        }
        if !state.outbox.is_empty() {
            shared.outbox_filled.notify_one();
        }
    }
}
