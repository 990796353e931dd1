//! Why an event did what it did, or nothing.

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::store::{self, Applied, Entries};
use super::{Cause, CauseKind, ExplainError, Explanation, at};
use crate::webhooks::inspect::{self, Details, EventState};

/// Entries and events that an answer shows.
const SHOWN: i64 = 20;

pub async fn explain(conn: &mut PgConnection, id: &str) -> Result<Explanation, ExplainError> {
    let event = inspect::show(conn, id).await?;
    let event = event.ok_or_else(|| ExplainError::NoEvent(id.to_owned()))?;
    let mut causes = vec![received(&event)];
    causes.extend(attempts(&event));
    let mut newer = None;
    if let Some(organization_id) = event.organization_id {
        let object = match object_of(&event) {
            Some(object) => Some(object),
            None => store::resource_of(conn, organization_id, id).await?,
        };
        if let Some(object) = &object {
            let all = store::applied(conn, organization_id, object, SHOWN).await?;
            newer = all
                .into_iter()
                .find(|one| one.event_id != event.event_id && one.created_at >= event.created_at);
            causes.extend(newer.as_ref().map(|one| superseding(object, one)));
        }
        let entries = Entries {
            event_id: Some(id),
            ..Entries::of(organization_id, SHOWN)
        };
        for entry in store::entries(conn, &entries).await? {
            causes.push(entry.cause());
        }
    }
    Ok(Explanation {
        subject: id.to_owned(),
        organization_id: event.organization_id,
        answer: answer(&event, newer.as_ref()),
        causes,
    })
}

fn answer(event: &Details, newer: Option<&Applied>) -> String {
    let what = format!("{} ({})", event.event_id, event.event_type);
    let error = event
        .error_message
        .as_deref()
        .unwrap_or("no reason is known");
    match (event.state, event.outcome.as_deref()) {
        (EventState::DeadLetter, _) => format!(
            "{what} could not be processed in {} attempts: {error}. Mend that, and run `webhooks \
             replay {}`.",
            event.retry_count.saturating_add(1),
            event.event_id
        ),
        (EventState::Unprocessed, _) => match (event.next_retry_at, event.retry_count) {
            (Some(next), tries) if tries > 0 => format!(
                "{what} is not processed yet: attempt {tries} failed, and it is tried again at {}: \
                 {error}.",
                at(next)
            ),
            _ => format!("{what} waits to be processed."),
        },
        (EventState::Processed, Some("superseded")) => match newer {
            Some(newer) => format!(
                "{what} changed nothing: {} of {}, which is newer, was applied to the same object.",
                newer.event_id,
                at(newer.created_at)
            ),
            None => {
                format!("{what} changed nothing: something newer of the same object was known.")
            }
        },
        (EventState::Processed, Some("livemode_mismatch")) => format!(
            "{what} was stored and not applied: its livemode is {}, and the configured key's is not.",
            event.livemode
        ),
        (EventState::Processed, Some("foreign_account")) => format!(
            "{what} was stored and not applied: it is of another Stripe account than the configured key."
        ),
        (EventState::Processed, Some("ignored")) => format!(
            "{what} changed nothing: its type is not handled, or no organization has its customer. \
             `organizations link-customer` links one."
        ),
        (EventState::Processed, _) => match event.organization_id {
            Some(id) => format!("{what} was applied to organization {id}."),
            None => format!("{what} was processed, and changed nothing of an organization."),
        },
    }
}

fn received(event: &Details) -> Cause {
    let processed = event.processed_at.map_or(String::new(), |time| {
        format!(", and was processed at {}", at(time))
    });
    let sentence = format!(
        "Stripe made it at {}; it came at {}{processed}.",
        at(event.created_at),
        at(event.received_at)
    );
    let facts = json!({
        "createdAt": event.created_at, "receivedAt": event.received_at,
        "processedAt": event.processed_at, "outcome": event.outcome,
        "apiVersion": event.api_version, "livemode": event.livemode,
    });
    Cause::new(CauseKind::Event, sentence, facts)
}

/// The failed attempts, if there are any.
fn attempts(event: &Details) -> Option<Cause> {
    let attempts = event.attempts.as_array().filter(|all| !all.is_empty())?;
    let sentence = format!("{} attempts failed before.", attempts.len());
    let facts = json!({"attempts": event.attempts});
    Some(Cause::new(CauseKind::Event, sentence, facts))
}

fn object_of(event: &Details) -> Option<String> {
    let payload: Value = serde_json::from_str(event.payload.as_ref()?.get()).ok()?;
    let object = payload["data"]["object"]["id"].as_str()?;
    Some(object.to_owned())
}

fn superseding(object: &str, newer: &Applied) -> Cause {
    let sentence = format!(
        "{} ({}) of {} is the newest event of {object} that was applied after it was made.",
        newer.event_id,
        newer.event_type,
        at(newer.created_at)
    );
    let facts = json!({
        "eventId": newer.event_id, "eventType": newer.event_type, "createdAt": newer.created_at,
        "appliedAt": newer.applied_at, "object": object,
    });
    Cause::new(CauseKind::Event, sentence, facts)
}
