//! The ledger: for each lane of organizations one writer, which takes all that
//! is queued, locks the accounts it touches, decides each request in order,
//! writes, commits, and answers. There is no cache that could be stale: what
//! decides is read under the lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rust_decimal::Decimal;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::group::{self, Attempt, Mode};
use super::{NewEvent, Refusal, Standing};
use crate::db;
use crate::metrics;
use crate::plans::Catalogue;

/// How many requests wait at most; more are told to come back.
const QUEUE: usize = 2_048;
/// How many requests, and events in them, one commit takes at most.
const LARGEST_GROUP: usize = 512;
const MOST_EVENTS: usize = 4_000;
/// A group that waits longer for its locks has failed, and may be sent again.
///
/// Plans are made once, maybe while the tables are empty, and every statement
/// finds its rows by their keys: nothing is ever to be read from end to end.
const OPENING: &str = "SET ROLE billing_worker; SET statement_timeout = '4s'; \
                       SET lock_timeout = '2s'; SET jit = off; \
                       SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
                       SET enable_hashjoin = off; SET enable_mergejoin = off";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The server cancels a slow statement; this is for one that says nothing more.
const SILENCE: Duration = Duration::from_secs(6);
/// How often a group is tried again that met another's locks.
const CONFLICTS: u32 = 5;

/// What is asked of the ledger.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// Count what has happened.
    Record(Vec<NewEvent>),
    /// Decide, and count if `consume`. An id that was `named` may have come
    /// before.
    Check {
        event: NewEvent,
        consume: bool,
        named: bool,
    },
    /// Hold a use for a call.
    Reserve {
        id: Uuid,
        metric: String,
        quantity: Decimal,
        ttl_secs: u32,
    },
    /// Count what was held, or let it go.
    Settle {
        reservation: Reservation,
        used: bool,
    },
}

/// A use that is held for a call. A reservation that is not settled expires.
#[derive(Debug, Clone)]
pub struct Reservation {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub metric: String,
    pub quantity: Decimal,
}

impl Reservation {
    /// The use, once it is one.
    pub(super) fn event(&self) -> NewEvent {
        NewEvent {
            id: format!("reservation:{}", self.id),
            metric: self.metric.clone(),
            quantity: self.quantity,
            occurred_at: None,
            metadata: None,
        }
    }
}

/// What became of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    Recorded,
    /// It was there already.
    Duplicate,
    Refused(Refusal),
}

#[derive(Debug, Clone)]
pub(super) enum Reply {
    Recorded(Vec<Item>),
    Decided(Standing),
    Refused(Refusal),
    Settled,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("too many requests wait to be counted")]
    Full,
    #[error("the database cannot count at the moment")]
    Unavailable,
    #[error(transparent)]
    Refused(Refusal),
}

pub(super) struct Job {
    pub organization_id: Uuid,
    pub op: Op,
    answer: oneshot::Sender<Result<Reply, LedgerError>>,
}

impl Job {
    fn events(&self) -> usize {
        match &self.op {
            Op::Record(events) => events.len(),
            _ => 1,
        }
    }
}

/// Where requests are handed in.
#[derive(Clone)]
pub struct Ledger {
    lanes: Arc<[mpsc::Sender<Job>]>,
}

impl Ledger {
    /// Counts uses that have happened; durable when this returns.
    pub async fn record(
        &self,
        organization_id: Uuid,
        events: Vec<NewEvent>,
    ) -> Result<Vec<Item>, LedgerError> {
        match self.ask(organization_id, Op::Record(events)).await? {
            Reply::Recorded(items) => Ok(items),
            other => Err(unexpected(&other)),
        }
    }

    /// Decides about a use, and counts it if it is allowed and `consume`d.
    pub async fn check(
        &self,
        organization_id: Uuid,
        event: NewEvent,
        consume: bool,
        named: bool,
    ) -> Result<Standing, LedgerError> {
        let op = Op::Check {
            event,
            consume,
            named,
        };
        self.decide(organization_id, op).await
    }

    /// Decides about a use, and holds it if it is allowed, for `ttl_secs` at
    /// most.
    pub async fn reserve(
        &self,
        organization_id: Uuid,
        metric: &str,
        quantity: Decimal,
        ttl_secs: u32,
    ) -> Result<(Standing, Option<Reservation>), LedgerError> {
        let id = Uuid::now_v7();
        let op = Op::Reserve {
            id,
            metric: metric.to_owned(),
            quantity,
            ttl_secs,
        };
        let standing = self.decide(organization_id, op).await?;
        let reservation = standing.decision.allowed().then(|| Reservation {
            organization_id,
            id,
            metric: metric.to_owned(),
            quantity,
        });
        Ok((standing, reservation))
    }

    /// Counts what was held if it was `used`, or lets it go.
    pub async fn settle(&self, reservation: Reservation, used: bool) -> Result<(), LedgerError> {
        let organization_id = reservation.organization_id;
        let op = Op::Settle { reservation, used };
        match self.ask(organization_id, op).await? {
            Reply::Settled => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn decide(&self, organization_id: Uuid, op: Op) -> Result<Standing, LedgerError> {
        match self.ask(organization_id, op).await? {
            Reply::Decided(standing) => Ok(standing),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, organization_id: Uuid, op: Op) -> Result<Reply, LedgerError> {
        let (answer, answered) = oneshot::channel();
        let job = Job {
            organization_id,
            op,
            answer,
        };
        // An organization is always in one lane, so that no two wait for each
        // other's locks.
        let lane = organization_id.as_u128() % self.lanes.len() as u128;
        let queue = &self.lanes[usize::try_from(lane).unwrap_or_default()];
        queue.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LedgerError::Full,
            mpsc::error::TrySendError::Closed(_) => LedgerError::Unavailable,
        })?;
        answered.await.unwrap_or(Err(LedgerError::Unavailable))
    }
}

fn unexpected(reply: &Reply) -> LedgerError {
    match reply {
        Reply::Refused(refusal) => LedgerError::Refused(*refusal),
        other => {
            tracing::error!(?other, "the ledger answered something else");
            LedgerError::Unavailable
        }
    }
}

/// The rules that the ledger counts by.
#[derive(Clone)]
pub struct Rules {
    pub catalogue: Arc<Catalogue>,
    pub grace_hours: u32,
}

/// Those who write, each for a lane.
pub struct Writers(Vec<Writer>);

impl Writers {
    /// Until every clone of the ledger is gone.
    pub async fn run(self) {
        futures_util::future::join_all(self.0.into_iter().map(Writer::run)).await;
    }
}

struct Writer {
    options: PgConnectOptions,
    rules: Rules,
    queue: mpsc::Receiver<Job>,
    /// Groups to be answered where they were asked: from another thread, each
    /// answer would wake that one by itself.
    done: mpsc::UnboundedSender<(Vec<Job>, Outcome)>,
    connection: Option<PgConnection>,
}

/// A ledger, its writers, which may run on another thread, and who answers,
/// where it was asked, until they end.
pub fn new(
    options: PgConnectOptions,
    rules: Rules,
    lanes: usize,
) -> (Ledger, Writers, impl Future<Output = ()> + Send) {
    let (done, mut answered) = mpsc::unbounded_channel();
    let answers = async move {
        while let Some((jobs, outcome)) = answered.recv().await {
            answer(jobs, outcome);
        }
    };
    let lane = || {
        let (sender, queue) = mpsc::channel(QUEUE);
        let writer = Writer {
            options: options.clone(),
            rules: rules.clone(),
            queue,
            done: done.clone(),
            connection: None,
        };
        (sender, writer)
    };
    let (senders, writers): (Vec<_>, Vec<_>) = (0..lanes.max(1)).map(|_| lane()).unzip();
    let ledger = Ledger {
        lanes: senders.into(),
    };
    (ledger, Writers(writers), answers)
}

type Outcome = Result<Vec<Reply>, LedgerError>;

impl Writer {
    async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            let mut events = first.events();
            let mut jobs = vec![first];
            while jobs.len() < LARGEST_GROUP
                && events < MOST_EVENTS
                && let Ok(job) = self.queue.try_recv()
            {
                events += job.events();
                jobs.push(job);
            }
            let started = Instant::now();
            let outcome = self.commit(&jobs).await;
            metrics::quota_group(jobs.len(), started.elapsed());
            match outcome {
                Some(outcome) => self.answer(jobs, outcome),
                // One request must not spoil the others.
                None => {
                    for job in jobs {
                        let alone = self.commit(std::slice::from_ref(&job)).await;
                        let outcome = alone.unwrap_or(Err(LedgerError::Unavailable));
                        self.answer(vec![job], outcome);
                    }
                }
            }
        }
        if let Some(connection) = self.connection {
            let _ = connection.close().await;
        }
    }

    fn answer(&self, jobs: Vec<Job>, outcome: Outcome) {
        // Nobody asks any more where this fails.
        let _ = self.done.send((jobs, outcome));
    }

    /// Counts a group. None: the database refused a value of it.
    async fn commit(&mut self, jobs: &[Job]) -> Option<Outcome> {
        let mut reused = self.connection.is_some();
        let mut mode = Mode::default();
        let mut conflicts = 0;
        loop {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                None => match db::dedicated(&self.options, OPENING, CONNECT_TIMEOUT).await {
                    Ok(connection) => self.connection.insert(connection),
                    Err(error) => return Some(unavailable(&error, jobs)),
                },
            };
            let attempt = group::attempt(connection, &self.rules, jobs, mode);
            let attempted = tokio::time::timeout(SILENCE, attempt).await;
            let error = match attempted.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
                Ok(Attempt::Done(replies)) => return Some(Ok(replies)),
                Ok(Attempt::Again(wanted)) => {
                    mode = wanted;
                    continue;
                }
                Err(error) => error,
            };
            if db::is_conflict(&error) && conflicts < CONFLICTS && self.roll_back().await {
                conflicts += 1;
                continue;
            }
            if db::is_timeout(&error) && self.roll_back().await {
                return Some(unavailable(&error, jobs));
            }
            if error.as_database_error().is_some()
                && !db::is_outage(&error)
                && self.roll_back().await
            {
                tracing::error!(%error, requests = jobs.len(), "usage could not be counted");
                return None;
            }
            self.connection = None;
            // It may have died between two groups, with the server it led to.
            let died = db::is_outage(&error) && !matches!(error, sqlx::Error::PoolTimedOut);
            if !(died && reused) {
                return Some(unavailable(&error, jobs));
            }
            reused = false;
        }
    }

    /// Ends a transaction that failed; false: the connection is gone.
    async fn roll_back(&mut self) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        let rolled_back = tokio::time::timeout(SILENCE, connection.execute("ROLLBACK")).await;
        let alive = matches!(rolled_back, Ok(Ok(_)));
        if !alive {
            self.connection = None;
        }
        alive
    }
}

fn unavailable(error: &sqlx::Error, jobs: &[Job]) -> Outcome {
    db::disk::note(error);
    tracing::error!(%error, requests = jobs.len(), "usage could not be counted");
    Err(LedgerError::Unavailable)
}

fn answer(jobs: Vec<Job>, outcome: Outcome) {
    match outcome {
        Ok(replies) => {
            for (job, reply) in jobs.into_iter().zip(replies) {
                let _ = job.answer.send(Ok(reply));
            }
        }
        Err(error) => {
            for job in jobs {
                let _ = job.answer.send(Err(error.clone()));
            }
        }
    }
}
