//! Invoice payments as rows.

use serde_json::json;
use sqlx::PgConnection;

use super::{document, unzip, version};
use crate::event_handlers::fold::{Folded, Key, Stored, StoredRows};
use crate::stripe::objects::InvoicePayment;

pub async fn load(conn: &mut PgConnection, keys: &[Key]) -> Result<StoredRows, sqlx::Error> {
    let (organizations, ids) = unzip(keys);
    let rows = sqlx::query!(
        "SELECT organization_id, stripe_invoice_payment_id, stripe_invoice_id, stripe_payment_intent_id, stripe_charge_id, status, amount_paid, currency,
                last_event_at, last_event_rank, last_event_id, tied_event_ids
           FROM unnest($1::uuid[], $2::text[]) AS wanted(organization, id)
           JOIN billing_invoice_payments row
             ON row.organization_id = wanted.organization AND row.stripe_invoice_payment_id = wanted.id",
        &organizations,
        &ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let stored = rows.into_iter().map(|row| {
        let summary = json!({
            "invoiceId": row.stripe_invoice_id,
            "paymentIntentId": row.stripe_payment_intent_id,
            "chargeId": row.stripe_charge_id,
            "status": row.status,
            "paidAmount": row.amount_paid,
            "currency": row.currency,
        });
        let version = version(
            row.last_event_at,
            row.last_event_rank,
            row.last_event_id,
            row.tied_event_ids,
        );
        (
            (row.organization_id, row.stripe_invoice_payment_id),
            Stored { summary, version },
        )
    });
    Ok(stored.collect())
}

pub async fn save(
    conn: &mut PgConnection,
    changed: &[Folded<InvoicePayment>],
) -> Result<(), sqlx::Error> {
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = changed.iter().map(Folded::row).collect();
    sqlx::query!(
        "INSERT INTO billing_invoice_payments (
           organization_id, stripe_invoice_payment_id, stripe_invoice_id,
           stripe_payment_intent_id, stripe_charge_id, status, currency, amount_paid, livemode,
           stripe_created_at, last_event_at, last_event_rank, last_event_id, tied_event_ids)
         SELECT
           organization_id, stripe_invoice_payment_id, stripe_invoice_id,
           stripe_payment_intent_id, stripe_charge_id, status, currency, amount_paid, livemode,
           stripe_created_at, last_event_at, last_event_rank, last_event_id, tied_event_ids
           FROM json_populate_recordset(NULL::billing_invoice_payments, $1::text::json)
         ON CONFLICT (organization_id, stripe_invoice_payment_id) DO UPDATE SET
           stripe_invoice_id = excluded.stripe_invoice_id,
           stripe_payment_intent_id = excluded.stripe_payment_intent_id,
           stripe_charge_id = excluded.stripe_charge_id, status = excluded.status,
           currency = excluded.currency, amount_paid = excluded.amount_paid,
           livemode = excluded.livemode, stripe_created_at = excluded.stripe_created_at,
           last_event_at = excluded.last_event_at, last_event_rank = excluded.last_event_rank,
           last_event_id = excluded.last_event_id, tied_event_ids = excluded.tied_event_ids,
           updated_at = excluded.updated_at",
        document(&rows)?
    )
    .execute(conn)
    .await?;
    Ok(())
}
