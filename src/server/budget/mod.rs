//! What everything foreign may take of this process: connections, heads and
//! bodies, in all and of each who sends them. [`crate::limits`] is the one table.
//!
//! All of it at once fits in the 512 MiB that manifests and unit allow:
//!
//! | | MiB |
//! |---|---|
//! | the process at rest | 48 |
//! | 3,072 connections, 48 KiB each: two reads of 16 KiB, or one and an answer, its head, a task | 144 |
//! | heads beyond their first 16 KiB | 16 |
//! | bodies of deliveries beyond their first 16 KiB | 32 |
//! | bodies with a credential, and twice as much for what is made of them | 72 |
//! | bodies without a credential | 4 |
//! | answers beyond 16 KiB, until they are written | 24 |
//! | answers of upstreams, on their way to clients | 32 |
//! | their copies, until they are kept | 12 |
//! | usage that waits to be counted | 64 |
//! | events that are processed | 64 |
//! | | 512 |
//!
//! Nothing here refuses what fits. Where a limit is reached, the slow and the
//! idle go first; then whoever asks for more is told to come back.

mod address;
mod answer;
mod connections;
pub mod descriptors;
mod io;
mod line;
pub mod organizations;
mod progress;
mod shares;
mod turns;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use address::{Address, forwarded_for, network};
pub use answer::{Answer, charge};
pub use connections::Place;
use connections::{Growth, Open};
pub use io::Stream;
pub use line::{Doing, Line};
use shares::Share;
pub use shares::{Class, Payer, Permit, Shortage};
pub use turns::{Seat, Turns};

use crate::limits;
use crate::telemetry::metrics::budget as metrics;
use crate::telemetry::seldom::Seldom;

/// The budget of a listener.
pub struct Budget {
    most: usize,
    most_of_address: usize,
    /// How many proxies in front of the service append to X-Forwarded-For.
    proxies: u32,
    epoch: Instant,
    open: Mutex<Open>,
    heads: AtomicUsize,
    /// Of these, what those have who were told to go, until they are gone.
    heads_leaving: AtomicUsize,
    shares: [Share; Class::ALL.len()],
    pub turns: Turns,
    said: Seldom,
}

impl Budget {
    pub fn new(most: usize, proxies: u32) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_of_address: most.min(limits::CONNECTIONS_OF_ADDRESS),
            proxies,
            epoch: Instant::now(),
            open: Mutex::default(),
            heads: AtomicUsize::new(0),
            heads_leaving: AtomicUsize::new(0),
            shares: Default::default(),
            turns: Turns::default(),
            said: Seldom::default(),
        })
    }

    /// That of the API: as many connections as there are descriptors for.
    pub fn of_service(proxies: u32) -> Arc<Self> {
        if let Err(error) = descriptors::raise() {
            tracing::warn!(%error, "the limit of file descriptors could not be raised");
        }
        let most = descriptors::connections(descriptors::limit());
        if most < limits::CONNECTIONS {
            let wanted = descriptors::wanted();
            tracing::warn!(
                connections = most,
                "few file descriptors: raise the hard limit (LimitNOFILE, ulimit -Hn) to {wanted}"
            );
        }
        Self::new(most, proxies)
    }

    pub fn proxies(&self) -> u32 {
        self.proxies
    }

    /// Whether the next connection costs another its place.
    pub fn is_full(&self) -> bool {
        self.lock().len() >= self.most
    }

    /// Tells the metrics how much of it is taken.
    pub fn measure(&self) {
        let counts = self.lock().counts();
        for (doing, count) in counts {
            metrics::connections(doing.as_str(), count);
        }
        metrics::connections_limit(self.most);
        for class in Class::ALL {
            metrics::bytes(class.as_str(), self.taken(class), class.limits().0);
        }
        metrics::bytes(
            metrics::HEADS,
            self.heads.load(Ordering::Relaxed),
            limits::HEADS,
        );
    }

    /// Milliseconds since it was made.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of `class` that are in memory, or about to be.
    pub fn taken(&self, class: Class) -> usize {
        self.share(class).taken()
    }

    fn share(&self, class: Class) -> &Share {
        &self.shares[class as usize]
    }

    /// Logs a shortage, now and then: a flood must not fill the log.
    fn say(&self, what: &'static str) {
        if let Some(times) = self.said.happened(Instant::now()) {
            tracing::warn!(times, "{what}");
        }
    }
}

#[cfg(test)]
mod tests;
