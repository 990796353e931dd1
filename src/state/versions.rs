//! The versions of states: looked up for many organizations at once, never remembered.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::store;
use crate::batch::lookup::Grouped;
use crate::db;
use crate::limits;
use crate::server::problem::Problem;

/// Whoever waits looks at the same moments, so that they share a read.
const TICK: Duration = Duration::from_millis(250);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

pub struct Versions {
    lookup: Grouped<Uuid, i64>,
    places: Places,
    stop: CancellationToken,
}

impl Versions {
    pub fn new(lookups: PgPool, stop: CancellationToken) -> Self {
        let lookup = Grouped::new(move |organizations| {
            let pool = lookups.clone();
            Box::pin(async move {
                let mut conn = db::acquire(&pool).await?;
                store::versions(&mut conn, &organizations).await
            })
        });
        Self {
            lookup,
            places: Places::default(),
            stop,
        }
    }

    /// The version now.
    pub async fn now(&self, organization_id: Uuid) -> Result<i64, Problem> {
        let found = self.lookup.find(organization_id).await;
        let found = found.map_err(|error| Problem::from(&*error))?;
        // Nothing has changed yet.
        Ok(found.unwrap_or(0))
    }

    /// The version once it is above `version`, which is that of now; `None` if it is not
    /// within `patience`, or before the service stops, or if too many wait already.
    pub async fn above(
        &self,
        organization_id: Uuid,
        version: i64,
        patience: Duration,
    ) -> Result<Option<i64>, Problem> {
        let Some(_place) = self.places.take(organization_id) else {
            return Ok(None);
        };
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            tokio::select! {
                () = tokio::time::sleep(until_tick(START.elapsed()).min(left)) => {}
                () = self.stop.cancelled() => return Ok(None),
            }
            let now = self.now(organization_id).await?;
            if now > version {
                return Ok(Some(now));
            }
        }
    }
}

/// The places of those who wait.
#[derive(Default, Clone)]
struct Places(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    all: usize,
    of: HashMap<Uuid, usize>,
}

/// Somebody's place, until it is dropped.
struct Place {
    places: Places,
    of: Uuid,
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: there is none, or the organization has as many as it may.
    fn take(&self, of: Uuid) -> Option<Place> {
        let mut taken = self.taken();
        let own = taken.of.get(&of).copied().unwrap_or_default();
        let is_scarce = taken.all >= limits::STATES_WAITING / 2;
        if taken.all >= limits::STATES_WAITING
            || (is_scarce && own >= limits::STATES_WAITING_OF_ORGANIZATION)
        {
            return None;
        }
        taken.all += 1;
        taken.of.insert(of, own + 1);
        let places = self.clone();
        Some(Place { places, of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some(own) = taken.of.get_mut(&self.of) {
            *own -= 1;
            if *own == 0 {
                taken.of.remove(&self.of);
            }
        }
    }
}

fn until_tick(elapsed: Duration) -> Duration {
    let into = elapsed.as_millis() % TICK.as_millis();
    TICK.saturating_sub(Duration::from_millis(u64::try_from(into).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_that_wait_for_much_leave_places_for_others() {
        let places = Places::default();
        let greedy = |of: u128, most: usize| {
            let taken = (0..most).map_while(|_| places.take(Uuid::from_u128(of)));
            Vec::from_iter(taken)
        };
        let first: Vec<Vec<Place>> = (0..3).map(|of| greedy(of, 256)).collect();
        let own: Vec<usize> = first.iter().map(Vec::len).collect();
        assert_eq!(own, [256, 128, 64]);
        let more: Vec<Vec<Place>> = (3..20).map(|of| greedy(of, 256)).collect();
        let own = more.iter().filter(|own| !own.is_empty()).count();
        assert_eq!(own, 5);
        let all = more.iter().flatten().count();
        assert_eq!(all + 256 + 128 + 64, limits::STATES_WAITING);
        drop((first, more));
        assert_eq!(places.taken().all, 0);
        assert!(places.taken().of.is_empty(), "nobody is remembered");
    }
}
