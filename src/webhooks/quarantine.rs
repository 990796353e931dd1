//! Organizations that another transaction holds for longer than a worker waits.
//! Their events are set aside at once and delay no others.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// The pause after a trial that had to wait for a lock.
const REST: Duration = Duration::from_secs(5);
/// The shortest time for which events of a held organization are set aside.
const MIN_DELAY_MS: u64 = 1_000;
/// Added for each event, so that retrying them does not fill the worker's time.
const DELAY_PER_EVENT_MS: u64 = 20;

/// How to try an organization's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// It was not known to be held: wait for it.
    Patient,
    /// It was held before: try without waiting for its audit chain.
    Quick,
    /// It was just tried and had to be waited for: do not try.
    NotNow,
}

/// The organizations that this process found held, and when each may be tried
/// again.
#[derive(Debug, Default)]
pub struct Quarantine(Mutex<HashMap<Uuid, Instant>>);

impl Quarantine {
    /// The organizations to leave out of batches.
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

    /// Notes that `organization` is held, and returns whether that is new.
    /// `waited` says that the trial had to wait for the lock.
    pub fn note(&self, organization: Uuid, waited: bool, now: Instant) -> bool {
        let rested = if waited { now + REST } else { now };
        self.held().insert(organization, rested).is_none()
    }

    /// Notes that `organization` is free, and returns whether that is new.
    pub fn clear(&self, organization: Uuid) -> bool {
        self.held().remove(&organization).is_some()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to set aside `events` events of one organization.
pub fn delay(events: usize) -> Duration {
    let events = u64::try_from(events).unwrap_or(u64::MAX);
    Duration::from_millis(MIN_DELAY_MS + DELAY_PER_EVENT_MS.saturating_mul(events))
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
