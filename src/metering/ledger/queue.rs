//! A lane's queue: each organization has a line of its own, and a group takes
//! from all of them in turn. What one organization may have here is as much as
//! is free: alone it gets half of the room, beside others less, and there is
//! always room for one that has nothing here.

use std::collections::{HashMap, VecDeque};
use std::ops::{AddAssign, SubAssign};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::{LedgerError, Op, Reply};
use crate::limits;

/// What a lane's requests come to, until they are answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    pub requests: usize,
    pub events: usize,
    /// Of memory, while they wait.
    pub bytes: usize,
}

/// The room of a lane.
pub const ROOM: Load = Load {
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
            Op::Check { event: asked, .. } => (1, event(asked)),
            Op::Reserve { .. } | Op::TakeDue { .. } | Op::Settle { .. } => (1, 0),
        };
        Self {
            requests: 1,
            events,
            bytes: bytes + size_of::<Job>(),
        }
    }

    fn fits(self, room: Self) -> bool {
        self.requests <= room.requests && self.events <= room.events && self.bytes <= room.bytes
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

/// A request, and who waits for its answer.
pub struct Job {
    pub organization_id: Uuid,
    pub op: Op,
    pub asker: Asker,
}

impl Job {
    fn load(&self) -> Load {
        self.asker.place.load
    }
}

/// Who waits for an answer, and the place in the queue until then.
pub struct Asker {
    answer: oneshot::Sender<Result<Reply, LedgerError>>,
    place: Place,
}

impl Asker {
    /// Nobody asks any more where this comes to nothing.
    pub fn answer(self, reply: Result<Reply, LedgerError>) {
        drop(self.place);
        let _ = self.answer.send(reply);
    }
}

/// Room that is taken until this is dropped.
struct Place {
    queue: Arc<Queue>,
    organization_id: Uuid,
    load: Load,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue
            .state()
            .give_back(self.organization_id, self.load);
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
    /// Nobody asks any more, or nobody counts.
    closed: bool,
}

/// What an organization has here.
#[derive(Default)]
struct Line {
    /// Those that are being counted, or wait aside, included.
    used: Load,
    jobs: VecDeque<Job>,
}

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// The organization has its share.
    Share,
    /// All is taken.
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

    /// Lines a request up; the answer comes later.
    pub fn push(
        self: &Arc<Self>,
        organization_id: Uuid,
        op: Op,
    ) -> Result<oneshot::Receiver<Result<Reply, LedgerError>>, NoRoom> {
        let load = Load::of(&op);
        // What was held is settled whatever else its organization sends.
        let is_bounded = !matches!(op, Op::Settle { .. });
        let mut state = self.state();
        state.take_room(organization_id, load, is_bounded)?;
        let (answer, answered) = oneshot::channel();
        let place = Place {
            queue: self.clone(),
            organization_id,
            load,
        };
        let job = Job {
            organization_id,
            op,
            asker: Asker { answer, place },
        };
        let was_empty = state.turns.is_empty();
        state.line_up(job);
        drop(state);
        if was_empty {
            self.filled.notify_one();
        }
        Ok(answered)
    }

    /// The next group; None: nobody asks any more.
    pub async fn next_group(&self) -> Option<Vec<Job>> {
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

    /// No more is taken.
    pub fn close(&self) {
        self.state().closed = true;
        self.filled.notify_one();
    }

    /// Nobody counts any more: what waits is let go.
    pub fn abandon(&self) {
        let mut state = self.state();
        state.closed = true;
        state.turns.clear();
        let lines = state.lines.values_mut();
        let jobs: Vec<Job> = lines.flat_map(|line| line.jobs.drain(..)).collect();
        drop(state);
        drop(jobs);
    }
}

impl State {
    fn take_room(&mut self, organization: Uuid, load: Load, bounded: bool) -> Result<(), NoRoom> {
        if self.closed {
            return Err(NoRoom::Closed);
        }
        let mut all = self.used;
        all += load;
        if !all.fits(ROOM) {
            return Err(NoRoom::Full);
        }
        let mut free = ROOM;
        free -= self.used;
        let line = self.lines.entry(organization).or_default();
        let mut own = line.used;
        own += load;
        if bounded && !own.fits(free) {
            // Its line has something in it, or it would fit.
            return Err(NoRoom::Share);
        }
        line.used = own;
        self.used = all;
        Ok(())
    }

    fn give_back(&mut self, organization_id: Uuid, load: Load) {
        self.used -= load;
        if let Some(line) = self.lines.get_mut(&organization_id) {
            line.used -= load;
            if line.used.requests == 0 {
                self.lines.remove(&organization_id);
            }
        }
    }

    fn line_up(&mut self, job: Job) {
        let organization_id = job.organization_id;
        let line = self.lines.entry(organization_id).or_default();
        if line.jobs.is_empty() {
            self.turns.push_back(organization_id);
        }
        line.jobs.push_back(job);
    }

    /// Small requests come first; batches of the same organizations, and of
    /// others, with them in every other group.
    fn next_group(&mut self, now: Instant) -> Vec<Job> {
        let soon = |at: Instant| now.saturating_duration_since(at) < SOON;
        let most_events = match self.small_at {
            Some(at) if soon(at) => FEWER_EVENTS,
            _ => MOST_EVENTS,
        };
        let mut group = Group {
            jobs: Vec::new(),
            load: Load::default(),
            most_events,
        };
        let is_shared = self.turns.len() > 1;
        let left = self.fill(&mut group, Load::is_small);
        if !group.jobs.is_empty() {
            self.small_at = Some(now);
        }
        let waits = left && is_shared && !group.jobs.is_empty() && !self.left_batches;
        self.left_batches = waits;
        if !waits {
            self.fill(&mut group, |_| true);
        }
        group.jobs
    }

    /// One request of each line in turn, while the next one is `wanted`; true:
    /// some were not.
    fn fill(&mut self, group: &mut Group, wanted: impl Fn(Load) -> bool) -> bool {
        let mut passed_over = 0;
        while passed_over < self.turns.len() && group.has_room() {
            let Some(organization_id) = self.turns.pop_front() else {
                break;
            };
            let Some(line) = self.lines.get_mut(&organization_id) else {
                continue;
            };
            if line.jobs.front().is_some_and(|job| wanted(job.load())) {
                group.jobs.extend(line.jobs.pop_front().inspect(|job| {
                    group.load += job.load();
                }));
                passed_over = 0;
            } else {
                passed_over += 1;
            }
            if !line.jobs.is_empty() {
                self.turns.push_back(organization_id);
            }
        }
        passed_over > 0
    }
}

struct Group {
    jobs: Vec<Job>,
    load: Load,
    most_events: usize,
}

impl Group {
    /// Whether another fits, however large it is.
    fn has_room(&self) -> bool {
        self.load.requests < LARGEST_GROUP
            && self.load.events < self.most_events
            && self.load.bytes < MOST_BYTES
    }
}

#[cfg(test)]
mod tests;
