//! `serve`

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Failure, demo};
use crate::app::{self, Database, Service, background};
use crate::config::{GlobalArgs, ServeArgs, StripeArgs};
use crate::db;

/// How long a failed service waits for its parts, and for its embedded server. The
/// process ends within a second, whatever a part does to its thread.
const ABANDON: Duration = Duration::from_millis(300);
const _: () = {
    let parts = ABANDON.as_millis() + background::last_wait(ABANDON).as_millis();
    assert!(parts + ABANDON.as_millis() < 1_000);
};

#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    stripe: StripeArgs,
}

impl Serve {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let serve = self.serve.check()?;
        let stripe = self.stripe.check()?;
        let config = global.database_of_service()?;
        let catalogue = app::api::catalogue(stripe.plans_file.as_deref())?;
        app::mailer(&serve, Arc::new(catalogue))?;
        let signals = StopSignals::listen()?;
        let database = Database::open(&config).await?;
        if let Err(failure) = disable_demo(&database).await {
            database.close().await;
            return Err(failure);
        }
        let started = app::start(&database, &serve, &stripe, &config.data_dir).await;
        match started {
            Ok(service) => {
                tell_systemd(NotifyState::Ready);
                until_stopped(service, database, signals, CancellationToken::new()).await
            }
            Err(error) => {
                database.close().await;
                Err(error.into())
            }
        }
    }
}

/// A demo prints its operator's password, so the account is disabled before serving.
async fn disable_demo(database: &Database) -> Result<(), Failure> {
    if database.embedded.is_none() {
        return Ok(());
    }
    let pool = db::pool(database.service.clone(), 1);
    let disabled = demo::disable_operator(&pool).await;
    pool.close().await;
    disabled
}

/// Runs until SIGTERM or ^C, then cancels `stopping` and drains. A second signal
/// stops without draining.
///
/// # Errors
/// When a part of the service ended by itself. The supervisor of the process starts
/// it again; work in progress is as safe as after a kill.
pub async fn until_stopped(
    mut service: Service,
    database: Database,
    mut signals: StopSignals,
    stopping: CancellationToken,
) -> Result<(), Failure> {
    let failed = tokio::select! {
        () = signals.received() => None,
        () = revive(&database) => None,
        ended = service.failed() => Some(ended),
    };
    tell_systemd(NotifyState::Stopping);
    stopping.cancel();
    if let Some(ended) = failed {
        tracing::error!(
            part = ended.part,
            reason = ended.reason,
            "A part of the service ended"
        );
        service.abandon(ABANDON).await;
        // An embedded server that takes longer stops by itself.
        let _ = tokio::time::timeout(ABANDON, database.close()).await;
        return Err(Failure::failed(ended.to_string()));
    }
    tracing::info!("Stopping");
    tokio::select! {
        () = service.drain() => {}
        () = signals.received() => tracing::warn!("stopped without draining; Stripe will send unanswered events again"),
    }
    database.close().await;
    Ok(())
}

/// Tells systemd if it started the process (`Type=notify`).
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}

/// SIGTERM and ^C, caught from the moment this is created: a process that is told
/// to stop while it starts finishes starting, then drains.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Restarts the embedded server if something killed it.
async fn revive(database: &Database) {
    let Some(embedded) = &database.embedded else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Err(error) = embedded.ensure_running().await {
            tracing::error!(%error, "the embedded database cannot be started again");
        }
    }
}
