//! Limits on forwarded calls in this process: concurrent calls, and buffered
//! response bytes, in total and for each organization.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::limits;
use crate::server::problem::Problem;
use crate::telemetry::metrics;

/// `Retry-After` of a rejected call.
const RETRY_AFTER_SECS: u32 = 1;

/// The budget shared by all forwarded routes.
#[derive(Clone)]
pub struct CallBudget {
    total: Budget,
    by_organization: Arc<Mutex<HashMap<Uuid, Budget>>>,
}

#[derive(Clone)]
struct Budget {
    calls: Arc<Semaphore>,
    response_bytes: Arc<Semaphore>,
}

impl Budget {
    fn new(calls: usize, bytes: usize) -> Self {
        Self {
            calls: Arc::new(Semaphore::new(calls)),
            response_bytes: Arc::new(Semaphore::new(bytes)),
        }
    }

    /// Whether the organization has no call in progress.
    fn is_idle(&self) -> bool {
        self.calls.available_permits() == limits::CALLS_OF_ORGANIZATION
    }
}

/// A call's share of the budget, returned when dropped.
pub struct CallSlot {
    budget: CallBudget,
    organization_id: Uuid,
    own: Budget,
    /// `None` once returned.
    permits: Option<[OwnedSemaphorePermit; 2]>,
}

/// Permission to buffer the next read.
pub struct ReadPermit {
    _permits: [OwnedSemaphorePermit; 2],
}

impl Default for CallBudget {
    fn default() -> Self {
        Self {
            total: Budget::new(limits::CALLS, limits::FORWARDED),
            by_organization: Arc::default(),
        }
    }
}

impl CallBudget {
    /// Admits a call of this organization, or rejects it.
    pub fn admit(&self, organization_id: Uuid) -> Result<CallSlot, Problem> {
        let own = self
            .budgets()
            .entry(organization_id)
            .or_insert_with(|| {
                Budget::new(
                    limits::CALLS_OF_ORGANIZATION,
                    limits::FORWARDED_OF_ORGANIZATION,
                )
            })
            .clone();
        let own_permit = own.calls.clone().try_acquire_owned();
        let total_permit = self.total.calls.clone().try_acquire_owned();
        let permits = match (own_permit, total_permit) {
            (Ok(own), Ok(total)) => Ok([own, total]),
            (Err(_), _) => Err(Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_calls",
                format!(
                    "this organization has {} calls in progress; wait until one ends",
                    limits::CALLS_OF_ORGANIZATION
                ),
            )),
            (Ok(_), Err(_)) => Err(Problem::unavailable(
                "gateway_full",
                "too many calls are in progress; try again",
            )),
        };
        match permits {
            Ok(permits) => Ok(CallSlot {
                budget: self.clone(),
                organization_id,
                own,
                permits: Some(permits),
            }),
            Err(problem) => {
                metrics::forwarded_call(problem.code());
                self.forget_if_idle(organization_id);
                Err(problem.retry_after(RETRY_AFTER_SECS))
            }
        }
    }

    fn budgets(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Budget>> {
        let budgets = self.by_organization.lock();
        budgets.unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the budget of an organization without calls, to bound the map.
    fn forget_if_idle(&self, organization_id: Uuid) {
        let mut budgets = self.budgets();
        if budgets.get(&organization_id).is_some_and(Budget::is_idle) {
            budgets.remove(&organization_id);
        }
    }
}

impl CallSlot {
    /// Waits for room to buffer the next read of a connection whose last read
    /// had `last_bytes`; reads at most double in size.
    pub async fn permit_read(&self, last_bytes: usize) -> ReadPermit {
        let bytes = 2 * last_bytes;
        let bytes = bytes.clamp(limits::FORWARDED_READ, limits::FORWARDED_OF_ORGANIZATION);
        let bytes = u32::try_from(bytes).expect("the clamp keeps it small");
        let acquire = |budget: &Budget| budget.response_bytes.clone().acquire_many_owned(bytes);
        let own = acquire(&self.own).await.expect("it is never closed");
        let total = acquire(&self.budget.total)
            .await
            .expect("it is never closed");
        ReadPermit {
            _permits: [own, total],
        }
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        self.permits = None;
        self.budget.forget_if_idle(self.organization_id);
    }
}
