//! How much is kept for an organization, or a caller without any, within a day, by each replica. Of answers 64 MiB:
//! beyond, requests are carried out once all the same, but their answers are not kept. Of
//! keys 262,144: beyond, none is carried out whose key is new.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::limits;

/// Answers are kept for a day, which is counted in hours.
const HOUR: Duration = Duration::from_secs(60 * 60);
const HOURS: usize = 24;

pub struct Kept {
    began: Instant,
    bytes: Mutex<Hours>,
    keys: Mutex<Hours>,
    most_keys: u64,
}

/// What was kept in each of the last hours.
#[derive(Default)]
struct Hours {
    current: u64,
    of: HashMap<Uuid, [u64; HOURS]>,
}

impl Kept {
    pub fn of_keys(most_keys: u64) -> Self {
        Self {
            began: Instant::now(),
            bytes: Mutex::default(),
            keys: Mutex::default(),
            most_keys,
        }
    }

    /// Whether as many bytes more may be kept, which they then are.
    pub fn take(&self, share_of: Uuid, bytes: usize) -> bool {
        let mut hours = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        hours.pass(self.began.elapsed());
        let fits = hours.sum(share_of) + bytes as u64 <= limits::KEPT_ANSWERS;
        if fits {
            hours.add(share_of, bytes as u64);
        }
        fits
    }

    /// Whether there is room for another key.
    pub fn has_key(&self, share_of: Uuid) -> bool {
        let mut hours = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        hours.pass(self.began.elapsed());
        hours.sum(share_of) < self.most_keys
    }

    pub fn take_key(&self, share_of: Uuid) {
        let mut hours = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        hours.pass(self.began.elapsed());
        hours.add(share_of, 1);
    }
}

impl Hours {
    /// Forgets what is older than a day.
    fn pass(&mut self, age: Duration) {
        let hour = age.as_secs() / HOUR.as_secs();
        let since = self.current.saturating_add(1);
        let passed = hour.saturating_sub(self.current).min(HOURS as u64);
        if passed == 0 {
            return;
        }
        for of in self.of.values_mut() {
            (since..since + passed).for_each(|hour| of[slot(hour)] = 0);
        }
        if passed == HOURS as u64 {
            self.of.clear();
        }
        self.of.retain(|_, of| of.iter().any(|kept| *kept > 0));
        self.current = hour;
    }

    fn sum(&self, share_of: Uuid) -> u64 {
        let of = self.of.get(&share_of);
        of.map_or(0, |of| of.iter().sum())
    }

    fn add(&mut self, share_of: Uuid, kept: u64) {
        let of = self.of.entry(share_of).or_insert([0; HOURS]);
        of[slot(self.current)] += kept;
    }
}

fn slot(hour: u64) -> usize {
    usize::try_from(hour).unwrap_or_default() % HOURS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_kept_as_was_said_and_again_when_a_day_is_over() {
        let mut hours = Hours::default();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut kept_at = |hour: u32, organization| {
            hours.pass(HOUR * hour);
            let kept = hours.sum(organization);
            hours.add(organization, 64);
            kept
        };
        assert_eq!(kept_at(0, one), 0);
        assert_eq!(kept_at(23, one), 64);
        assert_eq!(kept_at(23, other), 0);
        assert_eq!(kept_at(24, one), 64, "the first is a day old");
        assert_eq!(kept_at(46, other), 64);
        assert_eq!(kept_at(47, other), 64);
        assert_eq!(kept_at(200, one), 0);
        assert_eq!(hours.of.len(), 1);
    }

    #[test]
    fn answers_and_keys_have_a_limit_each() {
        let kept = Kept::of_keys(100);
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mib = (0..100).filter(|_| kept.take(one, 1024 * 1024)).count();
        assert_eq!(mib, 64);
        let keys = (0..200).take_while(|_| {
            let room = kept.has_key(one);
            kept.take_key(one);
            room
        });
        assert_eq!(keys.count(), 100);
        assert!(kept.has_key(other) && kept.take(other, 1));
    }
}
