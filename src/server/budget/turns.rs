//! Turns: how much of the listener's thread busy addresses get while others wait.
//!
//! The runtime polls its tasks in the order in which they were woken. A thousand
//! connections that all have something to do would be a thousand polls ahead of each of
//! the four or five steps of a delivery. So the time of polls is put down to addresses.
//! One that took little lately is polled as it comes; those that took much wait in a
//! line of their own, and have [`limits::BUSY_TURN`] of each pass of the runtime's queue,
//! who took least of them first.
//! Whoever is busy alone waits only until the runtime has looked for others.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use crate::limits;

/// The turns of all connections.
#[derive(Default)]
pub struct Turns {
    pass: Mutex<Pass>,
    /// Woken when a busy address was polled first in a pass.
    begun: Notify,
}

/// A pass of the runtime's queue: it ends when a task that yielded at its beginning
/// comes up again.
#[derive(Default)]
struct Pass {
    accounts: HashMap<IpAddr, Account>,
    /// What busy addresses took in it.
    taken: Duration,
    /// Addresses with connections that wait.
    line: VecDeque<IpAddr>,
}

/// What an address took lately. It is forgotten at [`limits::BUSY_SHARE`].
#[derive(Debug, Default)]
struct Account {
    seats: usize,
    debt: Duration,
    as_of: Option<Instant>,
    waiting: VecDeque<Arc<Place>>,
}

/// A connection's part in it.
pub struct Seat<'a> {
    turns: &'a Turns,
    address: IpAddr,
    place: Arc<Place>,
}

#[derive(Debug, Default)]
struct Place {
    state: AtomicU8,
    waker: AtomicWaker,
}

/// What a place is; it goes round in this order.
const RESTS: u8 = 0;
const WAITS: u8 = 1;
const IS_CALLED: u8 = 2;

impl Account {
    fn debt(&self, now: Instant) -> Duration {
        let since = self.as_of.map_or(Duration::ZERO, |then| now - then);
        self.debt.saturating_sub(since / limits::BUSY_SHARE)
    }

    fn is_busy(&self, now: Instant) -> bool {
        self.debt(now) >= limits::BUSY_AFTER
    }

    /// Capped, so that what was is soon forgotten.
    fn owe(&mut self, took: Duration, now: Instant) {
        self.debt = (self.debt(now) + took).min(10 * limits::BUSY_AFTER);
        self.as_of = Some(now);
    }

    fn call_next(&mut self) {
        while let Some(place) = self.waiting.pop_front() {
            // One that nobody else holds has gone.
            if Arc::strong_count(&place) > 1 {
                place.state.store(IS_CALLED, Ordering::Release);
                place.waker.wake();
                return;
            }
        }
    }
}

impl Pass {
    /// An account is kept a while beyond its last connection: who comes back is still
    /// busy.
    fn sit_down(&mut self, address: IpAddr) {
        let is_known = self.accounts.contains_key(&address);
        if !is_known && self.accounts.len() == self.accounts.capacity() {
            self.accounts.retain(|_, account| account.seats > 0);
        }
        self.accounts.entry(address).or_default().seats += 1;
    }

    /// Who took least of those that wait; of equals, who waited longest. Of very many
    /// not all are looked at.
    fn next_in_line(&mut self, now: Instant) -> Option<IpAddr> {
        let debt = |address: &IpAddr| self.accounts.get(address).map(|account| account.debt(now));
        let first = self.line.iter().take(limits::BUSY_CALLED).enumerate();
        let (at, _) = first.min_by_key(|(_, address)| debt(address))?;
        self.line.remove(at)
    }
}

impl Turns {
    /// For a connection from `address`.
    pub fn seat(&self, address: IpAddr) -> Seat<'_> {
        self.pass().sit_down(address);
        Seat {
            turns: self,
            address,
            place: Arc::default(),
        }
    }

    /// Ends pass after pass while there are busy addresses. Runs on the connections'
    /// runtime.
    pub async fn go_round(&self) {
        loop {
            self.begun.notified().await;
            loop {
                tokio::task::yield_now().await;
                if self.end_pass(Instant::now()) {
                    break;
                }
            }
        }
    }

    /// Calls connections that wait. Returns whether nobody was busy.
    fn end_pass(&self, now: Instant) -> bool {
        let mut pass = self.pass();
        let was_quiet = std::mem::take(&mut pass.taken).is_zero();
        for _ in 0..limits::BUSY_CALLED {
            let Some(address) = pass.next_in_line(now) else {
                return was_quiet;
            };
            if let Some(account) = pass.accounts.get_mut(&address) {
                account.call_next();
                if !account.waiting.is_empty() {
                    pass.line.push_back(address);
                }
            }
        }
        false
    }

    fn pass(&self) -> MutexGuard<'_, Pass> {
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat<'_> {
    /// Polls `work` when it is the connection's turn, or `at_once`.
    pub fn poll<T>(
        &self,
        context: &mut Context<'_>,
        at_once: bool,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let began = Instant::now();
        if !at_once {
            ready!(self.poll_turn(context, began));
        }
        let polled = work(context);
        self.took(began, Instant::now());
        polled
    }

    fn poll_turn(&self, context: &Context<'_>, now: Instant) -> Poll<()> {
        let state = &self.place.state;
        if state.load(Ordering::Acquire) == WAITS {
            self.place.waker.register(context.waker());
            // It may have been called between.
            if state.load(Ordering::Acquire) == WAITS {
                return Poll::Pending;
            }
        }
        let was_called = state.swap(RESTS, Ordering::AcqRel) == IS_CALLED;
        let mut pass = self.turns.pass();
        let Pass {
            accounts,
            taken,
            line,
        } = &mut *pass;
        let Some(account) = accounts.get_mut(&self.address) else {
            return Poll::Ready(());
        };
        let is_next = was_called || account.waiting.is_empty();
        if !account.is_busy(now) || (is_next && *taken < limits::BUSY_TURN) {
            return Poll::Ready(());
        }
        state.store(WAITS, Ordering::Release);
        self.place.waker.register(context.waker());
        if account.waiting.is_empty() {
            line.push_back(self.address);
        }
        if was_called {
            account.waiting.push_front(self.place.clone());
        } else {
            account.waiting.push_back(self.place.clone());
        }
        Poll::Pending
    }

    fn took(&self, began: Instant, now: Instant) {
        let mut pass = self.turns.pass();
        let Some(account) = pass.accounts.get_mut(&self.address) else {
            return;
        };
        account.owe(now - began, now);
        if account.is_busy(now) {
            let is_first = pass.taken.is_zero();
            pass.taken += now - began;
            drop(pass);
            if is_first {
                self.turns.begun.notify_one();
            }
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut pass = self.turns.pass();
        if let Some(account) = pass.accounts.get_mut(&self.address) {
            account.seats -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use tokio::task::{JoinHandle, JoinSet, yield_now};

    use super::*;

    const MANY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
    /// What a poll is said to take.
    const POLL: Duration = Duration::from_micros(50);

    /// Turns, by a clock that only polls advance.
    struct Listener {
        turns: Turns,
        now: Mutex<Instant>,
        polls: AtomicUsize,
    }

    impl Listener {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                turns: Turns::default(),
                now: Mutex::new(Instant::now()),
                polls: AtomicUsize::new(0),
            })
        }

        fn going_round(self: &Arc<Self>) -> JoinHandle<()> {
            let listener = self.clone();
            tokio::spawn(async move { listener.turns.go_round().await })
        }

        async fn poll(&self, seat: &Seat<'_>, took: Duration) {
            poll_fn(|context| {
                let began = *self.now.lock().unwrap();
                ready!(seat.poll_turn(context, began));
                *self.now.lock().unwrap() += took;
                seat.took(began, began + took);
                Poll::Ready(())
            })
            .await;
        }

        /// Connections that always have something to do.
        fn crowd(self: &Arc<Self>, count: usize) -> JoinSet<()> {
            let mut crowd = JoinSet::new();
            for _ in 0..count {
                let listener = self.clone();
                crowd.spawn(async move {
                    let seat = listener.turns.seat(MANY);
                    loop {
                        listener.poll(&seat, POLL).await;
                        listener.polls.fetch_add(1, Ordering::Relaxed);
                        yield_now().await;
                    }
                });
            }
            crowd
        }
    }

    #[tokio::test]
    async fn a_crowd_is_polled_little_between_two_polls_of_another() {
        let listener = Listener::new();
        let passes = listener.going_round();
        let crowd = listener.crowd(1_000);
        let seat = listener.turns.seat(OTHER);
        // As a crowd it is known after the first of its polls.
        listener.poll(&seat, POLL).await;
        yield_now().await;
        let before = listener.polls.load(Ordering::Relaxed);
        for _ in 0..100 {
            listener.poll(&seat, POLL).await;
            yield_now().await;
        }
        let seen = listener.polls.load(Ordering::Relaxed) - before;
        let of_pass = limits::BUSY_TURN.as_micros() / POLL.as_micros();
        let most = 100 * 3 * usize::try_from(of_pass).unwrap();
        assert!((100..=most).contains(&seen), "{seen} polls");
        drop((crowd, passes));
    }

    #[tokio::test]
    async fn everyone_who_waits_has_its_turn_and_who_has_gone_takes_none() {
        let listener = Listener::new();
        let passes = listener.going_round();
        let mut waiting = JoinSet::new();
        for number in 0..500 {
            let listener = listener.clone();
            waiting.spawn(async move {
                let seat = listener.turns.seat(MANY);
                for _ in 0..5 {
                    let mut turn = pin!(listener.poll(&seat, POLL));
                    if number % 2 == 0 {
                        // Its connection is reset before its turn comes.
                        let _ = futures_util::poll!(turn.as_mut());
                        return;
                    }
                    turn.await;
                }
            });
        }
        waiting.join_all().await;
        for _ in 0..1_000 {
            yield_now().await;
        }
        let pass = listener.turns.pass();
        assert!(pass.line.is_empty() && pass.taken.is_zero());
        drop(pass);
        passes.abort();
    }

    #[test]
    fn of_busy_addresses_who_took_least_is_called_first() {
        let turns = Turns::default();
        let now = Instant::now();
        let waker = futures_util::task::noop_waker();
        let context = Context::from_waker(&waker);
        let seat = |address: IpAddr, milliseconds: u64| {
            let seat = turns.seat(address);
            seat.took(now - Duration::from_millis(milliseconds), now);
            seat
        };
        let crowd: Vec<Seat<'_>> = (0..100).map(|_| seat(MANY, 10)).collect();
        let other = seat(OTHER, 3);
        for seat in crowd.iter().chain([&other]) {
            assert!(seat.poll_turn(&context, now).is_pending());
        }
        assert!(!turns.end_pass(now));
        assert!(other.poll_turn(&context, now).is_ready());
        let called = crowd
            .iter()
            .filter(|seat| seat.poll_turn(&context, now).is_ready());
        assert_eq!(called.count(), limits::BUSY_CALLED - 1);
    }

    #[test]
    fn what_an_address_took_is_forgotten() {
        let start = Instant::now();
        let mut account = Account::default();
        account.owe(limits::BUSY_AFTER - POLL, start);
        assert!(!account.is_busy(start));
        account.owe(100 * limits::BUSY_AFTER, start);
        let cap = 10 * limits::BUSY_AFTER;
        assert_eq!(account.debt(start), cap);
        let soon = start + (cap - limits::BUSY_AFTER) * limits::BUSY_SHARE;
        assert!(account.is_busy(soon));
        assert!(!account.is_busy(soon + POLL * limits::BUSY_SHARE));
    }

    #[test]
    fn an_address_without_connections_is_forgotten() {
        let turns = Turns::default();
        for number in 0..10_000_u32 {
            drop(turns.seat(IpAddr::V4(number.into())));
        }
        assert!(turns.pass().accounts.len() < 100);
    }
}
