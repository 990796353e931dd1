//! Who changes users and keys, for the audit log.

use serde_json::{Value, json};
use uuid::Uuid;

use super::Operator;
use crate::audit::{Actor, Client, NewEntry};

/// Who asks for a change.
#[derive(Debug, Clone)]
pub struct By {
    actor: Actor,
    /// Set if an operator's request asked for it.
    client: Option<Client>,
}

impl By {
    /// A command, or the service itself.
    pub const SYSTEM: Self = Self {
        actor: Actor::System,
        client: None,
    };

    /// An operator who signs in, or changes their own sign-in.
    pub(super) fn user(user_id: Uuid, client: &Client) -> Self {
        Self {
            actor: Actor::User(user_id),
            client: Some(client.clone()),
        }
    }

    /// The entry for what was done.
    pub(super) fn entry(
        &self,
        organization_id: Uuid,
        action: &'static str,
        (resource_type, id): (&'static str, Uuid),
        before: Option<Value>,
        after: Value,
    ) -> NewEntry {
        NewEntry {
            organization_id,
            action,
            actor: self.actor,
            resource_type,
            resource_id: id.to_string(),
            before,
            after: Some(after),
            metadata: match self.client {
                Some(_) => json!({"operator": true}),
                None => json!({}),
            },
            client: self.client.clone(),
            reason: None,
        }
    }
}

impl From<Operator> for By {
    fn from(operator: Operator) -> Self {
        Self {
            actor: operator.actor(),
            client: Some(operator.client),
        }
    }
}
