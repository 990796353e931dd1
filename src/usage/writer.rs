//! Who writes a lane's requests: group after group, each a transaction.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _};
use tokio::sync::mpsc;

use super::group::{self, Attempt, Key, Mode, touched};
use super::ledger::{Job, LedgerError, Outcome, Rules};
use crate::db;
use crate::metrics;

/// How many requests, and events in them, one commit takes at most.
pub const LARGEST_GROUP: usize = 512;
const MOST_EVENTS: usize = 4_000;
/// A group that waits longer for a lock is divided, so that nobody waits for
/// another organization's.
///
/// Plans are made once, maybe while the tables are empty, and every statement
/// finds its rows by their keys: nothing is ever to be read from end to end.
const OPENING: &str = "SET ROLE billing_worker; SET statement_timeout = '4s'; \
                       SET lock_timeout = '100ms'; SET jit = off; \
                       SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
                       SET enable_hashjoin = off; SET enable_mergejoin = off";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The server cancels a slow statement; this is for one that says nothing more.
const SILENCE: Duration = Duration::from_secs(6);
/// How often a group is tried again that met another's locks.
const CONFLICTS: u32 = 5;
/// How long an account that was found held is taken for held.
const HELD: Duration = Duration::from_millis(100);

/// What became of a group.
pub enum Committed {
    /// Everybody is answered.
    Answered(Outcome),
    /// Nothing was done: other sessions hold these accounts.
    Held(BTreeSet<Key>),
    /// Nothing was done: a lock was waited for in vain.
    Waited,
    /// The database refused a value of it.
    Spoiled,
}

/// A connection, and what is counted by it.
pub struct Committer {
    options: PgConnectOptions,
    rules: Rules,
    /// Groups to be answered where they were asked: from another thread, each
    /// answer would wake that one by itself.
    done: mpsc::UnboundedSender<(Vec<Job>, Outcome)>,
    connection: Option<PgConnection>,
}

impl Committer {
    pub fn new(
        options: PgConnectOptions,
        rules: Rules,
        done: mpsc::UnboundedSender<(Vec<Job>, Outcome)>,
    ) -> Self {
        Self {
            options,
            rules,
            done,
            connection: None,
        }
    }

    pub fn answer(&self, jobs: Vec<Job>, outcome: Outcome) {
        // Nobody asks any more where this fails.
        let _ = self.done.send((jobs, outcome));
    }

    /// One request must not spoil the others: each is counted by itself.
    pub async fn each_alone(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            let outcome = match self.commit(std::slice::from_ref(&job), true).await {
                Committed::Answered(outcome) => outcome,
                _ => Err(LedgerError::Unavailable),
            };
            self.answer(vec![job], outcome);
        }
    }

    /// Counts a group; `waits`: also for accounts that another session holds.
    pub async fn commit(&mut self, jobs: &[Job], waits: bool) -> Committed {
        let mut reused = self.connection.is_some();
        let mut mode = Mode::of(waits);
        let mut conflicts = 0;
        loop {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                None => match db::dedicated(&self.options, OPENING, CONNECT_TIMEOUT).await {
                    Ok(connection) => self.connection.insert(connection),
                    Err(error) => return unavailable(&error, jobs),
                },
            };
            let attempt = group::attempt(connection, &self.rules, jobs, mode);
            let attempted = tokio::time::timeout(SILENCE, attempt).await;
            let error = match attempted.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
                Ok(Attempt::Done(replies)) => return Committed::Answered(Ok(replies)),
                Ok(Attempt::Held(keys)) => return Committed::Held(keys),
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
                return Committed::Waited;
            }
            if error.as_database_error().is_some()
                && !db::is_outage(&error)
                && self.roll_back().await
            {
                tracing::error!(%error, requests = jobs.len(), "usage could not be counted");
                return Committed::Spoiled;
            }
            self.connection = None;
            // It may have died between two groups, with the server it led to.
            let died = db::is_outage(&error) && !matches!(error, sqlx::Error::PoolTimedOut);
            if !(died && reused) {
                return unavailable(&error, jobs);
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

    pub async fn close(self) {
        if let Some(connection) = self.connection {
            let _ = connection.close().await;
        }
    }
}

fn unavailable(error: &sqlx::Error, jobs: &[Job]) -> Committed {
    db::disk::note(error);
    tracing::error!(%error, requests = jobs.len(), "usage could not be counted");
    Committed::Answered(Err(LedgerError::Unavailable))
}

/// The writer of a lane.
pub struct Writer {
    committer: Committer,
    queue: mpsc::Receiver<Job>,
    aside: mpsc::Sender<(Instant, Job)>,
    /// Accounts that were found held, and when.
    held: HashMap<Key, Instant>,
}

impl Writer {
    pub fn new(
        committer: Committer,
        queue: mpsc::Receiver<Job>,
        aside: mpsc::Sender<(Instant, Job)>,
    ) -> Self {
        Self {
            committer,
            queue,
            aside,
            held: HashMap::new(),
        }
    }

    pub async fn run(mut self) {
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
            self.held.retain(|_, at| at.elapsed() < HELD);
            let jobs = self.set_held_aside(jobs);
            self.count(jobs).await;
        }
        self.committer.close().await;
    }

    async fn count(&mut self, mut jobs: Vec<Job>) {
        while !jobs.is_empty() {
            let started = Instant::now();
            let committed = self.committer.commit(&jobs, false).await;
            metrics::quota_group(jobs.len(), started.elapsed());
            jobs = match committed {
                Committed::Answered(outcome) => return self.committer.answer(jobs, outcome),
                Committed::Spoiled => return self.committer.each_alone(jobs).await,
                Committed::Held(keys) => {
                    let now = Instant::now();
                    self.held.extend(keys.into_iter().map(|key| (key, now)));
                    self.set_held_aside(jobs)
                }
                // Whose lock it was cannot be told.
                Committed::Waited => return self.set_aside(jobs),
            };
        }
    }

    /// Those whose accounts are free.
    fn set_held_aside(&self, jobs: Vec<Job>) -> Vec<Job> {
        if self.held.is_empty() {
            return jobs;
        }
        let is_held = |job: &Job| touched(job).iter().any(|key| self.held.contains_key(key));
        let (held, free): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(is_held);
        self.set_aside(held);
        free
    }

    fn set_aside(&self, jobs: Vec<Job>) {
        let now = Instant::now();
        for job in jobs {
            if let Err(error) = self.aside.try_send((now, job)) {
                let (_, job) = error.into_inner();
                self.committer.answer(vec![job], Err(LedgerError::Full));
            }
        }
    }
}
