//! One connection: what it is doing, and how it is told to go.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::{Address, Budget};

/// What a connection is doing. Those further up are closed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Doing {
    /// A request is being answered: it is never closed for another.
    Answering,
    /// The body of a delivery whose signature has the right form and time.
    Delivery,
    /// A request waits for its turn, or for something to change; nothing of it has begun.
    Waiting,
    /// Any other body.
    Body,
    /// A head that is not complete, or has not begun.
    Head,
    /// Nothing, after an answer.
    Idle,
}

impl Doing {
    pub const ALL: [Self; 6] = [
        Self::Answering,
        Self::Delivery,
        Self::Waiting,
        Self::Body,
        Self::Head,
        Self::Idle,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answering => "answering",
            Self::Delivery => "delivery",
            Self::Waiting => "waiting",
            Self::Body => "body",
            Self::Head => "head",
            Self::Idle => "idle",
        }
    }
}

/// A connection that was taken.
pub struct Line {
    pub peer: SocketAddr,
    pub address: Address,
    pub budget: Arc<Budget>,
    /// How many its address has.
    pub of_address: Arc<AtomicU32>,
    /// Where it stands among all; theirs to keep.
    pub(super) index: AtomicUsize,
    doing: AtomicU8,
    since_ms: AtomicU64,
    /// What its head is counted for.
    pub(super) head: AtomicUsize,
    /// As much of it as was left when it was told to go.
    pub(super) leaving: AtomicUsize,
    /// What was written to its client, and when.
    written: AtomicU64,
    wrote_ms: AtomicU64,
    /// How often it was polled, …
    turn: AtomicU32,
    /// …and at which of these a request last began.
    began: AtomicU32,
    told_to_go: AtomicBool,
    waker: AtomicWaker,
}

impl Line {
    pub(super) fn new(
        peer: SocketAddr,
        address: Address,
        budget: Arc<Budget>,
        of_address: Arc<AtomicU32>,
    ) -> Self {
        let now = budget.now_ms();
        Self {
            peer,
            address,
            budget,
            of_address,
            index: AtomicUsize::new(0),
            doing: AtomicU8::new(Doing::Head as u8),
            since_ms: AtomicU64::new(now),
            head: AtomicUsize::new(0),
            leaving: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            wrote_ms: AtomicU64::new(now),
            turn: AtomicU32::new(1),
            began: AtomicU32::new(0),
            told_to_go: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    pub fn doing(&self) -> Doing {
        let doing = self.doing.load(Ordering::Relaxed);
        Doing::ALL[usize::from(doing)]
    }

    /// Milliseconds of the budget's clock.
    pub fn since_ms(&self) -> u64 {
        self.since_ms.load(Ordering::Relaxed)
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        self.wrote_ms.store(self.budget.now_ms(), Ordering::Relaxed);
    }

    /// How many bytes were written, and when the last of them.
    pub(super) fn written(&self) -> (u64, u64) {
        let wrote_ms = self.wrote_ms.load(Ordering::Relaxed);
        (self.written.load(Ordering::Relaxed), wrote_ms)
    }

    /// It is polled: its next turn.
    pub fn takes_turn(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn turn(&self) -> u32 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Waits for a turn in which no request has begun: of thousands that a client sends
    /// in one go, each has a turn.
    pub async fn turn_of_request(&self) {
        poll_fn(|context| {
            let turn = self.turn();
            if self.began.swap(turn, Ordering::Relaxed) == turn {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Waits for `future`, which begins nothing: meanwhile another may have the
    /// connection's place.
    pub async fn waits_for<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut waits = false;
        let output = poll_fn(|context| {
            let polled = future.as_mut().poll(context);
            if polled.is_pending() && !waits {
                waits = true;
                self.turns_to(Doing::Waiting);
            }
            polled
        })
        .await;
        if waits {
            self.answers();
        }
        output
    }

    /// A head is complete, or a body.
    pub fn answers(&self) {
        self.doing.store(Doing::Answering as u8, Ordering::Relaxed);
    }

    pub fn turns_to(&self, doing: Doing) {
        self.since_ms.store(self.budget.now_ms(), Ordering::Relaxed);
        self.doing.store(doing as u8, Ordering::Relaxed);
    }

    /// The answer is out, and its request gone with its head.
    pub fn rests(&self) {
        self.budget.release_head(self);
        self.turns_to(Doing::Idle);
    }

    pub fn must_go(&self) -> bool {
        self.told_to_go.load(Ordering::Relaxed)
    }

    pub(super) fn tell_to_go(&self) {
        self.told_to_go.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ready once it is told to go.
    pub fn poll_told(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.told_to_go.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
