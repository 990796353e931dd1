//! What forwarded calls may take of this process: calls at once, and bytes of
//! answers between an upstream and its client, in all and for each organization.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::limits;
use crate::server::problem::Problem;
use crate::telemetry::metrics;

/// A client that comes again after this may find room.
const COME_BACK_SECS: u32 = 1;

/// The room, shared by every forwarded route.
#[derive(Clone)]
pub struct Room {
    all: Share,
    of: Arc<Mutex<HashMap<Uuid, Share>>>,
}

#[derive(Clone)]
struct Share {
    calls: Arc<Semaphore>,
    /// Of answers.
    bytes: Arc<Semaphore>,
}

impl Share {
    fn new(calls: usize, bytes: usize) -> Self {
        Self {
            calls: Arc::new(Semaphore::new(calls)),
            bytes: Arc::new(Semaphore::new(bytes)),
        }
    }

    /// Whether no call of it is under way.
    fn is_idle(&self) -> bool {
        self.calls.available_permits() == limits::CALLS_OF_ORGANIZATION
    }
}

/// A call's place, until it is dropped.
pub struct Place {
    room: Room,
    organization_id: Uuid,
    own: Share,
    /// None once it is given back.
    permits: Option<[OwnedSemaphorePermit; 2]>,
}

/// Room for what is read next.
pub struct ReadRoom {
    _permits: [OwnedSemaphorePermit; 2],
}

impl Default for Room {
    fn default() -> Self {
        Self {
            all: Share::new(limits::CALLS, limits::FORWARDED),
            of: Arc::default(),
        }
    }
}

impl Room {
    /// Takes a place for a call of this organization.
    pub fn enter(&self, organization_id: Uuid) -> Result<Place, Problem> {
        let own = self
            .shares()
            .entry(organization_id)
            .or_insert_with(|| {
                Share::new(
                    limits::CALLS_OF_ORGANIZATION,
                    limits::FORWARDED_OF_ORGANIZATION,
                )
            })
            .clone();
        let of_own = own.calls.clone().try_acquire_owned();
        let of_all = self.all.calls.clone().try_acquire_owned();
        let taken = match (of_own, of_all) {
            (Ok(own), Ok(all)) => Ok([own, all]),
            (Err(_), _) => Err(Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_calls",
                format!(
                    "{} calls of this organization are under way; wait until one ends",
                    limits::CALLS_OF_ORGANIZATION
                ),
            )),
            (Ok(_), Err(_)) => Err(Problem::unavailable(
                "gateway_full",
                "too many calls are under way; send it again",
            )),
        };
        match taken {
            Ok(permits) => Ok(Place {
                room: self.clone(),
                organization_id,
                own,
                permits: Some(permits),
            }),
            Err(problem) => {
                metrics::forwarded_call(problem.code());
                self.forget_if_idle(organization_id);
                Err(problem.retry_after(COME_BACK_SECS))
            }
        }
    }

    fn shares(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Share>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Organizations without a call are not kept.
    fn forget_if_idle(&self, organization_id: Uuid) {
        let mut shares = self.shares();
        if shares.get(&organization_id).is_some_and(Share::is_idle) {
            shares.remove(&organization_id);
        }
    }
}

impl Place {
    /// Waits until as much may be read as a connection that last read `bytes`
    /// reads next: at most twice that.
    pub async fn for_reading(&self, bytes: usize) -> ReadRoom {
        let bytes = (2 * bytes).clamp(limits::FORWARDED_READ, limits::FORWARDED_OF_ORGANIZATION);
        let bytes = u32::try_from(bytes).expect("it is a part of the room");
        let take = |share: &Share| share.bytes.clone().acquire_many_owned(bytes);
        let of_own = take(&self.own).await.expect("nobody closes it");
        let of_all = take(&self.room.all).await.expect("nobody closes it");
        ReadRoom {
            _permits: [of_own, of_all],
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.permits = None;
        self.room.forget_if_idle(self.organization_id);
    }
}
