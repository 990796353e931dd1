//! One change at a time: within this process by these turns, among replicas by
//! the ledger of requests.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<HashSet<Uuid>>>);

/// An organization's turn, until it is dropped.
pub struct Turn {
    turns: Turns,
    organization_id: Uuid,
}

impl Turns {
    /// None: a change of this organization is under way.
    pub fn take(&self, organization_id: Uuid) -> Option<Turn> {
        self.lock().insert(organization_id).then(|| Turn {
            turns: self.clone(),
            organization_id,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.lock().remove(&self.organization_id);
    }
}
