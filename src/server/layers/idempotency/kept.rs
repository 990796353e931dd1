//! How many bytes of answers are kept for an organization: at most 64 MiB within
//! a day, from each replica. Beyond, requests are carried out once all the same,
//! but their answers are not kept.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::limits;

/// Answers are kept for a day, which is counted in hours.
const HOUR: Duration = Duration::from_secs(60 * 60);
const HOURS: usize = 24;

/// What was kept in each of the last hours.
pub struct Kept {
    began: Instant,
    hours: Mutex<Hours>,
}

#[derive(Default)]
struct Hours {
    current: u64,
    of: HashMap<Uuid, [u64; HOURS]>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            hours: Mutex::default(),
        }
    }
}

impl Kept {
    /// Whether as much more may be kept, which it then is.
    pub fn take(&self, organization_id: Uuid, bytes: usize) -> bool {
        self.take_at(self.began.elapsed(), organization_id, bytes)
    }

    fn take_at(&self, age: Duration, organization_id: Uuid, bytes: usize) -> bool {
        let hour = age.as_secs() / HOUR.as_secs();
        let slot = |hour: u64| usize::try_from(hour).unwrap_or_default() % HOURS;
        let mut hours = self.hours.lock().unwrap_or_else(PoisonError::into_inner);
        let since = hours.current.saturating_add(1);
        let passed = hour.saturating_sub(hours.current).min(HOURS as u64);
        if passed > 0 {
            for of in hours.of.values_mut() {
                (since..since + passed).for_each(|hour| of[slot(hour)] = 0);
            }
            if passed == HOURS as u64 {
                hours.of.clear();
            }
            hours.of.retain(|_, of| of.iter().any(|bytes| *bytes > 0));
            hours.current = hour;
        }
        let of = hours.of.entry(organization_id).or_insert([0; HOURS]);
        let bytes = bytes as u64;
        let fits = of.iter().sum::<u64>() + bytes <= limits::KEPT_ANSWERS;
        if fits {
            of[slot(hour)] += bytes;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn as_much_is_kept_as_was_said_and_again_when_a_day_is_over() {
        let kept = Kept::default();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let at = |hours: u64| HOUR * u32::try_from(hours).unwrap();
        let taken = |hours, organization| {
            (0..100)
                .filter(|_| kept.take_at(at(hours), organization, MIB))
                .count()
        };
        assert_eq!(taken(0, one), 64);
        assert_eq!(taken(23, one), 0);
        assert_eq!(taken(23, other), 64);
        assert_eq!(taken(24, one), 64);
        assert_eq!(taken(46, other), 0);
        assert_eq!(taken(47, other), 64);
        assert_eq!(taken(200, one), 64);
        assert_eq!(kept.hours.lock().unwrap().of.len(), 1);
    }
}
