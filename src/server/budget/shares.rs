//! Bytes of bodies that are in memory: of all, and of each who sends them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::Bytes;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Address, Budget};
use crate::limits;
use crate::telemetry::metrics::budget as metrics;

/// Which share a body is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Intake,
    Api,
    Anonymous,
}

impl Class {
    pub const ALL: [Self; 3] = [Self::Intake, Self::Api, Self::Anonymous];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intake => "intake",
            Self::Api => "api",
            Self::Anonymous => "anonymous",
        }
    }

    /// Of all, and of each.
    pub fn limits(self) -> (usize, usize) {
        match self {
            Self::Intake => (limits::INTAKE, limits::INTAKE_OF_ADDRESS),
            Self::Api => (limits::API, limits::API_OF_CREDENTIAL),
            Self::Anonymous => (limits::ANONYMOUS, limits::ANONYMOUS_OF_ADDRESS),
        }
    }
}

/// Who pays for a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payer {
    Address(Address),
    /// A credential: its kind, and the user or key.
    Credential(&'static str, Option<Uuid>),
}

/// Why a body gets no memory.
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

/// Those who must be gone before new bytes are filled.
type Leaving = Vec<u64>;

/// How far a body has come.
#[derive(Default)]
pub struct Progress {
    received: AtomicUsize,
    last_ms: AtomicU64,
    complete: AtomicBool,
    given_up: AtomicBool,
    waker: AtomicWaker,
}

impl Progress {
    pub fn receives(&self, bytes: usize, now_ms: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Ready once others need its memory, and it is slow.
    pub fn poll_given_up(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.given_up.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn is_slow(&self, began_ms: u64, now_ms: u64) -> bool {
        if self.complete.load(Ordering::Relaxed) {
            return false;
        }
        let since = |then: u64| now_ms.saturating_sub(then);
        let stalled = since(self.last_ms.load(Ordering::Relaxed).max(began_ms));
        let stall = u64::try_from(limits::BODY_STALL.as_millis()).unwrap_or(u64::MAX);
        let due = since(began_ms).saturating_sub(stall) * limits::BODY_BYTES_PER_SEC / 1_000;
        stalled >= stall || (self.received.load(Ordering::Relaxed) as u64) < due
    }
}

/// Memory for a body, given back when it is dropped.
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
        self.progress.complete.store(true, Ordering::Relaxed);
        Bytes::from_owner(Paid {
            body,
            _permit: self,
        })
    }
}

struct Paid {
    body: Vec<u8>,
    _permit: Permit,
}

impl AsRef<[u8]> for Paid {
    fn as_ref(&self) -> &[u8] {
        &self.body
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

    /// Ends a slow body, of `payer` or of whoever has most.
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
            entered.progress.given_up.store(true, Ordering::Release);
            entered.progress.waker.wake();
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
        const AGAIN: std::time::Duration = std::time::Duration::from_millis(50);
        let wait = match class {
            Class::Intake => limits::WAIT_OF_DELIVERY,
            Class::Api | Class::Anonymous => limits::WAIT,
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

    pub fn refuse(&self, class: Class, shortage: Shortage) {
        metrics::bytes_refused(class.as_str(), shortage.as_str());
        self.say("bodies are refused: those in memory take all that there is for them");
    }
}
