//! All connections: who comes in, and who goes for it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::line::{Doing, Line};
use super::{Address, Budget, Shortage};
use crate::limits;
use crate::telemetry::metrics::budget as metrics;

/// The connections that are open.
#[derive(Default)]
pub(super) struct Open {
    lines: Vec<Arc<Line>>,
    of_address: HashMap<Address, Arc<AtomicU32>>,
}

/// A place among the connections; given back when it is dropped.
pub struct Place(pub Arc<Line>);

impl Drop for Place {
    fn drop(&mut self) {
        let budget = &self.0.budget;
        // With the lock, under which it may be told to go at this moment.
        let mut open = budget.lock();
        budget.release_head(&self.0);
        open.remove(&self.0);
    }
}

/// Whether a head may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    Now,
    /// Once those are gone that were told to go for it.
    Soon,
    Never,
}

impl Open {
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// How many do what.
    pub fn counts(&self) -> [(Doing, usize); 6] {
        Doing::ALL.map(|doing| {
            let doing_it = self.lines.iter().filter(|line| line.doing() == doing);
            (doing, doing_it.count())
        })
    }

    fn add(&mut self, budget: &Arc<Budget>, peer: SocketAddr, address: Address) -> Arc<Line> {
        let of_address = self.of_address.entry(address).or_default().clone();
        of_address.fetch_add(1, Ordering::Relaxed);
        let line = Arc::new(Line::new(peer, address, budget.clone(), of_address));
        line.index.store(self.lines.len(), Ordering::Relaxed);
        self.lines.push(line.clone());
        line
    }

    fn remove(&mut self, line: &Line) {
        let at = line.index.load(Ordering::Relaxed);
        let known = self.lines.get(at);
        if !known.is_some_and(|known| std::ptr::eq(&raw const **known, line)) {
            return;
        }
        self.lines.swap_remove(at);
        if let Some(moved) = self.lines.get(at) {
            moved.index.store(at, Ordering::Relaxed);
        }
        if line.of_address.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.of_address.remove(&line.address);
        }
    }

    /// Whose place is worth least, of `address` or of all.
    fn least_worthy(&self, address: Option<Address>, now_ms: u64) -> Option<Arc<Line>> {
        let of_it = |line: &&Arc<Line>| address.is_none_or(|address| line.address == address);
        let lines = self.lines.iter().filter(of_it);
        let ranked = lines.filter_map(|line| Some((rank(line, now_ms)?, line)));
        ranked
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, line)| line.clone())
    }

    /// Who has the largest head that is not complete.
    fn largest_head(&self) -> Option<Arc<Line>> {
        let waiting = self.lines.iter().filter(|line| line.doing() == Doing::Head);
        let size = |line: &&Arc<Line>| line.head.load(Ordering::Relaxed);
        waiting
            .max_by_key(size)
            .filter(|line| size(line) > 0)
            .cloned()
    }

    fn tell_to_go(&mut self, line: &Line) {
        self.remove(line);
        let head = line.head.load(Ordering::Relaxed);
        line.leaving.store(head, Ordering::Relaxed);
        line.budget.heads_leaving.fetch_add(head, Ordering::Relaxed);
        line.tell_to_go();
    }
}

/// The greater, the sooner a connection is closed: first those of an address that has many,
/// then by what they are doing, then those of the address that has most, and then those that
/// have been doing it longest. `None` for one that stays.
fn rank(line: &Line, now_ms: u64) -> Option<(bool, Doing, u32, Reverse<u64>)> {
    let doing = line.doing();
    let since = line.since_ms();
    let grace = limits::DELIVERY_GRACE.as_millis();
    let in_grace = || u128::from(now_ms.saturating_sub(since)) < grace;
    match doing {
        Doing::Answering => return None,
        Doing::Delivery if in_grace() => return None,
        _ => {}
    }
    let of_address = match line.address {
        Address::Shared => 0,
        Address::Single(_) => line.of_address.load(Ordering::Relaxed),
    };
    let many = of_address >= limits::MANY_OF_ADDRESS;
    Some((
        many,
        doing,
        if many { of_address } else { 0 },
        Reverse(since),
    ))
}

impl Budget {
    /// Admits a connection, closing the least worthy one if there is no room. `None` if all
    /// are being answered.
    pub fn admit(self: &Arc<Self>, peer: SocketAddr) -> Option<Place> {
        let address = Address::of_peer(peer, self.proxies);
        let mut open = self.lock();
        let full = open.len() >= self.most;
        let own = match address {
            Address::Shared => None,
            Address::Single(_) => open.of_address.get(&address),
        };
        let own = own.map_or(0, |own| own.load(Ordering::Relaxed));
        let too_many = own as usize >= self.most_of_address;
        if full || too_many {
            let among = too_many.then_some(address);
            let Some(line) = open.least_worthy(among, self.now_ms()) else {
                drop(open);
                metrics::refused();
                self.say("connections are refused: all that are open are being answered");
                return None;
            };
            metrics::evicted(line.doing().as_str());
            open.tell_to_go(&line);
            self.say("connections are closed to make place for new ones");
        }
        Some(Place(open.add(self, peer, address)))
    }

    /// Takes room for a head to grow to `length` bytes.
    pub fn head_grows(&self, line: &Line, length: usize) -> Growth {
        let Some(beyond) = length.checked_sub(limits::HEAD_FREE) else {
            return Growth::Now;
        };
        let wanted = beyond * limits::HEAD_FACTOR;
        let more = wanted.saturating_sub(line.head.load(Ordering::Relaxed));
        let mut open = self.lock();
        loop {
            if more > 0 && line.must_go() {
                return Growth::Never;
            }
            let heads = self.heads.load(Ordering::Relaxed);
            if heads + more <= limits::HEADS {
                self.heads.fetch_add(more, Ordering::Relaxed);
                line.head.fetch_add(more, Ordering::Relaxed);
                return Growth::Now;
            }
            let staying = heads.saturating_sub(self.heads_leaving.load(Ordering::Relaxed));
            if staying + more <= limits::HEADS {
                return Growth::Soon;
            }
            let largest = open.largest_head();
            metrics::bytes_refused(metrics::HEADS, Shortage::All.as_str());
            self.say("heads are cut off: all of them together are too large");
            match largest {
                Some(largest) if !std::ptr::eq(&raw const *largest, line) => {
                    metrics::evicted(Doing::Head.as_str());
                    open.tell_to_go(&largest);
                }
                _ => return Growth::Never,
            }
        }
    }

    pub(super) fn release_head(&self, line: &Line) {
        release(&self.heads, line.head.swap(0, Ordering::Relaxed));
        release(&self.heads_leaving, line.leaving.swap(0, Ordering::Relaxed));
    }
}

fn release(from: &AtomicUsize, bytes: usize) {
    if bytes > 0 {
        from.fetch_sub(bytes, Ordering::Relaxed);
    }
}
