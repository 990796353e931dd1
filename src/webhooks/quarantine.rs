//! Organizations that another transaction holds longer than a worker waits.
//! Their events are set aside at once, and hold up nobody else's.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// How long a trial rests that had to wait for a lock.
const REST: Duration = Duration::from_secs(5);
/// How long the events of a held organization are set aside, at least.
const SHORTEST_MS: u64 = 1_000;
/// The more of them there are, the longer: looking at them must not become the
/// worker's whole work.
const FOR_EACH_MS: u64 = 20;

/// How an organization's events are to be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// It was not known to be held: wait a little.
    Patient,
    /// It was held before: try, and do not wait for its chain.
    Quick,
    /// It was just tried, and cost a wait.
    NotNow,
}

/// The organizations that this process found held, and when a trial of each may
/// cost a wait again.
#[derive(Debug, Default)]
pub struct Quarantine(Mutex<HashMap<Uuid, Instant>>);

impl Quarantine {
    /// Those that are left out of batches.
    pub fn all(&self) -> HashSet<Uuid> {
        self.held().keys().copied().collect()
    }

    pub fn trial(&self, organization: Uuid, now: Instant) -> Trial {
        match self.held().get(&organization) {
            None => Trial::Patient,
            Some(rested) if *rested <= now => Trial::Quick,
            Some(_) => Trial::NotNow,
        }
    }

    /// Notes that `organization` is held; whether that is news. `waited`: the
    /// trial had to wait to find out.
    pub fn note(&self, organization: Uuid, waited: bool, now: Instant) -> bool {
        let rested = if waited { now + REST } else { now };
        self.held().insert(organization, rested).is_none()
    }

    /// Notes that `organization` was free; whether that is news.
    pub fn clear(&self, organization: Uuid) -> bool {
        self.held().remove(&organization).is_some()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For how long `events` of one organization are set aside.
pub fn delay(events: usize) -> Duration {
    let events = u64::try_from(events).unwrap_or(u64::MAX);
    Duration::from_millis(SHORTEST_MS + FOR_EACH_MS.saturating_mul(events))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_organization_is_tried_quickly_and_rests_after_a_wait() {
        let (quarantine, organization, now) =
            (Quarantine::default(), Uuid::now_v7(), Instant::now());
        assert_eq!(quarantine.trial(organization, now), Trial::Patient);
        assert!(quarantine.note(organization, false, now));
        assert_eq!(quarantine.trial(organization, now), Trial::Quick);
        assert!(!quarantine.note(organization, true, now), "known already");
        assert_eq!(quarantine.trial(organization, now), Trial::NotNow);
        assert_eq!(quarantine.trial(organization, now + REST), Trial::Quick);
        assert_eq!(quarantine.all(), HashSet::from([organization]));
        assert!(quarantine.clear(organization));
        assert_eq!(quarantine.trial(organization, now), Trial::Patient);
    }

    #[test]
    fn the_more_events_the_longer() {
        assert_eq!(delay(0), Duration::from_secs(1));
        assert!(delay(256) > delay(20));
    }
}
