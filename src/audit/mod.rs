//! The audit log: every billing action, in one hash chain per organization.
//! Entries are appended in the transaction of the change they describe, and
//! never changed or deleted.

pub mod csv;
mod initiator;
mod personal;
mod recorder;
mod repair;
mod store;
mod verify;

pub use initiator::{Initiator, history, initiated_by, login_name};
pub use recorder::{Appended, record, record_one};
pub use repair::{Repaired, repair};
pub use store::repair::stray_heads;
pub use store::{
    ActorFilter, Entry, Filter, LockedChains, Position, append, bytes, count_unentered,
    erase_personal_data, erased, has_log, is_erased, list, lock_chains, lock_free_chains, snapshot,
};
pub use verify::{Break, ERASED, Report, entry_hash, verify, verify_now};

use std::net::IpAddr;

use serde_json::Value;
use uuid::Uuid;

/// The chain of operators' actions that concern no organization or several.
pub const OPERATORS: Uuid = Uuid::nil();

/// Who acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    System,
    Webhook,
    User(Uuid),
    ApiKey(Uuid),
}

impl Actor {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Webhook => "webhook",
            Self::User(_) => "user",
            Self::ApiKey(_) => "api_key",
        }
    }

    /// The id of the user or key, if there is one.
    pub fn id(self) -> Option<Uuid> {
        match self {
            Self::System | Self::Webhook => None,
            Self::User(id) | Self::ApiKey(id) => Some(id),
        }
    }
}

/// Where a request came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    pub ip: Option<IpAddr>,
    pub user_agent: Option<String>,
}

/// An entry to be appended.
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
    /// Set if a request caused the entry.
    pub client: Option<Client>,
    /// In the words of whoever acted, which are kept apart to be erased.
    pub reason: Option<String>,
}
