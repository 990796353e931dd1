//! Who writes a lane's requests: group after group, each a transaction.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::queue::{Queue, QueuedRequest, Responder};
use super::requests::{self, Key, touched};
use super::set_aside::SetAside;
use super::store;
use super::transaction::{self, Attempt, Mode};
use super::{LedgerError, Outcome, Rules};
use crate::batch::writer::{Batch, Failure, Session, Settings};
use crate::db::{self, planner};
use crate::telemetry::metrics;
use crate::telemetry::seldom::Seldom;

/// The server cancels a slow statement; this is for a server that says nothing
/// more.
const SILENCE: Duration = Duration::from_secs(6);
/// How long an account that was found held is taken for held.
const HELD: Duration = Duration::from_millis(100);
/// How often a group is attempted: it may need what only an attempt shows.
const ATTEMPTS: u32 = 16;

/// How long a group waits for a lock.
#[derive(Debug, Clone, Copy)]
pub enum Patience {
    /// It waits with others, who have nothing to do with the lock.
    Short,
    /// It has waited for its turn.
    Long,
}

impl Patience {
    const fn settings(self) -> Settings {
        Settings {
            opening: match self {
                Self::Short => const { &opening("SET lock_timeout = '50ms'") },
                Self::Long => const { &opening("SET lock_timeout = '100ms'") },
            },
            transaction: true,
            conflicts: 5,
            silence: SILENCE,
        }
    }
}

const fn opening(lock_timeout: &'static str) -> [&'static str; 5] {
    [
        "SET ROLE billing_worker",
        "SET statement_timeout = '4s'",
        lock_timeout,
        // Plans are made once, maybe while the tables are empty.
        planner::PLAN_ONCE,
        planner::JOIN_BY_KEY,
    ]
}

/// Accounts whose rows another session held for longer than the lock timeout, until they
/// can be counted in again.
#[derive(Clone, Default)]
pub struct Blocked(Arc<Mutex<HashSet<Key>>>);

impl Blocked {
    fn keys(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// They were counted in.
    pub fn clear(&self, requests: &[QueuedRequest]) {
        let mut keys = self.keys();
        if !keys.is_empty() {
            for key in requests.iter().flat_map(touched) {
                keys.remove(&key);
            }
        }
    }
}

/// What became of a group.
pub enum Committed {
    /// Everybody is answered.
    Answered(Outcome),
    /// Nothing was done: other sessions hold these accounts.
    Held(BTreeSet<Key>),
    /// Nothing was done: other sessions hold something of these accounts, which
    /// was only found by waiting for it.
    Blocked(Vec<Key>),
    /// Nothing was done: a lock was waited for in vain.
    Waited,
    /// The database refused a value of it.
    Spoiled,
}

/// A connection, and what is counted by it.
pub struct Committer {
    session: Session,
    rules: Rules,
    /// Groups to answer on the callers' thread: from this one, each answer would
    /// wake that thread by itself.
    done: mpsc::UnboundedSender<(Vec<Responder>, Outcome)>,
    /// Groups and requests that could not be counted.
    failed: Seldom,
}

impl Committer {
    pub fn new(
        options: PgConnectOptions,
        rules: Rules,
        done: mpsc::UnboundedSender<(Vec<Responder>, Outcome)>,
        patience: Patience,
    ) -> Self {
        Self {
            session: Session::new(options, patience.settings()),
            rules,
            done,
            failed: Seldom::default(),
        }
    }

    pub fn answer(&self, requests: Vec<QueuedRequest>, outcome: Outcome) {
        // The requests are dropped on this thread, not on the callers'. Sending
        // fails only when no caller is left.
        let responders = requests
            .into_iter()
            .map(|request| request.responder)
            .collect();
        let _ = self.done.send((responders, outcome));
    }

    /// One request must not spoil the others: each is counted by itself.
    pub async fn each_alone(&mut self, requests: Vec<QueuedRequest>) {
        for request in requests {
            let outcome = match self.commit(std::slice::from_ref(&request), true).await {
                Committed::Answered(outcome) => outcome,
                _ => Err(LedgerError::Unavailable),
            };
            self.answer(vec![request], outcome);
        }
    }

    /// Counts a group; `waits`: also for accounts that another session holds.
    pub async fn commit(&mut self, requests: &[QueuedRequest], waits: bool) -> Committed {
        let mut mode = Mode::of(waits);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut batch = Transaction {
                rules: &self.rules,
                requests,
                mode: mode.clone(),
            };
            match self.session.commit(&mut batch).await {
                Ok(Attempt::Done(replies)) => return Committed::Answered(Ok(replies)),
                Ok(Attempt::Held(keys)) => return Committed::Held(keys),
                Ok(Attempt::Again(wanted)) if attempts < ATTEMPTS => mode = wanted,
                Ok(Attempt::Again(_)) => {
                    let error = sqlx::Error::Protocol("a group needs ever more".to_owned());
                    self.tell(&error, requests);
                    return Committed::Spoiled;
                }
                Err(Failure::TimedOut(_)) => return self.whom_it_waited_for(requests).await,
                Err(Failure::Refused(error)) => {
                    db::disk::Writer::Ledger.note(&error);
                    self.tell(&error, requests);
                    return Committed::Spoiled;
                }
                Err(Failure::Unavailable(error)) => return self.unavailable(&error, requests),
            }
        }
    }

    fn unavailable(&self, error: &sqlx::Error, requests: &[QueuedRequest]) -> Committed {
        db::disk::Writer::Ledger.note(error);
        self.tell(error, requests);
        Committed::Answered(Err(LedgerError::Unavailable))
    }

    /// Logs one line for many failures, since clients retry.
    fn tell(&self, error: &sqlx::Error, requests: &[QueuedRequest]) {
        let Some(times) = self.failed.happened(Instant::now()) else {
            return;
        };
        let organization_id = requests.first().map(|request| request.organization_id);
        tracing::error!(
            %error,
            times,
            requests = requests.len(),
            ?organization_id,
            "usage could not be counted; of the last group the first organization is named"
        );
    }

    /// Tells whose rows another session holds.
    async fn whom_it_waited_for(&mut self, requests: &[QueuedRequest]) -> Committed {
        let keys = requests::keys(requests);
        let Some(conn) = self.session.connection() else {
            return Committed::Waited;
        };
        let looking = tokio::time::timeout(SILENCE, store::blocked(conn, &keys));
        match looking.await.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            Ok(blocked) if blocked.is_empty() => Committed::Waited,
            Ok(blocked) => Committed::Blocked(blocked),
            Err(error) => {
                tracing::warn!(%error, "the accounts that are locked could not be read");
                self.session.forget();
                Committed::Waited
            }
        }
    }

    pub async fn close(self) {
        self.session.close().await;
    }
}

/// A group's one transaction.
struct Transaction<'a> {
    rules: &'a Rules,
    requests: &'a [QueuedRequest],
    mode: Mode,
}

impl Batch for Transaction<'_> {
    type Reply = Attempt;

    async fn write(&mut self, conn: &mut PgConnection) -> Result<Attempt, sqlx::Error> {
        transaction::attempt(conn, self.rules, self.requests, &self.mode).await
    }

    fn may_be_committed(&mut self) {
        self.mode.follows_a_lost_answer();
    }
}

/// Lets go what waits when the writer ends, however it does.
struct Exit(Arc<Queue>);

impl Drop for Exit {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The writer of a lane.
pub struct Writer {
    committer: Committer,
    queue: Exit,
    aside: SetAside,
    /// Accounts that were found held, and when.
    held: HashMap<Key, Instant>,
    blocked: Blocked,
}

impl Writer {
    pub fn new(committer: Committer, queue: Arc<Queue>, aside: SetAside) -> Self {
        Self {
            committer,
            queue: Exit(queue),
            blocked: aside.blocked.clone(),
            aside,
            held: HashMap::new(),
        }
    }

    pub async fn run(mut self) {
        while let Some(requests) = self.queue.0.next_group().await {
            self.held.retain(|_, at| at.elapsed() < HELD);
            let requests = self.set_held_aside(requests);
            self.count(requests).await;
        }
        self.committer.close().await;
    }

    async fn count(&mut self, requests: Vec<QueuedRequest>) {
        let mut groups = vec![requests];
        while let Some(requests) = groups.pop() {
            if requests.is_empty() {
                continue;
            }
            let started = Instant::now();
            let committed = self.committer.commit(&requests, false).await;
            metrics::quota_group(requests.len(), started.elapsed());
            match committed {
                Committed::Answered(outcome) => self.committer.answer(requests, outcome),
                Committed::Spoiled => self.divide(requests, &mut groups),
                Committed::Held(keys) => {
                    let now = Instant::now();
                    self.held.extend(keys.into_iter().map(|key| (key, now)));
                    groups.push(self.set_held_aside(requests));
                }
                Committed::Blocked(keys) => {
                    self.blocked.keys().extend(keys);
                    groups.push(self.set_held_aside(requests));
                }
                // Whose lock it was cannot be told.
                Committed::Waited => self.set_aside(requests),
            }
        }
    }

    /// What one organization sent must not spoil the others: the halves are
    /// counted by themselves, and one's own requests one by one, aside.
    fn divide(&self, requests: Vec<QueuedRequest>, groups: &mut Vec<Vec<QueuedRequest>>) {
        let organizations: BTreeSet<Uuid> = requests
            .iter()
            .map(|request| request.organization_id)
            .collect();
        let Some(middle) = organizations.iter().nth(organizations.len() / 2).copied() else {
            return;
        };
        if organizations.len() == 1 {
            return self.set_aside(requests);
        }
        let (first, second) = requests
            .into_iter()
            .partition(|request| request.organization_id < middle);
        groups.extend([second, first]);
    }

    /// Those whose accounts are free.
    fn set_held_aside(&self, requests: Vec<QueuedRequest>) -> Vec<QueuedRequest> {
        let blocked = self.blocked.keys();
        if self.held.is_empty() && blocked.is_empty() {
            return requests;
        }
        let is_held = |request: &QueuedRequest| {
            let keys = touched(request);
            keys.iter()
                .any(|key| self.held.contains_key(key) || blocked.contains(key))
        };
        let (held, free): (Vec<QueuedRequest>, Vec<QueuedRequest>) =
            requests.into_iter().partition(is_held);
        self.set_aside(held);
        free
    }

    fn set_aside(&self, requests: Vec<QueuedRequest>) {
        let now = Instant::now();
        if !requests.is_empty() {
            metrics::usage_set_aside(requests.len() as u64);
        }
        for request in requests {
            self.aside.send(now, request);
        }
    }
}
