//! A running sandbox.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::schedule;
use crate::server::{self, Shell};
use crate::webhooks::courier;

/// How often the wall clock is looked at for what falls due.
const TICK: Duration = Duration::from_secs(1);

/// A sandbox that listens; it ends when dropped.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    shell: Arc<Shell>,
    tasks: Vec<JoinHandle<()>>,
}

impl Sandbox {
    /// Starts a sandbox on a free port of this machine.
    pub async fn start(config: Config) -> std::io::Result<Self> {
        Self::listen(config, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts a sandbox on an address.
    pub async fn listen(mut config: Config, address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        config
            .public_url
            .get_or_insert_with(|| format!("http://{address}"));
        let shell = Shell::new(config);
        let router = server::router(&shell);
        let serving = tokio::spawn(async move {
            // Serving ends only with the task; axum itself never gives up.
            let _: std::io::Result<()> = axum::serve(listener, router).await;
        });
        let carrying = tokio::spawn(courier::run(Arc::clone(&shell)));
        let ticking = tokio::spawn(tick(Arc::clone(&shell)));
        Ok(Self {
            address,
            shell,
            tasks: vec![serving, carrying, ticking],
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for `STRIPE_API_BASE`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until every delivery has succeeded or been given up.
    pub async fn deliveries_settled(&self) {
        loop {
            let settled = self.shell.settled.notified();
            tokio::pin!(settled);
            // Registered before looking, so that no end is missed.
            settled.as_mut().enable();
            let idle = {
                let state = self.shell.lock();
                state.outbox.is_empty() && self.shell.in_flight.load(Ordering::SeqCst) == 0
            };
            if idle {
                return;
            }
            settled.await;
        }
    }

    /// Runs until the process ends.
    pub async fn wait(mut self) {
        if let Some(serving) = self.tasks.first_mut() {
            // The task ends by abortion alone, and then there is no one to tell.
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

async fn tick(shell: Arc<Shell>) {
    let mut interval = tokio::time::interval(TICK);
    loop {
        interval.tick().await;
        let mut state = shell.lock();
        let now_secs = server::wall_secs(&state.config);
        if let Err(error) = schedule::tick(&mut state, now_secs) {
            eprintln!("stripe-sandbox: what fell due could not be done: {error}");
        }
        if !state.outbox.is_empty() {
            shell.outbox_filled.notify_one();
        }
    }
}
