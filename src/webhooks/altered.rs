//! Detects an event that was delivered again with different content. The first
//! one counts; the second is logged and counted.

use std::collections::HashSet;

use axum::body::Bytes;
use serde_json::Value;
use sqlx::postgres::PgConnection;

use super::intake::Delivery;
use super::store;
use crate::telemetry::metrics;

/// The most events checked per group: repetitions must not delay new events.
const MAX_CHECKED: usize = 32;

/// The deliveries of `group`, which is sorted by id, that were stored before or
/// are in the group twice. `stored` has the ids that were new.
pub fn repeated(group: &[Delivery], stored: &HashSet<String>) -> Vec<(String, Bytes)> {
    if stored.len() == group.len() {
        return Vec::new();
    }
    let mut last = None;
    let repeated = group.iter().filter(|delivery| {
        let id = Some(delivery.envelope.id.as_str());
        let again = last == id;
        last = id;
        again || !stored.contains(&delivery.envelope.id)
    });
    repeated
        .take(MAX_CHECKED)
        .map(|delivery| (delivery.envelope.id.clone(), delivery.payload.clone()))
        .collect()
}

/// Reports the deliveries whose content differs from the stored event's.
pub async fn report(conn: &mut PgConnection, again: &[(String, Bytes)]) -> Result<(), sqlx::Error> {
    for (event_id, stored) in store::differing(conn, again).await? {
        let sent = again.iter().filter(|(id, _)| *id == event_id);
        for (_, body) in sent {
            if is_altered(stored.as_bytes(), body) {
                metrics::altered_event();
                tracing::warn!(
                    event_id,
                    "An event was delivered again with different content; the first one counts"
                );
            }
        }
    }
    Ok(())
}

/// Whether two bodies of one event differ in content. `pending_webhooks` does not
/// count, and another API version shows the same event differently.
fn is_altered(stored: &[u8], sent: &[u8]) -> bool {
    let read = |body: &[u8]| -> Option<Value> {
        let mut event: Value = serde_json::from_slice(body).ok()?;
        event.as_object_mut()?.remove("pending_webhooks");
        Some(event)
    };
    match (read(stored), read(sent)) {
        (Some(stored), Some(sent)) => {
            stored["api_version"] == sent["api_version"]
                && ["type", "created", "livemode", "account", "context", "data"]
                    .iter()
                    .any(|field| stored[field] != sent[field])
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::is_altered;

    #[test]
    fn an_event_is_altered_by_its_content_alone() {
        let first = br#"{"id":"evt_1","created":1,"pending_webhooks":1,"data":{"object":{"a":1}}}"#;
        for same in [
            &br#"{"id":"evt_1","created":1,"pending_webhooks":1,"data":{"object":{"a":1}}}"#[..],
            br#"{"created": 1, "id": "evt_1", "data": {"object": {"a": 1}}, "pending_webhooks": 0}"#,
            br#"{"api_version":"2099","data":{"object":{"b":1}}}"#,
        ] {
            assert!(!is_altered(first, same), "{}", String::from_utf8_lossy(same));
        }
        for other in [
            &br#"{"id":"evt_1","created":1,"data":{"object":{"a":2}}}"#[..],
            br#"{"id":"evt_1","created":2,"data":{"object":{"a":1}}}"#,
        ] {
            assert!(
                is_altered(first, other),
                "{}",
                String::from_utf8_lossy(other)
            );
        }
    }
}
