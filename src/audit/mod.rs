//! The audit log: every billing action, in one hash chain for each organization.

mod store;
mod verify;

pub use store::{Entry, Filter, LockedChains, append, list, lock_chains};
pub use verify::{Break, Report, entry_hash, verify};

use serde_json::Value;
use uuid::Uuid;

/// Who acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    System,
    Webhook,
}

impl Actor {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Webhook => "webhook",
        }
    }
}

/// What is to be entered.
#[derive(Debug, Clone)]
pub struct NewEntry {
    pub organization_id: Uuid,
    pub action: &'static str,
    pub actor: Actor,
    pub resource_type: &'static str,
    pub resource_id: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub metadata: Value,
}
