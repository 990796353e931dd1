//! Who is read and answered next, on the one thread that does it.
//!
//! A flood keeps hundreds of connections ready at any moment, and the runtime
//! would serve each of them before it looks at a delivery that has just come.
//! So a few are served at a time, of each sender one in turn, and then what
//! came meanwhile: the rest wait here, where they cost nothing. Heads and
//! deliveries do not wait with everything else.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;

use super::limits;

/// What a connection is served for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A head, or a delivery.
    Intake,
    /// Anything else.
    Other,
}

/// Whose it is, by a hash of an address or an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sender(pub(super) u64);

pub struct Turns {
    lines: Mutex<[Line; 2]>,
    somebody_waits: AtomicWaker,
    hashing: RandomState,
}

/// Those who wait, of each sender in a line of its own.
#[derive(Default)]
struct Line {
    /// How many more may come without waiting.
    left: usize,
    of: HashMap<Sender, VecDeque<Arc<Turn>>>,
    senders: VecDeque<Sender>,
}

/// A connection's turn.
#[derive(Default)]
struct Turn {
    state: AtomicU8,
    waker: AtomicWaker,
}

const NONE: u8 = 0;
const WAITS: u8 = 1;
const GRANTED: u8 = 2;
const GONE: u8 = 3;

/// A connection's seat: it waits in one place at a time.
#[derive(Default)]
pub struct Seat(Arc<Turn>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.state.store(GONE, Ordering::Release);
    }
}

impl Default for Turns {
    fn default() -> Self {
        let line = |left| Line {
            left,
            ..Line::default()
        };
        Self {
            lines: Mutex::new([line(limits::INTAKE_TURNS), line(limits::OTHER_TURNS)]),
            somebody_waits: AtomicWaker::new(),
            hashing: RandomState::new(),
        }
    }
}

impl Turns {
    pub fn sender(&self, who: &impl Hash) -> Sender {
        Sender(self.hashing.hash_one(who))
    }

    fn lock(&self) -> MutexGuard<'_, [Line; 2]> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn, if nobody waits for one.
    pub fn try_take(&self, kind: Kind) -> bool {
        self.lock()[kind as usize].try_take()
    }

    /// Ready in the connection's turn.
    pub fn poll(
        &self,
        context: &mut Context<'_>,
        seat: &Seat,
        kind: Kind,
        sender: Sender,
    ) -> Poll<()> {
        let turn = &seat.0;
        if turn.state.load(Ordering::Acquire) == NONE {
            let mut lines = self.lock();
            let line = &mut lines[kind as usize];
            if line.try_take() {
                return Poll::Ready(());
            }
            turn.state.store(WAITS, Ordering::Release);
            line.push(sender, turn.clone());
            drop(lines);
            self.somebody_waits.wake();
        }
        turn.waker.register(context.waker());
        if turn.state.load(Ordering::Acquire) == WAITS {
            return Poll::Pending;
        }
        turn.state.store(NONE, Ordering::Release);
        Poll::Ready(())
    }

    /// Gives turns, each time that what came meanwhile was looked at.
    pub async fn give(&self) {
        loop {
            poll_fn(|context| {
                self.somebody_waits.register(context.waker());
                if self.lock().iter().all(|line| line.senders.is_empty()) {
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
            self.grant();
            tokio::task::yield_now().await;
        }
    }

    fn grant(&self) {
        let mut lines = self.lock();
        let [intake, other] = &mut *lines;
        let mut woken = intake.grant(limits::INTAKE_TURNS);
        woken.append(&mut other.grant(limits::OTHER_TURNS));
        drop(lines);
        for waker in woken {
            waker.wake();
        }
    }
}

impl Line {
    fn try_take(&mut self) -> bool {
        let may = self.left > 0 && self.senders.is_empty();
        if may {
            self.left -= 1;
        }
        may
    }

    fn push(&mut self, sender: Sender, turn: Arc<Turn>) {
        let of = self.of.entry(sender).or_default();
        if of.is_empty() {
            self.senders.push_back(sender);
        }
        of.push_back(turn);
    }

    fn pop(&mut self) -> Option<Arc<Turn>> {
        let sender = self.senders.pop_front()?;
        let of = self.of.get_mut(&sender)?;
        let turn = of.pop_front();
        if of.is_empty() {
            self.of.remove(&sender);
        } else {
            self.senders.push_back(sender);
        }
        turn
    }

    /// Gives as many turns; what is left of them is for who comes next.
    fn grant(&mut self, turns: usize) -> Vec<Waker> {
        let mut woken = Vec::new();
        self.left = turns;
        while self.left > 0
            && let Some(turn) = self.pop()
        {
            let waits =
                turn.state
                    .compare_exchange(WAITS, GRANTED, Ordering::AcqRel, Ordering::Relaxed);
            if waits.is_ok() {
                self.left -= 1;
                woken.extend(turn.waker.take());
            }
        }
        woken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(turns: &Turns, seat: &Seat, kind: Kind, who: &str) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let sender = turns.sender(&who);
        turns.poll(&mut context, seat, kind, sender).is_ready()
    }

    #[test]
    fn nobody_waits_where_there_are_few() {
        let turns = Turns::default();
        for _ in 0..limits::OTHER_TURNS {
            assert!(take(&turns, &Seat::default(), Kind::Other, "a"));
        }
        let seat = Seat::default();
        assert!(!take(&turns, &seat, Kind::Other, "a"));
        turns.grant();
        assert!(take(&turns, &seat, Kind::Other, "a"));
        // The rest of the turns are for who comes next.
        assert!(turns.try_take(Kind::Other));
    }

    #[test]
    fn senders_take_turns_and_intake_waits_for_no_other() {
        let turns = Turns::default();
        let many: Vec<Seat> = (0..100).map(|_| Seat::default()).collect();
        let served = many
            .iter()
            .filter(|seat| take(&turns, seat, Kind::Other, "flood"))
            .count();
        assert_eq!(served, limits::OTHER_TURNS);
        let one = Seat::default();
        assert!(!take(&turns, &one, Kind::Other, "one"));
        assert!(take(&turns, &Seat::default(), Kind::Intake, "stripe"));
        turns.grant();
        assert!(take(&turns, &one, Kind::Other, "one"));
    }

    #[test]
    fn whoever_has_gone_takes_no_turn() {
        let turns = Turns::default();
        while turns.try_take(Kind::Intake) {}
        let gone: Vec<Seat> = (0..50).map(|_| Seat::default()).collect();
        for seat in &gone {
            assert!(!take(&turns, seat, Kind::Intake, "a"));
        }
        let stays = Seat::default();
        assert!(!take(&turns, &stays, Kind::Intake, "a"));
        drop(gone);
        turns.grant();
        assert!(take(&turns, &stays, Kind::Intake, "a"));
        assert!(turns.lock().iter().all(|line| line.of.is_empty()));
    }

    #[tokio::test]
    async fn turns_are_given_for_as_long_as_somebody_waits() {
        let turns = Arc::new(Turns::default());
        let giving = {
            let turns = turns.clone();
            tokio::spawn(async move { turns.give().await })
        };
        let waiting = (0..1_000_u32).map(|number| {
            let turns = turns.clone();
            async move {
                let (seat, sender) = (Seat::default(), turns.sender(&(number % 7)));
                for _ in 0..3 {
                    poll_fn(|context| turns.poll(context, &seat, Kind::Other, sender)).await;
                    tokio::task::yield_now().await;
                }
            }
        });
        futures_util::future::join_all(waiting).await;
        giving.abort();
    }
}
