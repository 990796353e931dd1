//! Group commit: deliveries that arrive while a commit is in flight form the
//! next one. When idle this adds no latency; when busy, deliveries share each fsync.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use sqlx::Executor as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::{mpsc, oneshot};

use super::{altered, store};
use crate::batch::writer::{Batch, Failure, Session, Settings};
use crate::db::{self, planner};
use crate::limits;
use crate::stripe::event::Envelope;
use crate::telemetry::metrics;

/// How many deliveries one commit takes at most.
const LARGEST_GROUP: usize = 256;
/// Other replicas' workers poll; this only spares them the wait.
const NOTIFY_EVERY: Duration = Duration::from_millis(200);
/// Answers that are held back for the next group wait for it.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);
const SETTINGS: Settings = Settings {
    opening: &[
        "SET ROLE billing_worker",
        // A group that takes longer has failed, and may be sent again.
        "SET statement_timeout = '4s'",
        planner::PLAN_ONCE,
    ],
    transaction: false,
    conflicts: 1,
    silence: Duration::from_millis(4_500),
};

/// How events come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Stripe sends them.
    Delivery,
    /// We fetched them.
    Backfill,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivery => "delivery",
            Self::Backfill => "backfill",
        }
    }
}

/// What became of a delivery that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    Stored,
    /// The event was there already.
    Duplicate,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    #[error("the webhook queue is full")]
    Full,
    #[error("the event could not be stored")]
    Unavailable,
    #[error("PostgreSQL does not take the payload as JSON: {0}")]
    Payload(String),
}

/// An event on its way into the webhook event log. `payload` is UTF-8.
pub struct Delivery {
    pub envelope: Envelope,
    pub payload: Bytes,
    answer: oneshot::Sender<Result<Receipt, IntakeError>>,
}

/// Where deliveries are handed in.
#[derive(Clone)]
pub struct Intake {
    queue: mpsc::Sender<Delivery>,
}

impl Intake {
    /// Stores an event; returns once it is durable, or was refused.
    pub async fn store(&self, envelope: Envelope, payload: Bytes) -> Result<Receipt, IntakeError> {
        let (answer, answered) = oneshot::channel();
        let delivery = Delivery {
            envelope,
            payload,
            answer,
        };
        self.queue.try_send(delivery).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => IntakeError::Full,
            mpsc::error::TrySendError::Closed(_) => IntakeError::Unavailable,
        })?;
        answered.await.unwrap_or(Err(IntakeError::Unavailable))
    }
}

/// The one who writes. More writers than one did not make it faster.
pub struct Writer {
    session: Session,
    queue: mpsc::Receiver<Delivery>,
    notified: Option<Instant>,
    source: Source,
    /// Called after each commit that stored something, with how many events.
    on_commit: Box<dyn Fn(usize) + Send>,
}

type Outcome = Result<HashSet<String>, IntakeError>;

/// An intake and its writer, which stops when every clone of the intake is gone.
pub fn new(
    options: PgConnectOptions,
    source: Source,
    on_commit: impl Fn(usize) + Send + 'static,
) -> (Intake, Writer) {
    let (sender, queue) = mpsc::channel(limits::DELIVERIES);
    let writer = Writer {
        session: Session::new(options, SETTINGS),
        queue,
        notified: None,
        source,
        on_commit: Box::new(on_commit),
    };
    (Intake { queue: sender }, writer)
}

impl Writer {
    pub async fn run(mut self) {
        let mut committed: Option<(Vec<Delivery>, Outcome)> = None;
        let mut group = Vec::new();
        loop {
            if self.queue.recv_many(&mut group, LARGEST_GROUP).await == 0 {
                break;
            }
            // In one order everywhere, so that two replicas that store the same
            // events never wait for each other.
            group.sort_unstable_by(|a, b| a.envelope.id.cmp(&b.envelope.id));
            let mut next = std::mem::take(&mut group);
            // The next group goes out before the answers to the last are written.
            let (outcome, ()) = tokio::join!(
                biased;
                self.commit(&mut next),
                async { committed.take().into_iter().for_each(answer) }
            );
            let again = match &outcome {
                Ok(stored) => altered::repeated(&next, stored),
                Err(_) => Vec::new(),
            };
            let stored = outcome.as_ref().map_or(0, HashSet::len);
            if self.queue.is_empty() {
                answer((next, outcome));
                // Who was answered goes first.
                tokio::task::yield_now().await;
            } else {
                committed = Some((next, outcome));
            }
            self.announce(stored).await;
            self.tell_of(&again).await;
        }
        committed.into_iter().for_each(answer);
        self.session.close().await;
    }

    /// Stores a group, and returns the ids that were new.
    async fn commit(&mut self, group: &mut Vec<Delivery>) -> Outcome {
        let started = Instant::now();
        match self.try_commit(group).await {
            Ok(stored) => {
                metrics::intake_group(group.len(), started.elapsed());
                Ok(stored)
            }
            // One delivery must not spoil the others.
            Err(Refused::Values(_)) if group.len() > 1 => Ok(self.commit_each(group).await),
            Err(refused) => Err(refused.into()),
        }
    }

    async fn try_commit(&mut self, group: &[Delivery]) -> Result<HashSet<String>, Refused> {
        let mut batch = Insert {
            group,
            source: self.source,
        };
        match self.session.commit(&mut batch).await {
            Ok(stored) => Ok(stored),
            Err(Failure::Refused(error)) if is_by_value(&error) => Err(Refused::Values(error)),
            Err(
                Failure::Refused(error) | Failure::TimedOut(error) | Failure::Unavailable(error),
            ) => {
                // Whatever is wrong now is wrong with the database.
                self.session.forget();
                Err(unavailable(&error, group))
            }
        }
    }

    /// Stores each delivery by itself, and answers those that fail.
    async fn commit_each(&mut self, group: &mut Vec<Delivery>) -> HashSet<String> {
        let mut stored = HashSet::new();
        let mut kept = Vec::with_capacity(group.len());
        let mut down = false;
        for delivery in group.drain(..) {
            let outcome = if down {
                Err(Refused::Unavailable)
            } else {
                self.try_commit(std::slice::from_ref(&delivery)).await
            };
            match outcome {
                Ok(new) => {
                    stored.extend(new);
                    kept.push(delivery);
                }
                Err(refused) => {
                    // The others would only wait as long, one after the other.
                    down = matches!(refused, Refused::Unavailable);
                    let _ = delivery.answer.send(Err(refused.into()));
                }
            }
        }
        *group = kept;
        stored
    }

    /// Looks whether events that came again say the same.
    async fn tell_of(&mut self, again: &[(String, Bytes)]) {
        if again.is_empty() || self.source == Source::Backfill {
            return;
        }
        if let Some(conn) = self.session.connection() {
            let telling = tokio::time::timeout(NOTIFY_TIMEOUT, altered::report(conn, again));
            if !matches!(telling.await, Ok(Ok(()))) {
                self.session.forget();
            }
        }
    }

    /// Tells whoever processes that `stored` events are new.
    async fn announce(&mut self, stored: usize) {
        if stored == 0 {
            return;
        }
        (self.on_commit)(stored);
        if self.notified.is_some_and(|at| at.elapsed() < NOTIFY_EVERY) {
            return;
        }
        self.notified = Some(Instant::now());
        if let Some(conn) = self.session.connection() {
            // Lost, it costs a poll interval.
            let notifying = tokio::time::timeout(NOTIFY_TIMEOUT, conn.execute(store::NOTIFY));
            if !matches!(notifying.await, Ok(Ok(_))) {
                self.session.forget();
            }
        }
    }
}

/// A group's one statement.
struct Insert<'a> {
    group: &'a [Delivery],
    source: Source,
}

impl Batch for Insert<'_> {
    /// The ids that were new.
    type Reply = HashSet<String>;

    async fn write(&mut self, conn: &mut PgConnection) -> Result<HashSet<String>, sqlx::Error> {
        store::insert(conn, self.group, self.source).await
    }

    /// Each event has its id, and is stored once.
    fn may_be_committed(&mut self) {}
}

/// Why a group was not stored.
enum Refused {
    /// By the database, for what is in it.
    Values(sqlx::Error),
    Unavailable,
}

impl From<Refused> for IntakeError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Values(error) if is_malformed(&error) => Self::Payload(error.to_string()),
            Refused::Values(error) => {
                tracing::error!(%error, "an event could not be stored");
                Self::Unavailable
            }
            Refused::Unavailable => Self::Unavailable,
        }
    }
}

/// Whether a delivery is what PostgreSQL refused, rather than the group: by
/// itself, each of the others may be stored.
fn is_by_value(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| {
        ["22", "23", "54"]
            .iter()
            .any(|class| code.starts_with(class))
    })
}

/// Whether PostgreSQL could not read a value. A constraint or a limit of the
/// server's is no fault of the sender's, who must send the event again.
fn is_malformed(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code.starts_with("22"))
}

fn unavailable(error: &sqlx::Error, group: &[Delivery]) -> Refused {
    db::disk::Writer::Intake.note(error);
    tracing::error!(%error, events = group.len(), "events could not be stored");
    Refused::Unavailable
}

fn answer((group, outcome): (Vec<Delivery>, Outcome)) {
    match outcome {
        Ok(mut stored) => {
            for delivery in group {
                // Of two deliveries of one event in a group, one stored it.
                let new = stored.remove(&delivery.envelope.id);
                let receipt = if new {
                    Receipt::Stored
                } else {
                    Receipt::Duplicate
                };
                let _ = delivery.answer.send(Ok(receipt));
            }
        }
        Err(error) => {
            for delivery in group {
                let _ = delivery.answer.send(Err(error.clone()));
            }
        }
    }
}
