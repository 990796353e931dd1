//! The initiator of a command: entries written by commands have the system as
//! their actor, and name the initiator in their metadata.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::{Actor, NewEntry};

/// Who started this process, and with which command.
#[derive(Debug, Clone)]
pub struct Initiator {
    /// The operating system's login name.
    pub user: String,
    /// On whose behalf the user claims to act.
    pub acting_as: Option<String>,
    pub command: String,
}

static INITIATOR: OnceLock<Initiator> = OnceLock::new();
tokio::task_local! {
    /// Whether what is entered happened before.
    static HISTORY: ();
}
/// The member of an entry's metadata that marks what happened before it was recorded here.
const IMPORTED: &str = "imported";

/// Marks what `work` enters as history, which the product is not told as if it happened
/// now: it hears of the state that follows only.
pub async fn history<T>(work: impl Future<Output = T>) -> T {
    HISTORY.scope((), work).await
}

/// Sets who started this process; `serve` has no initiator.
pub fn initiated_by(initiator: Initiator) {
    let _ = INITIATOR.set(initiator);
}

/// The login name of whoever started this process; `None` for `serve`.
pub fn login_name() -> Option<String> {
    INITIATOR.get().map(|initiator| initiator.user.clone())
}

/// An entry's metadata, with the initiator if a command wrote it.
pub(super) fn metadata(entry: &NewEntry) -> Value {
    let initiator = INITIATOR.get().filter(|_| entry.actor == Actor::System);
    let mut metadata = initiator.map_or_else(
        || entry.metadata.clone(),
        |initiator| with(&entry.metadata, initiator),
    );
    if HISTORY.try_with(|()| ()).is_ok() {
        let mut members = metadata.as_object().cloned().unwrap_or_default();
        members.insert(IMPORTED.to_owned(), Value::Bool(true));
        metadata = Value::Object(members);
    }
    metadata
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
    fn the_initiator_is_added_to_the_metadata() {
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
