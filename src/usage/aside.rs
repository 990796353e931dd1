//! Requests about accounts that another session holds: they wait here, each
//! organization by itself and in turn.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::ledger::{Job, LedgerError};
use super::writer::{Committed, Committer, LARGEST_GROUP};

/// How long a request waits for its account; it may be sent again.
const PATIENCE: Duration = Duration::from_secs(2);

/// An organization's requests, each with the time since when it waits.
struct Turn {
    organization_id: Uuid,
    jobs: Vec<(Instant, Job)>,
}

pub struct Aside {
    committer: Committer,
    incoming: mpsc::Receiver<(Instant, Job)>,
    turns: VecDeque<Turn>,
}

impl Aside {
    pub fn new(committer: Committer, incoming: mpsc::Receiver<(Instant, Job)>) -> Self {
        Self {
            committer,
            incoming,
            turns: VecDeque::new(),
        }
    }

    pub async fn run(mut self) {
        loop {
            if self.turns.is_empty() {
                match self.incoming.recv().await {
                    Some((since, job)) => self.line_up(since, job),
                    None => break,
                }
            }
            while let Ok((since, job)) = self.incoming.try_recv() {
                self.line_up(since, job);
            }
            if let Some(turn) = self.turns.pop_front() {
                self.take(turn).await;
            }
        }
        self.committer.close().await;
    }

    fn line_up(&mut self, since: Instant, job: Job) {
        let organization_id = job.organization_id;
        let mut turns = self.turns.iter_mut();
        match turns.find(|turn| turn.organization_id == organization_id) {
            Some(turn) => turn.jobs.push((since, job)),
            None => self.turns.push_back(Turn {
                organization_id,
                jobs: vec![(since, job)],
            }),
        }
    }

    async fn take(&mut self, mut turn: Turn) {
        let rest = turn.jobs.split_off(turn.jobs.len().min(LARGEST_GROUP));
        let (since, jobs): (Vec<Instant>, Vec<Job>) = turn.jobs.into_iter().unzip();
        match self.committer.commit(&jobs, true).await {
            Committed::Answered(outcome) => self.committer.answer(jobs, outcome),
            Committed::Spoiled => self.committer.each_alone(jobs).await,
            Committed::Held(_) | Committed::Waited => {
                for (since, job) in since.into_iter().zip(jobs) {
                    self.again(since, job);
                }
            }
        }
        for (since, job) in rest {
            self.line_up(since, job);
        }
    }

    /// At the end of the line, or not any more.
    fn again(&mut self, since: Instant, job: Job) {
        if since.elapsed() < PATIENCE {
            return self.line_up(since, job);
        }
        tracing::error!(
            organization_id = %job.organization_id,
            "usage could not be counted: another session holds the organization's account"
        );
        self.committer
            .answer(vec![job], Err(LedgerError::Unavailable));
    }
}
