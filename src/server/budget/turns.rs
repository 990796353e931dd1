//! Turns: how much of the listener's thread one address gets while others wait.
//!
//! The runtime polls its tasks in the order in which they were woken. A thousand
//! connections of one address that all have something to do would be a thousand polls
//! ahead of a delivery, at each of the four or five steps that it takes. Here, an
//! address has so many polls in a round; its other connections wait in a queue of the
//! address's own, which costs the others next to nothing. A round is one pass of the
//! runtime's queue: it ends when a task that yielded at its beginning comes up again.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use crate::limits;

/// The turns of all addresses.
#[derive(Default)]
pub struct Turns {
    addresses: Mutex<HashMap<IpAddr, OfAddress>>,
    /// Woken when the first turn of a round is taken.
    taken: Notify,
}

/// Entered while an address has taken turns in this round, or waits for more.
#[derive(Default)]
struct OfAddress {
    taken: u32,
    waiting: VecDeque<Arc<Seat>>,
}

/// A connection's part in it.
#[derive(Debug, Default)]
pub struct Seat {
    state: AtomicU8,
    waker: AtomicWaker,
}

/// What a seat is; it goes round in this order.
const RESTS: u8 = 0;
const WAITS: u8 = 1;
const IS_CALLED: u8 = 2;

impl Turns {
    /// Ready when the connection may be polled once.
    pub fn poll_turn(
        &self,
        address: IpAddr,
        seat: &Arc<Seat>,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        match seat.state.load(Ordering::Acquire) {
            IS_CALLED => {
                seat.state.store(RESTS, Ordering::Release);
                return Poll::Ready(());
            }
            WAITS => {
                seat.waker.register(context.waker());
                // It may have been called between.
                if seat.state.load(Ordering::Acquire) == IS_CALLED {
                    seat.state.store(RESTS, Ordering::Release);
                    return Poll::Ready(());
                }
                return Poll::Pending;
            }
            _ => {}
        }
        let mut addresses = self.lock();
        let is_first = addresses.is_empty();
        let own = addresses.entry(address).or_default();
        let has_turn = own.taken < limits::TURNS_OF_ADDRESS;
        if has_turn {
            own.taken += 1;
        } else {
            seat.state.store(WAITS, Ordering::Release);
            seat.waker.register(context.waker());
            own.waiting.push_back(seat.clone());
        }
        drop(addresses);
        if is_first {
            self.taken.notify_one();
        }
        if has_turn {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Ends round after round while there are turns. Runs on the connections' runtime.
    pub async fn go_round(&self) {
        loop {
            self.taken.notified().await;
            loop {
                tokio::task::yield_now().await;
                if self.end_round() {
                    break;
                }
            }
        }
    }

    /// Calls those who waited longest. Returns whether no address is left.
    fn end_round(&self) -> bool {
        let mut addresses = self.lock();
        addresses.retain(|_, own| {
            own.taken = 0;
            while own.taken < limits::TURNS_OF_ADDRESS
                && let Some(seat) = own.waiting.pop_front()
            {
                // One that nobody else holds has gone.
                if Arc::strong_count(&seat) > 1 {
                    own.taken += 1;
                    seat.state.store(IS_CALLED, Ordering::Release);
                    seat.waker.wake();
                }
            }
            own.taken > 0
        });
        addresses.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, OfAddress>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const MANY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    async fn take(turns: &Turns, address: IpAddr, seat: &Arc<Seat>) {
        poll_fn(|context| turns.poll_turn(address, seat, context)).await;
    }

    /// A thousand connections that always have something to do.
    fn crowd(turns: &Arc<Turns>, polls: &Arc<AtomicUsize>) -> tokio::task::JoinSet<()> {
        let mut crowd = tokio::task::JoinSet::new();
        for _ in 0..1_000 {
            let (turns, polls) = (turns.clone(), polls.clone());
            crowd.spawn(async move {
                let seat = Arc::default();
                loop {
                    take(&turns, MANY, &seat).await;
                    polls.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            });
        }
        crowd
    }

    #[tokio::test]
    async fn a_crowd_takes_few_turns_between_two_of_another() {
        let (turns, polls) = (Arc::<Turns>::default(), Arc::default());
        let going = turns.clone();
        let rounds = tokio::spawn(async move { going.go_round().await });
        let crowd = crowd(&turns, &polls);
        let seat = Arc::default();
        for _ in 0..100 {
            take(&turns, OTHER, &seat).await;
            tokio::task::yield_now().await;
        }
        let most = 100 * 3 * limits::TURNS_OF_ADDRESS as usize;
        let seen = polls.load(Ordering::Relaxed);
        assert!((1..=most).contains(&seen), "{seen} polls");
        drop((crowd, rounds));
    }

    #[tokio::test]
    async fn everyone_who_waits_has_its_turn_and_who_has_gone_takes_none() {
        let turns = Arc::<Turns>::default();
        let going = turns.clone();
        let rounds = tokio::spawn(async move { going.go_round().await });
        let mut waiting = tokio::task::JoinSet::new();
        for number in 0..100 {
            let turns = turns.clone();
            waiting.spawn(async move {
                let seat = Arc::default();
                let turn = take(&turns, MANY, &seat);
                if number % 2 == 0 {
                    // Its connection is reset before its turn comes.
                    let _ = futures_util::poll!(std::pin::pin!(turn));
                } else {
                    turn.await;
                }
            });
        }
        waiting.join_all().await;
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert!(turns.lock().is_empty());
        rounds.abort();
    }
}
