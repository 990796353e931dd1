//! Who runs a command: its entries are the system's, and say whose work it was.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::{Actor, NewEntry};

/// Who runs this process, and as which command.
#[derive(Debug, Clone)]
pub struct Initiator {
    /// The login of the operating system.
    pub user: String,
    /// Whom the user says to act for.
    pub acting_as: Option<String>,
    pub command: String,
}

static INITIATOR: OnceLock<Initiator> = OnceLock::new();

/// Says who runs this process; `serve` has nobody.
pub fn initiated_by(initiator: Initiator) {
    let _ = INITIATOR.set(initiator);
}

/// An entry's metadata, with who ran the command where one did.
pub(super) fn metadata(entry: &NewEntry) -> Value {
    let initiator = INITIATOR.get().filter(|_| entry.actor == Actor::System);
    initiator.map_or_else(
        || entry.metadata.clone(),
        |initiator| with(&entry.metadata, initiator),
    )
}

fn with(metadata: &Value, initiator: &Initiator) -> Value {
    let mut members = metadata.as_object().cloned().unwrap_or_else(Map::new);
    let mut by = json!({"user": initiator.user, "command": initiator.command});
    if let Some(acting_as) = &initiator.acting_as {
        by["as"] = json!(acting_as);
    }
    members.insert("initiator".to_owned(), by);
    Value::Object(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_entry_says_is_kept() {
        let initiator = Initiator {
            user: "alice".to_owned(),
            acting_as: Some("Alice of support".to_owned()),
            command: "quotas set".to_owned(),
        };
        assert_eq!(
            with(&json!({"reason": "a promise"}), &initiator),
            json!({"reason": "a promise",
                   "initiator": {"user": "alice", "as": "Alice of support", "command": "quotas set"}})
        );
    }
}
