//! Who writes a lane's requests: group after group, each a transaction.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::queue::{Asker, Job, Queue};
use super::set_aside::SetAside;
use super::store;
use super::transaction::{self, Attempt, Key, Mode, touched};
use super::{LedgerError, Outcome, Rules};
use crate::db;
use crate::telemetry::metrics;
use crate::telemetry::seldom::Seldom;

/// Plans are made once, maybe while the tables are empty, and every statement
/// finds its rows by their keys: nothing is ever to be read from end to end.
const OPENING: &str = "SET ROLE billing_worker; SET statement_timeout = '4s'; \
                       SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
                       SET enable_hashjoin = off; SET enable_mergejoin = off";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The server cancels a slow statement; this is for one that says nothing more.
const SILENCE: Duration = Duration::from_secs(6);
/// How often a group is tried again that met another's locks.
const CONFLICTS: u32 = 5;
/// How long an account that was found held is taken for held.
const HELD: Duration = Duration::from_millis(100);

/// How long a group waits for a lock.
#[derive(Debug, Clone, Copy)]
pub enum Patience {
    /// It waits with others, who have nothing to do with the lock.
    Short,
    /// It has waited for its turn.
    Long,
}

impl Patience {
    const fn statement(self) -> &'static str {
        match self {
            Self::Short => "SET lock_timeout = '50ms'",
            Self::Long => "SET lock_timeout = '100ms'",
        }
    }
}

/// Accounts of which another session holds something that was waited for in
/// vain, until they are counted in again.
#[derive(Clone, Default)]
pub struct Blocked(Arc<Mutex<HashSet<Key>>>);

impl Blocked {
    fn keys(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// They were counted in.
    pub fn clear(&self, jobs: &[Job]) {
        let mut keys = self.keys();
        if !keys.is_empty() {
            for key in jobs.iter().flat_map(touched) {
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
    options: PgConnectOptions,
    rules: Rules,
    /// Groups to be answered where they were asked: from another thread, each
    /// answer would wake that one by itself.
    done: mpsc::UnboundedSender<(Vec<Asker>, Outcome)>,
    patience: Patience,
    connection: Option<PgConnection>,
    /// Groups and requests that could not be counted.
    failed: Seldom,
}

impl Committer {
    pub fn new(
        options: PgConnectOptions,
        rules: Rules,
        done: mpsc::UnboundedSender<(Vec<Asker>, Outcome)>,
        patience: Patience,
    ) -> Self {
        Self {
            options,
            rules,
            done,
            patience,
            connection: None,
            failed: Seldom::default(),
        }
    }

    pub fn answer(&self, jobs: Vec<Job>, outcome: Outcome) {
        // What was asked is forgotten here, and not on the thread of those who
        // asked. Nobody asks any more where this fails.
        let askers = jobs.into_iter().map(|job| job.asker).collect();
        let _ = self.done.send((askers, outcome));
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
                None => match self.connect().await {
                    Ok(connection) => self.connection.insert(connection),
                    Err(error) => return self.unavailable(&error, jobs),
                },
            };
            let attempt = transaction::attempt(connection, &self.rules, jobs, &mode);
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
                return self.whom_it_waited_for(jobs).await;
            }
            if error.as_database_error().is_some()
                && !db::is_outage(&error)
                && self.roll_back().await
            {
                db::disk::Writer::Ledger.note(&error);
                self.tell(&error, jobs);
                return Committed::Spoiled;
            }
            self.connection = None;
            // It may have died between two groups, with the server it led to.
            let died = db::is_outage(&error) && !matches!(error, sqlx::Error::PoolTimedOut);
            if !(died && reused) {
                return self.unavailable(&error, jobs);
            }
            reused = false;
        }
    }

    fn unavailable(&self, error: &sqlx::Error, jobs: &[Job]) -> Committed {
        db::disk::Writer::Ledger.note(error);
        self.tell(error, jobs);
        Committed::Answered(Err(LedgerError::Unavailable))
    }

    /// One line for many: whoever sends what cannot be counted sends it again.
    fn tell(&self, error: &sqlx::Error, jobs: &[Job]) {
        let Some(times) = self.failed.happened(Instant::now()) else {
            return;
        };
        let organization_id = jobs.first().map(|job| job.organization_id);
        tracing::error!(
            %error,
            times,
            requests = jobs.len(),
            ?organization_id,
            "usage could not be counted; of the last group the first organization is named"
        );
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = db::dedicated(&self.options, OPENING, CONNECT_TIMEOUT).await?;
        connection.execute(self.patience.statement()).await?;
        Ok(connection)
    }

    /// Tells whose rows another session holds.
    async fn whom_it_waited_for(&mut self, jobs: &[Job]) -> Committed {
        let Some(connection) = &mut self.connection else {
            return Committed::Waited;
        };
        let keys = transaction::keys(jobs);
        let looked = tokio::time::timeout(SILENCE, store::blocked(connection, &keys)).await;
        match looked.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            Ok(blocked) if blocked.is_empty() => Committed::Waited,
            Ok(blocked) => Committed::Blocked(blocked),
            Err(error) => {
                tracing::warn!(%error, "it could not be told whose account is held");
                self.connection = None;
                Committed::Waited
            }
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
        while let Some(jobs) = self.queue.0.next_group().await {
            self.held.retain(|_, at| at.elapsed() < HELD);
            let jobs = self.set_held_aside(jobs);
            self.count(jobs).await;
        }
        self.committer.close().await;
    }

    async fn count(&mut self, jobs: Vec<Job>) {
        let mut groups = vec![jobs];
        while let Some(jobs) = groups.pop() {
            if jobs.is_empty() {
                continue;
            }
            let started = Instant::now();
            let committed = self.committer.commit(&jobs, false).await;
            metrics::quota_group(jobs.len(), started.elapsed());
            match committed {
                Committed::Answered(outcome) => self.committer.answer(jobs, outcome),
                Committed::Spoiled => self.divide(jobs, &mut groups),
                Committed::Held(keys) => {
                    let now = Instant::now();
                    self.held.extend(keys.into_iter().map(|key| (key, now)));
                    groups.push(self.set_held_aside(jobs));
                }
                Committed::Blocked(keys) => {
                    self.blocked.keys().extend(keys);
                    groups.push(self.set_held_aside(jobs));
                }
                // Whose lock it was cannot be told.
                Committed::Waited => self.set_aside(jobs),
            }
        }
    }

    /// What one organization sent must not spoil the others: the halves are
    /// counted by themselves, and one's own requests one by one, aside.
    fn divide(&self, jobs: Vec<Job>, groups: &mut Vec<Vec<Job>>) {
        let organizations: BTreeSet<Uuid> = jobs.iter().map(|job| job.organization_id).collect();
        let Some(middle) = organizations.iter().nth(organizations.len() / 2).copied() else {
            return;
        };
        if organizations.len() == 1 {
            return self.set_aside(jobs);
        }
        let (first, second) = jobs
            .into_iter()
            .partition(|job| job.organization_id < middle);
        groups.extend([second, first]);
    }

    /// Those whose accounts are free.
    fn set_held_aside(&self, jobs: Vec<Job>) -> Vec<Job> {
        let blocked = self.blocked.keys();
        if self.held.is_empty() && blocked.is_empty() {
            return jobs;
        }
        let is_held = |job: &Job| {
            let keys = touched(job);
            keys.iter()
                .any(|key| self.held.contains_key(key) || blocked.contains(key))
        };
        let (held, free): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(is_held);
        self.set_aside(held);
        free
    }

    fn set_aside(&self, jobs: Vec<Job>) {
        let now = Instant::now();
        if !jobs.is_empty() {
            metrics::usage_set_aside(jobs.len() as u64);
        }
        for job in jobs {
            self.aside.send(now, job);
        }
    }
}
