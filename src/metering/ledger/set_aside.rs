//! Requests about accounts that another session holds, and those that the
//! database refuses: they wait here, each organization by itself and in turn.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::LedgerError;
use super::queue::{LARGEST_GROUP, QueuedRequest};
use super::writer::{Blocked, Committed, Committer};

/// How long a request waits for its account; it may be sent again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many requests are counted one by one before the next organization has
/// its turn.
const ONE_BY_ONE: usize = 16;

/// The way in. Requests keep their permits, so the queue bounds them.
pub struct SetAside {
    line: mpsc::UnboundedSender<(Instant, QueuedRequest)>,
    pub blocked: Blocked,
}

impl SetAside {
    /// If the receiver is gone, the request is dropped, and its caller learns that it
    /// cannot be counted.
    pub fn send(&self, since: Instant, request: QueuedRequest) {
        let _ = self.line.send((since, request));
    }
}

/// The way out.
pub struct Waiting {
    line: mpsc::UnboundedReceiver<(Instant, QueuedRequest)>,
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
    requests: VecDeque<(Instant, QueuedRequest)>,
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
                    Some((since, request)) => self.enqueue(since, request),
                    None => break,
                }
            }
            while let Ok((since, request)) = self.incoming.line.try_recv() {
                self.enqueue(since, request);
            }
            if let Some(mut turn) = self.turns.pop_front() {
                self.take(&mut turn).await;
                if !turn.requests.is_empty() {
                    self.turns.push_back(turn);
                }
            }
        }
        self.committer.close().await;
    }

    fn enqueue(&mut self, since: Instant, request: QueuedRequest) {
        let organization_id = request.organization_id;
        let mut turns = self.turns.iter_mut();
        match turns.find(|turn| turn.organization_id == organization_id) {
            Some(turn) => turn.requests.push_back((since, request)),
            None => self.turns.push_back(Turn {
                organization_id,
                requests: VecDeque::from([(since, request)]),
                one_by_one: false,
            }),
        }
    }

    async fn take(&mut self, turn: &mut Turn) {
        if turn.one_by_one {
            return self.take_one_by_one(turn).await;
        }
        let count = turn.requests.len().min(LARGEST_GROUP);
        let (since, requests): (Vec<Instant>, Vec<QueuedRequest>) =
            turn.requests.drain(..count).unzip();
        match self.committer.commit(&requests, true).await {
            Committed::Answered(outcome) => {
                if outcome.is_ok() {
                    self.incoming.blocked.clear(&requests);
                }
                return self.committer.answer(requests, outcome);
            }
            Committed::Spoiled => turn.one_by_one = true,
            Committed::Held(_) | Committed::Blocked(_) | Committed::Waited => {}
        }
        // As they were, but for those that have waited long enough.
        let (mut late, mut early) = (Vec::new(), VecDeque::new());
        for (since, request) in since.into_iter().zip(requests) {
            if turn.one_by_one || since.elapsed() < PATIENCE {
                early.push_back((since, request));
            } else {
                late.push(request);
            }
        }
        early.append(&mut turn.requests);
        turn.requests = early;
        self.give_up(turn.organization_id, late);
    }

    async fn take_one_by_one(&mut self, turn: &mut Turn) {
        let count = turn.requests.len().min(ONE_BY_ONE);
        let requests: Vec<QueuedRequest> = turn
            .requests
            .drain(..count)
            .map(|(_, request)| request)
            .collect();
        self.committer.each_alone(requests).await;
    }

    fn give_up(&self, organization_id: Uuid, requests: Vec<QueuedRequest>) {
        if requests.is_empty() {
            return;
        }
        tracing::error!(
            %organization_id,
            requests = requests.len(),
            "usage could not be counted: another session holds the organization's account"
        );
        self.committer
            .answer(requests, Err(LedgerError::Unavailable));
    }
}
