//! The versions of states: looked up for many organizations at once, never remembered.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use tokio::sync::Semaphore;
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
    waiting: Semaphore,
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
            waiting: Semaphore::new(limits::STATES_WAITING),
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
        let Ok(_place) = self.waiting.try_acquire() else {
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

fn until_tick(elapsed: Duration) -> Duration {
    let into = elapsed.as_millis() % TICK.as_millis();
    TICK.saturating_sub(Duration::from_millis(u64::try_from(into).unwrap_or(0)))
}
