//! A lane's queue: each organization has a line of its own, and a group takes
//! from all of them in turn. An organization may hold as much as is free: alone
//! it gets half of the capacity, beside others less, and one that holds nothing
//! is never refused for its share.

use std::collections::{HashMap, VecDeque};
use std::ops::{AddAssign, SubAssign};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::{LedgerError, Op, Reply};
use crate::limits;

/// What requests take up, until they are answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    pub requests: usize,
    pub events: usize,
    /// Of memory, while they wait.
    pub bytes: usize,
}

/// The capacity of a lane.
pub const CAPACITY: Load = Load {
    requests: limits::USAGE_REQUESTS,
    events: limits::USAGE_EVENTS,
    bytes: limits::USAGE_BYTES,
};
/// How many requests, and events in them, one commit takes at most.
pub const LARGEST_GROUP: usize = 512;
const MOST_EVENTS: usize = 4_000;
/// While requests come that are soon counted, which would wait for the rest.
const FEWER_EVENTS: usize = 1_000;
/// A group is copied a few times on its way to the database.
const MOST_BYTES: usize = 2 * 1024 * 1024;
/// A request with more events is a batch: those with fewer are counted first.
const SMALL: usize = 16;
/// How long after a small request the next one is reckoned with.
const SOON: Duration = Duration::from_secs(1);

impl Load {
    pub fn of(op: &Op) -> Self {
        let event = |event: &super::NewEvent| {
            let metadata = event.metadata.as_ref().map_or(0, String::capacity);
            size_of_val(event) + event.id.capacity() + event.metric.capacity() + metadata
        };
        let (events, bytes) = match op {
            Op::Record(events) => (events.len(), events.iter().map(event).sum()),
            Op::Check(question) => (1, event(&question.event)),
            Op::Hold { hold, .. } => (1, hold.name.capacity() + hold.metric.capacity()),
            // A hold that is settled has its name three times.
            Op::SettleHold(settling) => (1, 3 * settling.hold.name.capacity()),
            Op::TakeBack(use_) => (1, use_.event_id.capacity()),
            Op::Reserve { .. } | Op::TakeDue { .. } | Op::Settle { .. } => (1, 0),
        };
        Self {
            requests: 1,
            events,
            bytes: bytes + size_of::<QueuedRequest>(),
        }
    }

    fn fits(self, capacity: Self) -> bool {
        self.requests <= capacity.requests
            && self.events <= capacity.events
            && self.bytes <= capacity.bytes
    }

    fn is_small(self) -> bool {
        self.events <= SMALL
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.events += other.events;
        self.bytes += other.bytes;
    }
}

impl SubAssign for Load {
    fn sub_assign(&mut self, other: Self) {
        self.requests -= other.requests;
        self.events -= other.events;
        self.bytes -= other.bytes;
    }
}

/// A request that waits to be counted.
pub struct QueuedRequest {
    pub organization_id: Uuid,
    pub op: Op,
    pub responder: Responder,
}

impl QueuedRequest {
    fn load(&self) -> Load {
        self.responder.permit.load
    }
}

/// Answers a request. It keeps the request's permit until then.
pub struct Responder {
    answer: oneshot::Sender<Result<Reply, LedgerError>>,
    permit: Permit,
}

impl Responder {
    /// If the caller has gone away, the reply is dropped.
    pub fn answer(self, reply: Result<Reply, LedgerError>) {
        drop(self.permit);
        let _ = self.answer.send(reply);
    }
}

/// A request's share of the capacity, released on drop.
struct Permit {
    queue: Arc<Queue>,
    organization_id: Uuid,
    load: Load,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.queue.state().release(self.organization_id, self.load);
    }
}

pub struct Queue {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Default)]
struct State {
    used: Load,
    lines: HashMap<Uuid, Line>,
    /// Organizations whose requests wait, each once.
    turns: VecDeque<Uuid>,
    /// The last group left batches to the next.
    left_batches: bool,
    small_at: Option<Instant>,
    /// No more requests come, or no writer counts them.
    closed: bool,
}

/// An organization's requests.
#[derive(Default)]
struct Line {
    /// Includes requests that are being counted or wait aside.
    used: Load,
    requests: VecDeque<QueuedRequest>,
}

/// Why a request is not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The organization has used up its share.
    Share,
    /// The queue is full.
    Full,
    Closed,
}

impl Queue {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            filled: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request. The receiver gets the answer.
    pub fn push(
        self: &Arc<Self>,
        organization_id: Uuid,
        op: Op,
    ) -> Result<oneshot::Receiver<Result<Reply, LedgerError>>, Rejection> {
        let load = Load::of(&op);
        // A reservation is settled whatever else its organization sends.
        let is_bounded = !matches!(op, Op::Settle { .. } | Op::SettleHold(_));
        let mut state = self.state();
        state.acquire(organization_id, load, is_bounded)?;
        let (answer, answered) = oneshot::channel();
        let permit = Permit {
            queue: self.clone(),
            organization_id,
            load,
        };
        let request = QueuedRequest {
            organization_id,
            op,
            responder: Responder { answer, permit },
        };
        let was_empty = state.turns.is_empty();
        state.enqueue(request);
        drop(state);
        if was_empty {
            self.filled.notify_one();
        }
        Ok(answered)
    }

    /// The next group; `None` once the queue is closed and empty.
    pub async fn next_group(&self) -> Option<Vec<QueuedRequest>> {
        loop {
            {
                let mut state = self.state();
                if !state.turns.is_empty() {
                    return Some(state.next_group(Instant::now()));
                }
                if state.closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Refuses further requests.
    pub fn close(&self) {
        self.state().closed = true;
        self.filled.notify_one();
    }

    /// Drops what waits, since no writer is left to count it.
    pub fn abandon(&self) {
        let mut state = self.state();
        state.closed = true;
        state.turns.clear();
        let lines = state.lines.values_mut();
        let requests: Vec<QueuedRequest> = lines.flat_map(|line| line.requests.drain(..)).collect();
        drop(state);
        drop(requests);
    }
}

impl State {
    fn acquire(&mut self, organization: Uuid, load: Load, bounded: bool) -> Result<(), Rejection> {
        if self.closed {
            return Err(Rejection::Closed);
        }
        let mut all = self.used;
        all += load;
        if !all.fits(CAPACITY) {
            return Err(Rejection::Full);
        }
        let mut free = CAPACITY;
        free -= self.used;
        let line = self.lines.entry(organization).or_default();
        let mut own = line.used;
        own += load;
        if bounded && !own.fits(free) {
            // Its line is not empty, or the request would fit.
            return Err(Rejection::Share);
        }
        line.used = own;
        self.used = all;
        Ok(())
    }

    fn release(&mut self, organization_id: Uuid, load: Load) {
        self.used -= load;
        if let Some(line) = self.lines.get_mut(&organization_id) {
            line.used -= load;
            if line.used.requests == 0 {
                self.lines.remove(&organization_id);
            }
        }
    }

    fn enqueue(&mut self, request: QueuedRequest) {
        let organization_id = request.organization_id;
        let line = self.lines.entry(organization_id).or_default();
        if line.requests.is_empty() {
            self.turns.push_back(organization_id);
        }
        line.requests.push_back(request);
    }

    /// Small requests come first; batches of the same organizations, and of
    /// others, with them in every other group.
    fn next_group(&mut self, now: Instant) -> Vec<QueuedRequest> {
        let soon = |at: Instant| now.saturating_duration_since(at) < SOON;
        let most_events = match self.small_at {
            Some(at) if soon(at) => FEWER_EVENTS,
            _ => MOST_EVENTS,
        };
        let mut group = Group {
            requests: Vec::new(),
            load: Load::default(),
            most_events,
        };
        let is_shared = self.turns.len() > 1;
        let left = self.fill(&mut group, Load::is_small);
        if !group.requests.is_empty() {
            self.small_at = Some(now);
        }
        let waits = left && is_shared && !group.requests.is_empty() && !self.left_batches;
        self.left_batches = waits;
        if !waits {
            self.fill(&mut group, |_| true);
        }
        group.requests
    }

    /// One request of each line in turn, while the next one is `wanted`; true:
    /// some were not.
    fn fill(&mut self, group: &mut Group, wanted: impl Fn(Load) -> bool) -> bool {
        let mut passed_over = 0;
        while passed_over < self.turns.len() && group.has_capacity() {
            let Some(organization_id) = self.turns.pop_front() else {
                break;
            };
            let Some(line) = self.lines.get_mut(&organization_id) else {
                continue;
            };
            if line
                .requests
                .front()
                .is_some_and(|request| wanted(request.load()))
            {
                group
                    .requests
                    .extend(line.requests.pop_front().inspect(|request| {
                        group.load += request.load();
                    }));
                passed_over = 0;
            } else {
                passed_over += 1;
            }
            if !line.requests.is_empty() {
                self.turns.push_back(organization_id);
            }
        }
        passed_over > 0
    }
}

struct Group {
    requests: Vec<QueuedRequest>,
    load: Load,
    most_events: usize,
}

impl Group {
    /// Whether another fits, however large it is.
    fn has_capacity(&self) -> bool {
        self.load.requests < LARGEST_GROUP
            && self.load.events < self.most_events
            && self.load.bytes < MOST_BYTES
    }
}

#[cfg(test)]
mod tests;
