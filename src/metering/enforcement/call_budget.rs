//! Limits on forwarded calls in this process: concurrent calls, in total and for each
//! organization. What their responses take of memory is in the server's budget.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::limits;
use crate::server::budget::{Line, Payer, Permit};
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
    /// Of one organization's calls one waits for memory, the others for it.
    next_read: Arc<tokio::sync::Mutex<()>>,
}

impl Budget {
    fn new(calls: usize) -> Self {
        Self {
            calls: Arc::new(Semaphore::new(calls)),
            next_read: Arc::default(),
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

impl Default for CallBudget {
    fn default() -> Self {
        Self {
            total: Budget::new(limits::CALLS),
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
            .or_insert_with(|| Budget::new(limits::CALLS_OF_ORGANIZATION))
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
    /// Waits for memory for the next read of an upstream whose last read had `last_bytes`;
    /// reads at most double in size. Clients that do not read what others wait for lose
    /// their connection.
    pub async fn permit_read(&self, line: &Line, last_bytes: usize) -> Permit {
        let bytes = 2 * last_bytes;
        let bytes = bytes.clamp(limits::FORWARDED_READ, limits::FORWARDED_READ_MOST);
        let _next = self.own.next_read.lock().await;
        let payer = Payer::Organization(self.organization_id);
        line.budget.take_ahead(payer, bytes).await
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        self.permits = None;
        self.budget.forget_if_idle(self.organization_id);
    }
}
