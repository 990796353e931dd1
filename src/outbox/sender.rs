//! Sends events. Each endpoint gets the events of an organization in order, one after the
//! other. Endpoints do not wait for each other, since each has its own call, and neither do
//! organizations of one endpoint, within its share of calls; those whose events it does not
//! take leave the others theirs.
//!
//! A lane is leased before anything is sent, and only the holder of the lease records the
//! attempt, with those of other lanes in one transaction. If a sender dies in between, the
//! event is sent again under the same id.

use std::collections::{HashMap, HashSet};
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
use super::steps::{Step, Steps};
use super::store::endpoints::{self as endpoint_store, Row};
use super::store::lanes::{self as store, Attempted, Due, Lane, Outcome};
use crate::config::{AllowedAddresses, WebhookSecret};
use crate::db::{self, WorkerTx};
use crate::telemetry::metrics;

/// How often to look for due deliveries.
pub const POLL: Duration = Duration::from_millis(500);
/// Calls at a time to one endpoint. The first is its own, so that none waits for another.
const CALLS_OF_ENDPOINT: usize = 32;
/// An endpoint that takes nothing of so many organizations has no more than its own call.
const REFUSED_OF_ENDPOINT: usize = 4;
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
    steps: Steps,
    serves: Serves,
    guarded: Poster,
    trusting: Poster,
    calls: Arc<Semaphore>,
    stop: CancellationToken,
}

/// The running calls, by endpoint.
#[derive(Default)]
pub struct Running {
    tasks: JoinSet<Turn>,
    of_endpoint: HashMap<Uuid, usize>,
    /// Whose events an endpoint did not take since it took one.
    refused: HashMap<Uuid, HashSet<Uuid>>,
}

/// A call that is under way; of those that all share, one is taken.
struct Call(
    #[expect(dead_code, reason = "dropped when the call ends")] Option<OwnedSemaphorePermit>,
);

/// A lane's turn that is over.
struct Turn {
    endpoint_id: Uuid,
    organization_id: Uuid,
    /// Whether the last event was taken; `None`: nothing was sent.
    taken: Option<bool>,
}

impl Sender {
    pub fn new(
        pool: PgPool,
        serves: Serves,
        allowed: &AllowedAddresses,
        stop: CancellationToken,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self(Arc::new(Inner {
            steps: Steps::new(pool.clone(), LEASE_SECS),
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
        let mut tx = WorkerTx::begin_claim(&self.0.pool).await?;
        let endpoints = endpoint_store::list(tx.conn(), None).await?;
        if let Serves::All { .. } = self.0.serves {
            metrics::outbound::endpoints(&count(&endpoints));
        }
        let served = endpoints
            .into_iter()
            .filter(|endpoint| endpoint.disabled_at.is_none() && self.serves(endpoint));
        let served: HashMap<Uuid, Row> = served.map(|endpoint| (endpoint.id, endpoint)).collect();
        let rooms: Vec<(Uuid, i64)> = served
            .keys()
            .map(|id| (*id, self.room(running.busy(*id), running.is_down(*id))))
            .filter(|(_, room)| *room > 0)
            .collect();
        if rooms.is_empty() || self.0.stop.is_cancelled() {
            return tx.commit().await;
        }
        let lanes = store::claim(tx.conn(), &rooms, LEASE_SECS).await?;
        let due = store::next(tx.conn(), &lanes).await?;
        let (mut begun, mut idle) = (Vec::new(), Vec::new());
        for (lane, due) in lanes.into_iter().zip(due) {
            let Some(due) = due else {
                idle.push(lane);
                continue;
            };
            match self.call(running, lane.endpoint_id) {
                Some(call) => begun.push((lane, due, call)),
                // Others were faster.
                None => idle.push(lane),
            }
        }
        // If this fails, or its answer is lost, each lane finds out whether it is held: its call
        // is counted until its turn is over.
        let committed = match store::release(tx.conn(), &idle).await {
            Ok(()) => tx.commit().await,
            Err(error) => Err(error),
        };
        for (lane, due, call) in begun {
            let first = served.get(&lane.endpoint_id).cloned().map(|row| (row, due));
            let first = first.filter(|_| committed.is_ok());
            let sender = self.clone();
            running
                .tasks
                .spawn(async move { sender.send_lane(lane, first, call).await });
        }
        committed
    }

    /// How many calls an endpoint may have besides the `busy` ones: of those that all share,
    /// it leaves the others half.
    fn room(&self, busy: usize, is_down: bool) -> i64 {
        let own = usize::from(busy == 0);
        let shared = match is_down {
            true => 0,
            false => CALLS_OF_ENDPOINT
                .saturating_sub(busy + own)
                .min(self.0.calls.available_permits().div_ceil(2)),
        };
        i64::try_from(own + shared).unwrap_or(1)
    }

    /// A call of the endpoint's: its own, or one of those that all share.
    fn call(&self, running: &mut Running, endpoint_id: Uuid) -> Option<Call> {
        let busy = running.of_endpoint.entry(endpoint_id).or_default();
        let call = match *busy {
            0 => Call(None),
            _ => Call(Some(self.0.calls.clone().try_acquire_owned().ok()?)),
        };
        *busy += 1;
        Some(call)
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
    async fn send_lane(&self, lane: Lane, first: Option<(Row, Due)>, call: Call) -> Turn {
        let _call = call;
        let mut taken = None;
        if let Err(error) = self.try_lane(&lane, first, &mut taken).await {
            tracing::warn!(endpoint = %lane.endpoint_id, organization_id = %lane.organization_id, %error,
                "Events could not be sent; they are tried again");
            if matches!(&error, EndpointError::Database(error) if db::is_outage(error)) {
                self.let_go(&lane).await;
            }
        }
        Turn {
            endpoint_id: lane.endpoint_id,
            organization_id: lane.organization_id,
            taken,
        }
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
        let ends = Step::without_attempt(*lane, false);
        self.0.steps.take(ends).await.map(drop)
    }

    /// `first` is what to begin with; `None`: whether the lane is held is to be found out.
    async fn try_lane(
        &self,
        lane: &Lane,
        first: Option<(Row, Due)>,
        taken: &mut Option<bool>,
    ) -> Result<(), EndpointError> {
        let began = Instant::now();
        let mut next = first;
        if next.is_none() {
            let begins = Step::without_attempt(*lane, true);
            next = self.0.steps.take(begins).await?.next;
        }
        for turn in 1..=TURN {
            let Some((endpoint, due)) = next else {
                return Ok(());
            };
            if self.0.stop.is_cancelled() {
                return Ok(self.release(lane).await?);
            }
            let answer = self.send(&endpoint, &due).await;
            *taken = Some(answer.error.is_none());
            let goes_on = answer.error.is_none()
                && turn < TURN
                && began.elapsed() <= TURN_TIME
                && !self.0.stop.is_cancelled();
            next = self.record(lane, &endpoint, due, answer, goes_on).await?;
        }
        Ok(())
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

    /// Records an attempt, also while the database is away for a moment. Returns the lane's
    /// next event, if it goes on; without one the lane is let go of.
    async fn record(
        &self,
        lane: &Lane,
        endpoint: &Row,
        due: Due,
        answer: Answer,
        goes_on: bool,
    ) -> Result<Option<(Row, Due)>, EndpointError> {
        let now = Timestamp::now();
        let failed_before = u32::try_from(due.attempts).unwrap_or(u32::MAX);
        let outcome = match answer.error {
            None => Outcome::Delivered,
            Some(_) => schedule::next_attempt(failed_before, now, rand::random())
                .map_or(Outcome::Failed, Outcome::Retry),
        };
        let step = Step {
            lane: *lane,
            attempted: Some(Attempted {
                sequence: due.sequence,
                event_id: due.event_id,
                event_type: due.event_type.clone(),
                answer: answer.clone(),
                outcome,
            }),
            goes_on,
        };
        let since = Instant::now();
        let stepped = loop {
            match self.0.steps.take(step.clone()).await {
                Err(error)
                    if (db::is_outage(&error) || db::is_conflict(&error))
                        && since.elapsed() < RECORD_PATIENCE
                        && !self.0.stop.is_cancelled() =>
                {
                    tokio::time::sleep(RECORD_PAUSE).await;
                }
                stepped => break stepped?,
            }
        };
        // Another sender has the lane.
        if !stepped.held {
            return Ok(None);
        }
        tell(endpoint, &due, &answer, outcome);
        self.give_up(endpoint, &answer, stepped.failing_since, now)
            .await?;
        Ok(stepped.next)
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

/// Counts an attempt, and logs one that was the last.
fn tell(endpoint: &Row, due: &Due, answer: &Answer, outcome: Outcome) {
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
}

impl Running {
    fn busy(&self, endpoint_id: Uuid) -> usize {
        self.of_endpoint.get(&endpoint_id).copied().unwrap_or(0)
    }

    /// Forgets what has ended.
    fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Result<Turn, tokio::task::JoinError>) {
        match ended {
            Ok(turn) => {
                if let Some(busy) = self.of_endpoint.get_mut(&turn.endpoint_id) {
                    *busy = busy.saturating_sub(1);
                }
                self.note(&turn);
            }
            Err(error) => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }

    fn note(&mut self, turn: &Turn) {
        match turn.taken {
            Some(true) => {
                self.refused.remove(&turn.endpoint_id);
            }
            Some(false) if !self.is_down(turn.endpoint_id) => {
                let refused = self.refused.entry(turn.endpoint_id).or_default();
                refused.insert(turn.organization_id);
            }
            _ => {}
        }
    }

    /// Whether an endpoint takes nothing of anybody, rather than of a few whose events it
    /// stumbles over: these would keep the others waiting.
    fn is_down(&self, endpoint_id: Uuid) -> bool {
        let refused = self.refused.get(&endpoint_id);
        refused.is_some_and(|refused| refused.len() >= REFUSED_OF_ENDPOINT)
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
