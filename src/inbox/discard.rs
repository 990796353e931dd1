//! Discarding: a dead letter that nobody wants applied goes back to the inbox
//! as processed. Sent again, it is a duplicate.

use serde_json::json;
use sqlx::postgres::PgPool;

use super::store::dead_letters;
use crate::audit;
use crate::auth::Operator;
use crate::db::WorkerTx;
use crate::metrics;

pub const ACTION: &str = "webhook_event_discarded";

/// Discards a dead letter for `operator`; false if there is none.
pub async fn discard(
    pool: &PgPool,
    event_id: &str,
    operator: &Operator,
) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let Some(letter) = dead_letters::discard(tx.conn(), event_id).await? else {
        return Ok(false);
    };
    let organization = letter.organization_id;
    let mut entry = operator.did(ACTION, organization, "webhook_event", event_id.to_owned());
    entry.before = Some(json!({
        "eventType": letter.event_type,
        "retryCount": letter.retry_count,
        "error": letter.error_message,
    }));
    audit::enter(tx.conn(), entry).await?;
    tx.commit().await?;
    metrics::audit_entries(&[ACTION]);
    tracing::info!(
        event_id,
        event_type = letter.event_type,
        organization_id = organization.map(tracing::field::display),
        "Webhook event discarded"
    );
    Ok(true)
}
