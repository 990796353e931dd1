//! Who may try to log in at the moment: some at once, a few of one address, and
//! nobody whom the database has just turned away. What is refused here costs
//! neither a connection nor a hash, and is no failed attempt.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::login::LoginError;
use super::token::Hash;
use crate::limits;

/// How long is believed that somebody is to wait: a success elsewhere, or an
/// operator, may end it.
const BELIEVED: Duration = Duration::from_secs(1);
/// How many that wait are remembered.
const REMEMBERED: usize = 10_000;

/// What logins go through, one by one.
#[derive(Clone)]
pub struct Door {
    all: Arc<Semaphore>,
    inside: Arc<Mutex<HashMap<Hash, usize>>>,
    waiting: Arc<Mutex<HashMap<Hash, Wait>>>,
}

#[derive(Clone, Copy)]
struct Wait {
    until: Instant,
    believed_until: Instant,
}

/// A login that goes on, until it is dropped.
pub struct Admitted {
    door: Door,
    address: Hash,
    _permit: OwnedSemaphorePermit,
}

impl Default for Door {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits::LOGINS)),
            inside: Arc::default(),
            waiting: Arc::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    /// Lets an attempt by `pair` (an account and an address) from `address` in.
    pub fn enter(&self, pair: &Hash, address: &Hash) -> Result<Admitted, LoginError> {
        let now = Instant::now();
        {
            let waiting = lock(&self.waiting);
            let waits = [pair, address]
                .into_iter()
                .filter_map(|key| waiting.get(key));
            let wait = waits.filter(|wait| wait.believed_until > now);
            if let Some(until) = wait.map(|wait| wait.until).max() {
                return Err(throttled(until - now));
            }
        }
        let mut inside = lock(&self.inside);
        let of_address = inside.get(address).copied().unwrap_or(0);
        if of_address >= limits::LOGINS_OF_ADDRESS {
            return Err(LoginError::Busy);
        }
        let permit = self.all.clone().try_acquire_owned();
        let permit = permit.map_err(|_| LoginError::Busy)?;
        inside.insert(*address, of_address + 1);
        Ok(Admitted {
            door: self.clone(),
            address: *address,
            _permit: permit,
        })
    }

    /// Remembers that `key` is to wait.
    pub fn keep_out(&self, key: &Hash, wait: Duration) {
        let now = Instant::now();
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= REMEMBERED {
            waiting.retain(|_, wait| wait.believed_until > now);
        }
        if waiting.len() < REMEMBERED {
            let wait = Wait {
                until: now + wait,
                believed_until: now + wait.min(BELIEVED),
            };
            waiting.insert(*key, wait);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut inside = lock(&self.door.inside);
        if let Some(of_address) = inside.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                inside.remove(&self.address);
            }
        }
    }
}

/// Told in whole seconds, the last one begun.
pub fn throttled(wait: Duration) -> LoginError {
    LoginError::Throttled {
        retry_after_secs: u32::try_from(wait.as_secs().min(3_600) + 1).unwrap_or(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Hash {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&n.to_be_bytes());
        hash
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let door = Door::default();
        let own: Vec<Admitted> = (0..limits::LOGINS_OF_ADDRESS)
            .map(|n| door.enter(&key(100 + n), &key(1)).unwrap())
            .collect();
        assert!(matches!(
            door.enter(&key(200), &key(1)),
            Err(LoginError::Busy)
        ));
        let other = door.enter(&key(200), &key(2)).unwrap();
        drop(own);
        door.enter(&key(200), &key(1)).unwrap();
        drop(other);
        assert!(lock(&door.inside).is_empty());
    }

    #[test]
    fn many_addresses_are_told_to_come_back() {
        let door = Door::default();
        let inside: Vec<Admitted> = (0..limits::LOGINS)
            .map(|n| door.enter(&key(n), &key(n)).unwrap())
            .collect();
        assert!(matches!(
            door.enter(&key(99), &key(99)),
            Err(LoginError::Busy)
        ));
        drop(inside);
        door.enter(&key(99), &key(99)).unwrap();
    }

    #[test]
    fn who_waits_is_not_asked_about_again() {
        let door = Door::default();
        door.keep_out(&key(1), Duration::from_secs(900));
        match door.enter(&key(1), &key(2)) {
            Err(LoginError::Throttled { retry_after_secs }) => {
                assert!((899..=901).contains(&retry_after_secs));
            }
            _ => panic!("it is to wait"),
        }
        assert!(door.enter(&key(3), &key(1)).is_err(), "an address, too");
        door.enter(&key(3), &key(2)).unwrap();
        for n in 10..20_000 {
            door.keep_out(&key(n), Duration::from_secs(900));
        }
        assert!(lock(&door.waiting).len() <= REMEMBERED);
    }
}
