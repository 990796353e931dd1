//! Disputes as rows.

use serde_json::json;
use sqlx::PgConnection;

use super::{document, unzip, version};
use crate::event_handlers::fold::{Folded, Key, Stored, StoredRows};
use crate::stripe::objects::Dispute;

pub async fn load(conn: &mut PgConnection, keys: &[Key]) -> Result<StoredRows, sqlx::Error> {
    let (organizations, ids) = unzip(keys);
    let rows = sqlx::query!(
        "SELECT organization_id, stripe_dispute_id, stripe_charge_id, status, reason, amount, currency, evidence_due_by,
                last_event_at, last_event_rank, last_event_id, tied_event_ids
           FROM unnest($1::uuid[], $2::text[]) AS wanted(organization, id)
           JOIN billing_disputes row
             ON row.organization_id = wanted.organization AND row.stripe_dispute_id = wanted.id",
        &organizations,
        &ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let stored = rows.into_iter().map(|row| {
        let summary = json!({
            "chargeId": row.stripe_charge_id,
            "status": row.status,
            "reason": row.reason,
            "amount": row.amount,
            "currency": row.currency,
            "evidenceDueBy": row.evidence_due_by.map(|at| at.to_jiff()),
        });
        let version = version(
            row.last_event_at,
            row.last_event_rank,
            row.last_event_id,
            row.tied_event_ids,
        );
        (
            (row.organization_id, row.stripe_dispute_id),
            Stored { summary, version },
        )
    });
    Ok(stored.collect())
}

pub async fn save(conn: &mut PgConnection, changed: &[Folded<Dispute>]) -> Result<(), sqlx::Error> {
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = changed.iter().map(Folded::row).collect();
    sqlx::query!(
        "INSERT INTO billing_disputes (
           organization_id, stripe_dispute_id, stripe_charge_id, stripe_payment_intent_id,
           status, reason, currency, amount, evidence_due_by, metadata, livemode,
           stripe_created_at, last_event_at, last_event_rank, last_event_id, tied_event_ids)
         SELECT
           organization_id, stripe_dispute_id, stripe_charge_id, stripe_payment_intent_id,
           status, reason, currency, amount, evidence_due_by, metadata, livemode,
           stripe_created_at, last_event_at, last_event_rank, last_event_id, tied_event_ids
           FROM json_populate_recordset(NULL::billing_disputes, $1::text::json)
         ON CONFLICT (organization_id, stripe_dispute_id) DO UPDATE SET
           stripe_charge_id = excluded.stripe_charge_id,
           stripe_payment_intent_id = excluded.stripe_payment_intent_id,
           status = excluded.status, reason = excluded.reason, currency = excluded.currency,
           amount = excluded.amount, evidence_due_by = excluded.evidence_due_by,
           metadata = excluded.metadata, livemode = excluded.livemode,
           stripe_created_at = excluded.stripe_created_at,
           last_event_at = excluded.last_event_at, last_event_rank = excluded.last_event_rank,
           last_event_id = excluded.last_event_id, tied_event_ids = excluded.tied_event_ids,
           updated_at = excluded.updated_at",
        document(&rows)?
    )
    .execute(conn)
    .await?;
    Ok(())
}
