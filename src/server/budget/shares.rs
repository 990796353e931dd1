//! Bytes of bodies and answers that are in memory: of all, and of each who sends or
//! reads them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::Notify;
use uuid::Uuid;

use super::progress::Progress;
use super::{Address, Budget, Line};
use crate::limits;
use crate::telemetry::metrics::budget as metrics;

/// Which share a body or an answer is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Intake,
    Api,
    Anonymous,
    /// Answers that were made.
    Answers,
    /// Answers of upstreams, as they come.
    Forwarded,
}

impl Class {
    pub const ALL: [Self; 5] = [
        Self::Intake,
        Self::Api,
        Self::Anonymous,
        Self::Answers,
        Self::Forwarded,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intake => "intake",
            Self::Api => "api",
            Self::Anonymous => "anonymous",
            Self::Answers => "answers",
            Self::Forwarded => "forwarded",
        }
    }

    /// Of all, and of each.
    pub fn limits(self) -> (usize, usize) {
        match self {
            Self::Intake => (limits::INTAKE, limits::INTAKE_OF_ADDRESS),
            Self::Api => (limits::API, limits::API_OF_CREDENTIAL),
            Self::Anonymous => (limits::ANONYMOUS, limits::ANONYMOUS_OF_ADDRESS),
            Self::Answers => (limits::ANSWERS, limits::ANSWERS_OF_ORGANIZATION),
            Self::Forwarded => (limits::FORWARDED, limits::FORWARDED_OF_ORGANIZATION),
        }
    }
}

/// Who pays for a body, or an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payer {
    Address(Address),
    /// A credential: its kind, and the user or key.
    Credential(&'static str, Option<Uuid>),
    Organization(Uuid),
}

/// Why there is no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// The payer's own share is taken.
    Own,
    /// All of it is taken.
    All,
}

impl Shortage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::All => "full",
        }
    }
}

/// The share of one class. Slow bodies give way to new ones, which are filled
/// once the slow are gone: what is in memory never exceeds the limit.
#[derive(Default)]
pub(super) struct Share {
    taken: Mutex<Taken>,
    /// One has gone.
    left: Notify,
}

#[derive(Default)]
struct Taken {
    /// Without those that give way.
    all: usize,
    leaving: usize,
    of_payer: HashMap<Payer, usize>,
    permits: HashMap<u64, Entered>,
    last: u64,
}

struct Entered {
    payer: Payer,
    bytes: usize,
    began_ms: u64,
    state: State,
    progress: Arc<Progress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has its bytes once those who were told to give way are gone.
    Waiting,
    Reading,
    /// It was told to give way.
    Leaving,
}

/// How often it is tried again whether there is memory.
const AGAIN: Duration = Duration::from_millis(50);

/// Those who must be gone before new bytes are filled.
type Leaving = Vec<u64>;

/// Memory for a body or an answer, given back when it is dropped.
pub struct Permit {
    budget: Arc<Budget>,
    class: Class,
    id: u64,
    pub progress: Arc<Progress>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let share = self.budget.share(self.class);
        share.lock().forget(self.id);
        share.left.notify_waiters();
    }
}

impl Permit {
    /// Takes as much more as makes it `bytes`.
    pub async fn grow(&mut self, bytes: usize) -> Result<(), Shortage> {
        let leaving = self.enter_more(bytes);
        let leaving = leaving.inspect_err(|shortage| self.budget.refuse(self.class, *shortage))?;
        self.wait_for(leaving).await;
        Ok(())
    }

    fn enter_more(&self, bytes: usize) -> Result<Leaving, Shortage> {
        let mut taken = self.budget.share(self.class).lock();
        let entered = taken.permits.get(&self.id).ok_or(Shortage::All)?;
        let (payer, more) = (entered.payer, bytes.saturating_sub(entered.bytes));
        taken.make_room(self.class, payer, more, self.budget.now_ms())?;
        // Making room may have cost it its own.
        let entered = taken.permits.get_mut(&self.id).ok_or(Shortage::All)?;
        if entered.state == State::Leaving {
            return Err(Shortage::All);
        }
        entered.bytes += more;
        entered.state = State::Waiting;
        taken.add(payer, more);
        Ok(taken.leaving(self.class))
    }

    async fn wait_for(&self, mut leaving: Leaving) {
        let share = self.budget.share(self.class);
        let since_ms = self.budget.now_ms();
        loop {
            let left = share.left.notified();
            {
                let mut taken = share.lock();
                leaving.retain(|id| taken.permits.contains_key(id));
                if leaving.is_empty() {
                    if let Some(entered) = taken.permits.get_mut(&self.id) {
                        let now_ms = self.budget.now_ms();
                        entered.state = State::Reading;
                        // Nobody is slow for having waited.
                        entered.began_ms += now_ms.saturating_sub(since_ms);
                        self.progress.receives(0, now_ms);
                    }
                    return;
                }
            }
            left.await;
        }
    }

    /// The body as bytes that give its memory back with the last of them.
    pub fn keep(self, body: Vec<u8>) -> Bytes {
        self.progress.set_complete(true);
        Self::hold(&Arc::new(self), body.into())
    }

    /// Bytes that hold the memory until the last of them is gone.
    pub fn hold(permit: &Arc<Self>, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Paid {
            bytes,
            _permit: permit.clone(),
        })
    }

    /// From now on it waits for the client of `line`, who is slow unless it reads.
    pub fn is_read_by(&self, line: Arc<Line>) {
        let mut taken = self.budget.share(self.class).lock();
        self.progress.is_read_by(line);
        if let Some(entered) = taken.permits.get_mut(&self.id) {
            entered.began_ms = self.budget.now_ms();
        }
    }

    /// A chunk that came by this permit, which waits for the client of `line` and counts as
    /// what it is.
    pub fn pass_on(self, chunk: Bytes, line: Arc<Line>) -> Bytes {
        self.is_read_by(line);
        let share = self.budget.share(self.class);
        share.lock().resize(self.id, chunk.len());
        share.left.notify_waiters();
        Self::hold(&Arc::new(self), chunk)
    }
}

struct Paid {
    bytes: Bytes,
    _permit: Arc<Permit>,
}

impl AsRef<[u8]> for Paid {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Share {
    /// What is in memory, or is about to be.
    pub fn taken(&self) -> usize {
        let taken = self.lock();
        taken.all + taken.leaving
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Whether `bytes` more fit; slow bodies are told to give way.
    fn make_room(
        &mut self,
        class: Class,
        payer: Payer,
        bytes: usize,
        now_ms: u64,
    ) -> Result<(), Shortage> {
        let (all, own) = class.limits();
        let shared = payer == Payer::Address(Address::Shared);
        while !shared && self.of(payer) + bytes > own {
            if !self.give_up_one(Some(payer), class, now_ms) {
                return Err(Shortage::Own);
            }
        }
        while self.all + bytes > all {
            if !self.give_up_one(None, class, now_ms) {
                return Err(Shortage::All);
            }
        }
        Ok(())
    }

    fn of(&self, payer: Payer) -> usize {
        self.of_payer.get(&payer).copied().unwrap_or(0)
    }

    /// Those whose memory the newest one needs.
    fn leaving(&self, class: Class) -> Leaving {
        if self.all + self.leaving <= class.limits().0 {
            return Leaving::new();
        }
        let leaving = |(_, entered): &(&u64, &Entered)| entered.state == State::Leaving;
        self.permits
            .iter()
            .filter(leaving)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Ends a slow body of `payer`, or of the payer with the most.
    fn give_up_one(&mut self, payer: Option<Payer>, class: Class, now_ms: u64) -> bool {
        let slow = self.permits.iter().filter(|(_, entered)| {
            entered.state == State::Reading
                && payer.is_none_or(|payer| payer == entered.payer)
                && entered.progress.is_slow(entered.began_ms, now_ms)
        });
        let worst = slow.max_by_key(|(_, entered)| {
            let age = now_ms.saturating_sub(entered.began_ms);
            (self.of(entered.payer), age)
        });
        let Some(id) = worst.map(|(id, _)| *id) else {
            return false;
        };
        if let Some(entered) = self.permits.get_mut(&id) {
            entered.state = State::Leaving;
            entered.progress.give_up();
            let (payer, bytes) = (entered.payer, entered.bytes);
            self.leaving += bytes;
            self.remove(payer, bytes);
            metrics::bytes_refused(class.as_str(), metrics::SLOW);
        }
        true
    }

    fn add(&mut self, payer: Payer, bytes: usize) {
        self.all += bytes;
        *self.of_payer.entry(payer).or_default() += bytes;
    }

    fn remove(&mut self, payer: Payer, bytes: usize) {
        self.all -= bytes;
        if let Some(of_payer) = self.of_payer.get_mut(&payer) {
            *of_payer -= bytes;
            if *of_payer == 0 {
                self.of_payer.remove(&payer);
            }
        }
    }

    fn resize(&mut self, id: u64, bytes: usize) {
        let Some(entered) = self.permits.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut entered.bytes, bytes);
        if entered.state == State::Leaving {
            self.leaving = self.leaving - before + bytes;
        } else {
            let payer = entered.payer;
            self.remove(payer, before);
            self.add(payer, bytes);
        }
    }

    fn forget(&mut self, id: u64) {
        match self.permits.remove(&id) {
            Some(entered) if entered.state == State::Leaving => self.leaving -= entered.bytes,
            Some(entered) => self.remove(entered.payer, entered.bytes),
            None => {}
        }
    }
}

impl Budget {
    /// Enters a body of `bytes`, now or never.
    pub(super) fn enter(
        self: &Arc<Self>,
        class: Class,
        payer: Payer,
        bytes: usize,
    ) -> Result<(Permit, Leaving), Shortage> {
        let now_ms = self.now_ms();
        let mut taken = self.share(class).lock();
        taken.make_room(class, payer, bytes, now_ms)?;
        taken.add(payer, bytes);
        taken.last += 1;
        let id = taken.last;
        let progress = Arc::new(Progress::default());
        let entered = Entered {
            payer,
            bytes,
            began_ms: now_ms,
            state: State::Waiting,
            progress: progress.clone(),
        };
        taken.permits.insert(id, entered);
        let permit = Permit {
            budget: self.clone(),
            class,
            id,
            progress,
        };
        Ok((permit, taken.leaving(class)))
    }

    /// Takes memory for a body of `bytes`, and waits a little for it.
    pub async fn take(
        self: &Arc<Self>,
        class: Class,
        payer: Payer,
        bytes: usize,
    ) -> Result<Permit, Shortage> {
        let wait = match class {
            Class::Intake => limits::WAIT_OF_DELIVERY,
            Class::Api | Class::Anonymous | Class::Answers | Class::Forwarded => limits::WAIT,
        };
        let until = self.now_ms() + u64::try_from(wait.as_millis()).unwrap_or(0);
        loop {
            match self.enter(class, payer, bytes) {
                Err(_) if self.now_ms() < until => tokio::time::sleep(AGAIN).await,
                Err(shortage) => {
                    self.refuse(class, shortage);
                    return Err(shortage);
                }
                Ok((permit, leaving)) => {
                    permit.wait_for(leaving).await;
                    return Ok(permit);
                }
            }
        }
    }

    /// Takes memory for what an upstream will send, and waits as long as it takes. Nobody
    /// is slow before it has come.
    pub async fn take_ahead(self: &Arc<Self>, payer: Payer, bytes: usize) -> Permit {
        let class = Class::Forwarded;
        loop {
            let left = self.share(class).left.notified();
            if let Ok((permit, leaving)) = self.enter(class, payer, bytes) {
                permit.progress.set_complete(true);
                permit.wait_for(leaving).await;
                return permit;
            }
            // Whoever reads may become slow meanwhile.
            let _ = tokio::time::timeout(AGAIN, left).await;
        }
    }

    pub fn refuse(&self, class: Class, shortage: Shortage) {
        metrics::bytes_refused(class.as_str(), shortage.as_str());
        self.say("bodies or answers are refused: those in memory take all that there is for them");
    }
}
