//! Events out, as parts of `serve`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::StatusCode;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::background::Next;
use crate::config::OutboundConfig;
use crate::migrations::Gate;
use crate::outbox::endpoints::EndpointError;
use crate::outbox::publisher::{self, PublishError, Source};
use crate::outbox::sender::{self, Running, Sender, Serves};
use crate::outbox::upkeep;
use crate::state::States;
use crate::telemetry::metrics::background::Runs;
use crate::webhooks::backpressure::Backpressure;

/// Where the publisher reads states, and sees whether intake is busy.
pub struct Reads {
    pub states: States,
    pub pressure: Arc<Backpressure>,
}

impl Source for Reads {
    fn state(&self, organization_id: Uuid) -> BoxFuture<'_, Result<Option<Bytes>, String>> {
        async move {
            match self.states.document(organization_id).await {
                Ok(body) => Ok(Some(body)),
                Err(problem) if problem.status() == StatusCode::NOT_FOUND => Ok(None),
                Err(problem) => Err(problem.detail().to_owned()),
            }
        }
        .boxed()
    }

    fn busy(&self) -> bool {
        self.pressure.is_high()
    }
}

/// The publisher's runs.
#[derive(Clone)]
pub struct Publishing {
    pub pool: PgPool,
    pub reads: Arc<Reads>,
    pub config: Arc<OutboundConfig>,
    pub stop: CancellationToken,
    /// Whether the endpoint of the settings is entered.
    pub entered: Arc<AtomicBool>,
    /// The organization that the last run ended at.
    pub after: Arc<Mutex<Uuid>>,
    /// When to look next for what is left of removed endpoints.
    pub clears_at: Arc<Mutex<Instant>>,
}

/// How often to look for what a crash left of removed endpoints.
const CLEAR_EVERY: Duration = Duration::from_secs(15);

impl Publishing {
    pub async fn run(self) -> Result<Next, PublishError> {
        let database = |error| match error {
            EndpointError::Database(error) => PublishError::Database(error),
            error => PublishError::Database(sqlx::Error::Configuration(error.into())),
        };
        if !self.entered.load(Ordering::Acquire) {
            let url = self.config.application.as_ref().map(|one| &one.url);
            let followed = upkeep::follow_settings(&self.pool, url).await;
            followed.map_err(database)?;
            self.entered.store(true, Ordering::Release);
        }
        upkeep::sweep(&self.pool).await.map_err(database)?;
        let clears_at = *self
            .clears_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if clears_at <= Instant::now() && !upkeep::clear_some(&self.pool).await.map_err(database)? {
            let next = Instant::now() + CLEAR_EVERY;
            *self
                .clears_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = next;
        }
        let mut after = *self.after.lock().unwrap_or_else(PoisonError::into_inner);
        let more = publisher::publish(&self.pool, &*self.reads, &self.stop, &mut after).await;
        *self.after.lock().unwrap_or_else(PoisonError::into_inner) = after;
        Ok(if more? {
            Next::AtOnce
        } else {
            Next::AfterPeriod
        })
    }
}

/// Sends until it is told to stop, and then lets calls end.
pub async fn keep_sending(
    pool: PgPool,
    config: Arc<OutboundConfig>,
    schema: Arc<Gate>,
    runs: Runs,
    stop: CancellationToken,
) {
    let of_configuration = config.application.as_ref().map(|one| one.secret.clone());
    let serves = Serves::All { of_configuration };
    let sender = Sender::new(pool.clone(), serves, &config.allowed, stop.clone())
        .expect("clients for other hosts can be made");
    let mut running = Running::default();
    while !stop.is_cancelled() {
        let begun = async {
            schema.check(&pool).await?;
            sender.begin_due(&mut running).await
        };
        let begun: Result<(), sqlx::Error> = begun.await;
        if let Err(error) = &begun {
            tracing::warn!(%error, "Due events cannot be looked up");
        }
        runs.ended(&begun);
        tokio::select! {
            () = stop.cancelled() => {}
            () = running.any(sender::POLL) => {}
        }
    }
    running.all().await;
}
