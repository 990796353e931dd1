//! Admission of login attempts: limits how many run at once, in total and from
//! one address, and remembers briefly who is blocked. An attempt rejected here
//! costs neither a connection nor a hash, and does not count as failed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::login::LoginError;
use super::token::Hash;
use crate::limits;

/// How long a block is remembered without asking the database again, which may
/// have lifted it.
const BLOCK_CACHED: Duration = Duration::from_secs(1);
const MAX_CACHED_BLOCKS: usize = 10_000;

/// Admits login attempts.
#[derive(Clone)]
pub struct LoginAdmission {
    total: Arc<Semaphore>,
    running: Arc<Mutex<HashMap<Hash, usize>>>,
    blocks: Arc<Mutex<HashMap<Hash, Block>>>,
}

#[derive(Clone, Copy)]
struct Block {
    until: Instant,
    cached_until: Instant,
}

/// An admitted login attempt; frees its place when dropped.
pub struct AdmittedLogin {
    admission: LoginAdmission,
    address: Hash,
    _permit: OwnedSemaphorePermit,
}

impl Default for LoginAdmission {
    fn default() -> Self {
        Self {
            total: Arc::new(Semaphore::new(limits::LOGINS)),
            running: Arc::default(),
            blocks: Arc::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LoginAdmission {
    /// Admits an attempt by `pair` (an account and an address) from `address`.
    pub fn admit(&self, pair: &Hash, address: &Hash) -> Result<AdmittedLogin, LoginError> {
        let now = Instant::now();
        {
            let blocks = lock(&self.blocks);
            let found = [pair, address]
                .into_iter()
                .filter_map(|key| blocks.get(key))
                .filter(|block| block.cached_until > now);
            if let Some(until) = found.map(|block| block.until).max() {
                return Err(throttled(until - now));
            }
        }
        let mut running = lock(&self.running);
        let of_address = running.get(address).copied().unwrap_or(0);
        if of_address >= limits::LOGINS_OF_ADDRESS {
            return Err(LoginError::Busy);
        }
        let permit = self.total.clone().try_acquire_owned();
        let permit = permit.map_err(|_| LoginError::Busy)?;
        running.insert(*address, of_address + 1);
        Ok(AdmittedLogin {
            admission: self.clone(),
            address: *address,
            _permit: permit,
        })
    }

    /// Remembers that `key` is blocked for `wait`.
    pub fn remember_block(&self, key: &Hash, wait: Duration) {
        let now = Instant::now();
        let mut blocks = lock(&self.blocks);
        if blocks.len() >= MAX_CACHED_BLOCKS {
            blocks.retain(|_, block| block.cached_until > now);
        }
        if blocks.len() < MAX_CACHED_BLOCKS {
            let block = Block {
                until: now + wait,
                cached_until: now + wait.min(BLOCK_CACHED),
            };
            blocks.insert(*key, block);
        }
    }
}

impl Drop for AdmittedLogin {
    fn drop(&mut self) {
        let mut running = lock(&self.admission.running);
        if let Some(of_address) = running.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                running.remove(&self.address);
            }
        }
    }
}

/// The error for a blocked attempt, with the wait rounded up to seconds.
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
        let admission = LoginAdmission::default();
        let own: Vec<AdmittedLogin> = (0..limits::LOGINS_OF_ADDRESS)
            .map(|n| admission.admit(&key(100 + n), &key(1)).unwrap())
            .collect();
        assert!(matches!(
            admission.admit(&key(200), &key(1)),
            Err(LoginError::Busy)
        ));
        let other = admission.admit(&key(200), &key(2)).unwrap();
        drop(own);
        admission.admit(&key(200), &key(1)).unwrap();
        drop(other);
        assert!(lock(&admission.running).is_empty());
    }

    #[test]
    fn many_addresses_are_told_to_come_back() {
        let admission = LoginAdmission::default();
        let running: Vec<AdmittedLogin> = (0..limits::LOGINS)
            .map(|n| admission.admit(&key(n), &key(n)).unwrap())
            .collect();
        assert!(matches!(
            admission.admit(&key(99), &key(99)),
            Err(LoginError::Busy)
        ));
        drop(running);
        admission.admit(&key(99), &key(99)).unwrap();
    }

    #[test]
    fn a_block_is_remembered() {
        let admission = LoginAdmission::default();
        admission.remember_block(&key(1), Duration::from_secs(900));
        match admission.admit(&key(1), &key(2)) {
            Err(LoginError::Throttled { retry_after_secs }) => {
                assert!((899..=901).contains(&retry_after_secs));
            }
            _ => panic!("the attempt was admitted"),
        }
        assert!(
            admission.admit(&key(3), &key(1)).is_err(),
            "an address, too"
        );
        admission.admit(&key(3), &key(2)).unwrap();
        for n in 10..20_000 {
            admission.remember_block(&key(n), Duration::from_secs(900));
        }
        assert!(lock(&admission.blocks).len() <= MAX_CACHED_BLOCKS);
    }
}
