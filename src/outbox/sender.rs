//! Sends events. Each endpoint gets the events of an organization in order, one after the
//! other. Endpoints do not wait for each other, since each has its own calls, and neither do
//! organizations of one endpoint, within its share of calls.
//!
//! A lane is leased before anything is sent, and only the holder of the lease records the
//! attempt. If a sender dies in between, the event is sent again under the same id.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::Url;
use sqlx::postgres::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::address;
use super::endpoints::{self, By, EndpointError};
use super::post::{Answer, Message, Poster};
use super::schedule;
use super::store::endpoints::{self as endpoint_store, Row};
use super::store::lanes::{self as store, Due, Lane, Outcome};
use crate::config::{AllowedAddresses, WebhookSecret};
use crate::db::{self, WorkerTx};
use crate::telemetry::metrics;

/// How often to look for due deliveries.
pub const POLL: Duration = Duration::from_millis(500);
/// Calls at a time to one endpoint. The first is its own, so that none waits for another;
/// one that fails has no more.
const CALLS_OF_ENDPOINT: usize = 4;
/// Calls beyond the first, of all endpoints together.
const SHARED_CALLS: usize = 64;
/// Longer than a call takes, and recording it.
const LEASE_SECS: f64 = 45.0;
/// Events of a lane before another organization has its turn.
const TURN: u32 = 16;
/// And how long it may take: a slow one gives its call back after the event under way.
const TURN_TIME: Duration = Duration::from_secs(2);
/// How long an outcome is recorded again where the database is away.
const RECORD_PATIENCE: Duration = Duration::from_secs(30);
const RECORD_PAUSE: Duration = Duration::from_millis(500);

/// Which endpoints a sender serves.
#[derive(Debug, Clone)]
pub enum Serves {
    /// Operators', and with its secret that of the settings.
    All {
        of_configuration: Option<WebhookSecret>,
    },
    /// One that listens, and whom to tell of each attempt.
    Listening {
        endpoint_id: Uuid,
        told: tokio::sync::mpsc::UnboundedSender<Attempt>,
    },
}

/// An attempt, as `events listen` shows it.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub event_type: String,
    pub body: String,
    pub answer: Answer,
}

/// Sends until it is dropped. Clones share their limits.
#[derive(Clone)]
pub struct Sender(Arc<Inner>);

struct Inner {
    pool: PgPool,
    serves: Serves,
    guarded: Poster,
    trusting: Poster,
    calls: Arc<Semaphore>,
    stop: CancellationToken,
}

/// The running calls, by endpoint.
#[derive(Default)]
pub struct Running {
    tasks: JoinSet<Uuid>,
    of_endpoint: HashMap<Uuid, usize>,
}

impl Sender {
    pub fn new(
        pool: PgPool,
        serves: Serves,
        allowed: &AllowedAddresses,
        stop: CancellationToken,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self(Arc::new(Inner {
            pool,
            serves,
            guarded: Poster::guarded(allowed)?,
            trusting: Poster::trusting()?,
            calls: Arc::new(Semaphore::new(SHARED_CALLS)),
            stop,
        })))
    }

    /// Begins what is due, as far as there is room.
    pub async fn begin_due(&self, running: &mut Running) -> Result<(), sqlx::Error> {
        running.reap();
        let mut tx = WorkerTx::begin(&self.0.pool).await?;
        let endpoints = endpoint_store::list(tx.conn(), None).await?;
        tx.commit().await?;
        if let Serves::All { .. } = self.0.serves {
            metrics::outbound::endpoints(&count(&endpoints));
        }
        for endpoint in endpoints {
            if endpoint.disabled_at.is_some() || !self.serves(&endpoint) {
                continue;
            }
            let busy = running.of_endpoint.get(&endpoint.id).copied().unwrap_or(0);
            let room = self.room(&endpoint, busy);
            if room == 0 || self.0.stop.is_cancelled() {
                continue;
            }
            let mut tx = WorkerTx::begin_claim(&self.0.pool).await?;
            let limit = i64::try_from(room).unwrap_or(1);
            let lanes = store::claim(tx.conn(), endpoint.id, limit, LEASE_SECS).await?;
            // If its answer is lost, each lane finds out whether it is held.
            let committed = tx.commit().await;
            for lane in lanes {
                let busy = running.of_endpoint.entry(endpoint.id).or_default();
                let permit = match *busy {
                    0 => None,
                    _ => match self.0.calls.clone().try_acquire_owned() {
                        Ok(permit) => Some(permit),
                        // Others were faster; the lane is due again once its lease ends.
                        Err(_) => break,
                    },
                };
                *busy += 1;
                let sender = self.clone();
                running
                    .tasks
                    .spawn(async move { sender.send_lane(lane, permit).await });
            }
            committed?;
        }
        Ok(())
    }

    /// How many calls an endpoint may have besides those that it has.
    fn room(&self, endpoint: &Row, busy: usize) -> usize {
        let own = usize::from(busy == 0);
        if endpoint.failing_since.is_some() {
            return own;
        }
        let shared = CALLS_OF_ENDPOINT.saturating_sub(busy + own);
        own + shared.min(self.0.calls.available_permits())
    }

    fn serves(&self, endpoint: &Row) -> bool {
        match &self.0.serves {
            Serves::All { of_configuration } => match endpoint.source.as_str() {
                "operator" => true,
                "configuration" => of_configuration.is_some(),
                _ => false,
            },
            Serves::Listening { endpoint_id, .. } => endpoint.id == *endpoint_id,
        }
    }

    /// Sends a turn of a lane. Errors are logged. What an outage of the database has
    /// interrupted is due again once that is back; after another error, once the lease ends.
    async fn send_lane(&self, lane: Lane, permit: Option<OwnedSemaphorePermit>) -> Uuid {
        let _permit = permit;
        if let Err(error) = self.try_lane(&lane).await {
            tracing::warn!(endpoint = %lane.endpoint_id, organization_id = %lane.organization_id, %error,
                "Events could not be sent; they are tried again");
            if matches!(&error, EndpointError::Database(error) if db::is_outage(error)) {
                self.let_go(&lane).await;
            }
        }
        lane.endpoint_id
    }

    /// Releases a lane as soon as the database is there.
    async fn let_go(&self, lane: &Lane) {
        let since = Instant::now();
        while let Err(error) = self.release(lane).await {
            let goes_on = since.elapsed() < RECORD_PATIENCE && !self.0.stop.is_cancelled();
            if !db::is_outage(&error) || !goes_on {
                return;
            }
            tokio::time::sleep(RECORD_PAUSE).await;
        }
    }

    async fn release(&self, lane: &Lane) -> Result<(), sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.0.pool).await?;
        store::release(tx.conn(), lane).await?;
        tx.commit().await
    }

    async fn try_lane(&self, lane: &Lane) -> Result<(), EndpointError> {
        let (endpoint_id, began) = (lane.endpoint_id, Instant::now());
        for _ in 0..TURN {
            let mut tx = WorkerTx::begin(&self.0.pool).await?;
            let held = store::hold(tx.conn(), lane, LEASE_SECS).await?;
            let due = store::next(tx.conn(), lane).await?;
            // Read anew: it may be disabled, removed or have another secret by now.
            let endpoint = endpoint_store::list(tx.conn(), Some(endpoint_id))
                .await?
                .pop();
            tx.commit().await?;
            let Some(endpoint) = endpoint.filter(|row| row.disabled_at.is_none()) else {
                break;
            };
            let Some(due) = due.filter(|due| held && due.is_due) else {
                break;
            };
            if self.0.stop.is_cancelled() {
                break;
            }
            let answer = self.send(&endpoint, &due).await;
            if !self.record(lane, &endpoint, &due, &answer).await? {
                return Ok(());
            }
            if answer.error.is_some() || began.elapsed() > TURN_TIME {
                break;
            }
        }
        Ok(self.release(lane).await?)
    }

    async fn send(&self, endpoint: &Row, due: &Due) -> Answer {
        let now = Timestamp::now();
        let of_configuration = match &self.0.serves {
            Serves::All { of_configuration } => of_configuration.as_ref(),
            Serves::Listening { .. } => None,
        };
        let secrets = endpoints::secrets(endpoint, of_configuration, now);
        let id = due.event_id.to_string();
        let message = Message {
            id: &id,
            body: &due.body,
        };
        let poster = match (&self.0.serves, endpoint.source.as_str()) {
            // The settings' address, or that of whoever runs the command.
            (Serves::All { .. }, "configuration") | (Serves::Listening { .. }, "listen") => {
                &self.0.trusting
            }
            _ => &self.0.guarded,
        };
        let answer = match Url::parse(&endpoint.url) {
            Ok(url) => poster.post(&url, &secrets, &message, now).await,
            Err(error) => Answer {
                status: None,
                excerpt: None,
                error: Some(format!("the address is no URL: {error}")),
            },
        };
        if let Serves::Listening { told, .. } = &self.0.serves {
            let _ = told.send(Attempt {
                event_type: due.event_type.clone(),
                body: due.body.clone(),
                answer: answer.clone(),
            });
        }
        answer
    }

    /// Records an attempt, also while the database is away for a moment. Returns false if
    /// another sender has the lane.
    async fn record(
        &self,
        lane: &Lane,
        endpoint: &Row,
        due: &Due,
        answer: &Answer,
    ) -> Result<bool, EndpointError> {
        let now = Timestamp::now();
        let failed_before = u32::try_from(due.attempts).unwrap_or(u32::MAX);
        let outcome = match answer.error {
            None => Outcome::Delivered,
            Some(_) => schedule::next_attempt(failed_before, now, rand::random())
                .map_or(Outcome::Failed, Outcome::Retry),
        };
        let since = Instant::now();
        let failing = loop {
            match self.try_record(lane, due, answer, outcome).await {
                Err(error)
                    if db::is_outage(&error)
                        && since.elapsed() < RECORD_PATIENCE
                        && !self.0.stop.is_cancelled() =>
                {
                    tokio::time::sleep(RECORD_PAUSE).await;
                }
                Ok(None) => return Ok(false),
                recorded => break recorded?.flatten(),
            }
        };
        let result = match outcome {
            Outcome::Delivered => "delivered",
            Outcome::Retry(_) => "retried",
            Outcome::Failed => "failed",
        };
        metrics::outbound::delivery(result);
        if due.event_type.starts_with("quota.") {
            metrics::usage_alert(result);
        }
        if outcome == Outcome::Failed {
            tracing::error!(endpoint = %endpoint.id, event = %due.event_id, r#type = due.event_type,
                error = answer.error, "An event was given up; `events deliveries resend` sends it again");
        }
        self.give_up(endpoint, answer, failing, now).await?;
        Ok(true)
    }

    /// Since when the endpoint fails, if it does; `None` if another sender has the lane.
    async fn try_record(
        &self,
        lane: &Lane,
        due: &Due,
        answer: &Answer,
        outcome: Outcome,
    ) -> Result<Option<Option<Timestamp>>, sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.0.pool).await?;
        if !store::hold(tx.conn(), lane, LEASE_SECS).await? {
            return Ok(None);
        }
        store::record(tx.conn(), lane, due, answer, outcome).await?;
        let since = match &answer.error {
            None => {
                endpoint_store::succeeded(tx.conn(), lane.endpoint_id).await?;
                None
            }
            Some(error) => {
                let quiet = schedule::QUIET.as_secs_f64();
                endpoint_store::failed(tx.conn(), lane.endpoint_id, error, quiet).await?
            }
        };
        tx.commit().await?;
        Ok(Some(since))
    }

    /// Disables an endpoint that is gone, or has failed for days.
    async fn give_up(
        &self,
        endpoint: &Row,
        answer: &Answer,
        failing_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), EndpointError> {
        let error = answer.error.as_deref().unwrap_or_default();
        let reason = match failing_since {
            _ if answer.is_gone() => "failed: the endpoint answered 410 Gone".to_owned(),
            Some(since) if schedule::is_given_up(since, now) => {
                format!("failed: since {since}, last: {error}")
            }
            _ => return Ok(()),
        };
        match endpoints::disable(&self.0.pool, endpoint.id, &reason, &By::SYSTEM).await {
            Ok(_) => {
                metrics::outbound::endpoint_disabled();
                tracing::error!(endpoint = %endpoint.id, url = address::shown(&endpoint.url), reason,
                    "An event endpoint was disabled; `events endpoints enable` sends it what waits");
                Ok(())
            }
            Err(EndpointError::Disabled | EndpointError::Unknown(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Running {
    /// Forgets what has ended.
    fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Result<Uuid, tokio::task::JoinError>) {
        match ended {
            Ok(endpoint) => {
                if let Some(busy) = self.of_endpoint.get_mut(&endpoint) {
                    *busy = busy.saturating_sub(1);
                }
            }
            Err(error) => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }

    /// Waits for a call to end, or for `patience`. An endpoint whose call ended may have
    /// more.
    pub async fn any(&mut self, patience: Duration) {
        if self.tasks.is_empty() {
            return tokio::time::sleep(patience).await;
        }
        if let Ok(Some(ended)) = tokio::time::timeout(patience, self.tasks.join_next()).await {
            self.ended(ended);
        }
    }

    /// Waits for all calls.
    pub async fn all(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            self.ended(ended);
        }
    }
}

/// The endpoints by status.
fn count(endpoints: &[Row]) -> [(&'static str, usize); 3] {
    let is_disabled = |row: &&Row| row.disabled_at.is_some();
    let gave_up = |row: &&Row| {
        let reason = row.disabled_reason.as_deref().unwrap_or_default();
        is_disabled(row) && reason.starts_with("failed:")
    };
    let disabled = endpoints.iter().filter(is_disabled).count();
    let given_up = endpoints.iter().filter(gave_up).count();
    [
        ("enabled", endpoints.len() - disabled),
        ("disabled", disabled - given_up),
        ("given_up", given_up),
    ]
}
