//! One change per organization at a time: these locks hold within this process,
//! the open request holds among replicas.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

#[derive(Clone, Default)]
pub struct OrganizationLocks(Arc<Mutex<HashSet<Uuid>>>);

/// The lock of an organization, held until dropped.
pub struct OrganizationLock {
    locks: OrganizationLocks,
    organization_id: Uuid,
}

impl OrganizationLocks {
    /// Returns `None` while another change of the organization is in progress.
    pub fn try_lock(&self, organization_id: Uuid) -> Option<OrganizationLock> {
        self.lock()
            .insert(organization_id)
            .then(|| OrganizationLock {
                locks: self.clone(),
                organization_id,
            })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OrganizationLock {
    fn drop(&mut self) {
        self.locks.lock().remove(&self.organization_id);
    }
}
