//! Discarding: a dead letter goes back to the event log as processed, without
//! being applied. Sent again, it is a duplicate.

use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::audit::{self, Actor, NewEntry};
use crate::db::{WorkerTx, WriteTx as _};
use crate::tenancy::auth::Operator;
use crate::webhooks::bulk::{Came, Step};
use crate::webhooks::store::dead_letters::{self, Discarded};

pub const ACTION: &str = "webhook_event_discarded";

/// Discards a dead letter for `operator`. Returns false if there is none.
pub async fn discard(
    pool: &PgPool,
    event_id: &str,
    operator: &Operator,
) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let entry =
        |organization| operator.did(ACTION, organization, "webhook_event", event_id.to_owned());
    let discarded = discard_as(&mut tx, event_id, entry).await?;
    tx.commit().await?;
    Ok(discarded)
}

/// Discards a dead letter of a bulk action. Returns false if that is not to go on.
pub async fn discard_in_bulk(
    pool: &PgPool,
    event_id: &str,
    step: &Step<'_>,
) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let letter = dead_letters::discard(tx.conn(), event_id).await?;
    let came = match &letter {
        Some(_) => Came::Succeeded,
        None => Came::Skipped,
    };
    // The bulk action is locked before the audit log, as by whoever stops it.
    if !step.advance(&mut tx, came).await? {
        tx.rollback().await?;
        return Ok(false);
    }
    if let Some(letter) = letter {
        let entry = step.did(ACTION, letter.organization_id, event_id.to_owned());
        enter(&mut tx, event_id, letter, entry).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// Discards a dead letter for the command line. Returns false if there is none.
pub async fn discard_unasked(pool: &PgPool, event_id: &str) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let entry = |organization: Option<Uuid>| NewEntry {
        organization_id: organization.unwrap_or(audit::OPERATORS),
        action: ACTION,
        actor: Actor::System,
        resource_type: "webhook_event",
        resource_id: event_id.to_owned(),
        before: None,
        after: None,
        metadata: json!({"by": "command line"}),
        client: None,
        reason: None,
    };
    let discarded = discard_as(&mut tx, event_id, entry).await?;
    tx.commit().await?;
    Ok(discarded)
}

/// Whether there is such a dead letter.
pub async fn is_dead_letter(pool: &PgPool, event_id: &str) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let known = dead_letters::is_there(tx.conn(), event_id).await?;
    tx.commit().await?;
    Ok(known)
}

/// `entry` makes the audit entry for the event's organization.
async fn discard_as(
    tx: &mut WorkerTx,
    event_id: &str,
    entry: impl FnOnce(Option<Uuid>) -> NewEntry,
) -> Result<bool, sqlx::Error> {
    let Some(letter) = dead_letters::discard(tx.conn(), event_id).await? else {
        return Ok(false);
    };
    let entry = entry(letter.organization_id);
    enter(tx, event_id, letter, entry).await?;
    Ok(true)
}

/// Writes the audit entry for a letter that was discarded.
async fn enter(
    tx: &mut WorkerTx,
    event_id: &str,
    letter: Discarded,
    mut entry: NewEntry,
) -> Result<(), sqlx::Error> {
    let organization = letter.organization_id;
    entry.before = Some(json!({
        "eventType": letter.event_type,
        "retryCount": letter.retry_count,
    }));
    audit::record_one(tx, entry).await?;
    let (id, event_type) = (event_id.to_owned(), letter.event_type);
    tx.after_commit(move || {
        tracing::info!(
            event_id = id,
            event_type,
            organization_id = organization.map(tracing::field::display),
            "Webhook event discarded"
        );
    });
    Ok(())
}
