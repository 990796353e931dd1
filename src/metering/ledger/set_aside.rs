//! Requests about accounts that another session holds, and those that the
//! database refuses: they wait here, each organization by itself and in turn.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::LedgerError;
use super::queue::{Job, LARGEST_GROUP};
use super::writer::{Blocked, Committed, Committer};

/// How long a request waits for its account; it may be sent again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many requests are counted one by one before the next organization has
/// its turn.
const ONE_BY_ONE: usize = 16;

/// How requests come here. They keep their places in the queue, which bounds
/// them.
pub struct SetAside {
    line: mpsc::UnboundedSender<(Instant, Job)>,
    pub blocked: Blocked,
}

impl SetAside {
    /// Where nobody takes the request, its asker hears that it cannot be counted.
    pub fn send(&self, since: Instant, job: Job) {
        let _ = self.line.send((since, job));
    }
}

/// Where they come out.
pub struct Waiting {
    line: mpsc::UnboundedReceiver<(Instant, Job)>,
    blocked: Blocked,
}

pub fn line() -> (SetAside, Waiting) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let blocked = Blocked::default();
    let set_aside = SetAside {
        line: sender,
        blocked: blocked.clone(),
    };
    let waiting = Waiting {
        line: receiver,
        blocked,
    };
    (set_aside, waiting)
}

/// An organization's requests, each with the time since when it waits.
struct Turn {
    organization_id: Uuid,
    jobs: VecDeque<(Instant, Job)>,
    /// The database refused some of them.
    one_by_one: bool,
}

pub struct Aside {
    committer: Committer,
    incoming: Waiting,
    turns: VecDeque<Turn>,
}

impl Aside {
    pub fn new(committer: Committer, incoming: Waiting) -> Self {
        Self {
            committer,
            incoming,
            turns: VecDeque::new(),
        }
    }

    pub async fn run(mut self) {
        loop {
            if self.turns.is_empty() {
                match self.incoming.line.recv().await {
                    Some((since, job)) => self.line_up(since, job),
                    None => break,
                }
            }
            while let Ok((since, job)) = self.incoming.line.try_recv() {
                self.line_up(since, job);
            }
            if let Some(mut turn) = self.turns.pop_front() {
                self.take(&mut turn).await;
                if !turn.jobs.is_empty() {
                    self.turns.push_back(turn);
                }
            }
        }
        self.committer.close().await;
    }

    fn line_up(&mut self, since: Instant, job: Job) {
        let organization_id = job.organization_id;
        let mut turns = self.turns.iter_mut();
        match turns.find(|turn| turn.organization_id == organization_id) {
            Some(turn) => turn.jobs.push_back((since, job)),
            None => self.turns.push_back(Turn {
                organization_id,
                jobs: VecDeque::from([(since, job)]),
                one_by_one: false,
            }),
        }
    }

    async fn take(&mut self, turn: &mut Turn) {
        if turn.one_by_one {
            return self.take_one_by_one(turn).await;
        }
        let count = turn.jobs.len().min(LARGEST_GROUP);
        let (since, jobs): (Vec<Instant>, Vec<Job>) = turn.jobs.drain(..count).unzip();
        match self.committer.commit(&jobs, true).await {
            Committed::Answered(outcome) => {
                if outcome.is_ok() {
                    self.incoming.blocked.clear(&jobs);
                }
                return self.committer.answer(jobs, outcome);
            }
            Committed::Spoiled => turn.one_by_one = true,
            Committed::Held(_) | Committed::Blocked(_) | Committed::Waited => {}
        }
        // As they were, but for those that have waited long enough.
        let (mut late, mut early) = (Vec::new(), VecDeque::new());
        for (since, job) in since.into_iter().zip(jobs) {
            if turn.one_by_one || since.elapsed() < PATIENCE {
                early.push_back((since, job));
            } else {
                late.push(job);
            }
        }
        early.append(&mut turn.jobs);
        turn.jobs = early;
        self.give_up(turn.organization_id, late);
    }

    async fn take_one_by_one(&mut self, turn: &mut Turn) {
        let count = turn.jobs.len().min(ONE_BY_ONE);
        let jobs: Vec<Job> = turn.jobs.drain(..count).map(|(_, job)| job).collect();
        self.committer.each_alone(jobs).await;
    }

    fn give_up(&self, organization_id: Uuid, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        tracing::error!(
            %organization_id,
            requests = jobs.len(),
            "usage could not be counted: another session holds the organization's account"
        );
        self.committer.answer(jobs, Err(LedgerError::Unavailable));
    }
}
