//! Checkout sessions as rows.

use serde_json::json;
use sqlx::PgConnection;

use super::{document, unzip, version};
use crate::event_handlers::fold::{Folded, Key, Stored, StoredRows};
use crate::stripe::objects::CheckoutSession;

pub async fn load(conn: &mut PgConnection, keys: &[Key]) -> Result<StoredRows, sqlx::Error> {
    let (organizations, ids) = unzip(keys);
    let rows = sqlx::query!(
        "SELECT organization_id, stripe_checkout_session_id, status, payment_status, mode, total_amount, currency, stripe_customer_id, stripe_subscription_id, stripe_invoice_id,
                last_event_at, last_event_rank, last_event_id, tied_event_ids
           FROM unnest($1::uuid[], $2::text[]) AS wanted(organization, id)
           JOIN billing_checkout_sessions row
             ON row.organization_id = wanted.organization AND row.stripe_checkout_session_id = wanted.id",
        &organizations,
        &ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let stored = rows.into_iter().map(|row| {
        let summary = json!({
            "status": row.status,
            "paymentStatus": row.payment_status,
            "mode": row.mode,
            "totalAmount": row.total_amount,
            "currency": row.currency,
            "stripeCustomerId": row.stripe_customer_id,
            "stripeSubscriptionId": row.stripe_subscription_id,
            "stripeInvoiceId": row.stripe_invoice_id,
        });
        let version = version(
            row.last_event_at,
            row.last_event_rank,
            row.last_event_id,
            row.tied_event_ids,
        );
        (
            (row.organization_id, row.stripe_checkout_session_id),
            Stored { summary, version },
        )
    });
    Ok(stored.collect())
}

pub async fn save(
    conn: &mut PgConnection,
    changed: &[Folded<CheckoutSession>],
) -> Result<(), sqlx::Error> {
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = changed.iter().map(Folded::row).collect();
    sqlx::query!(
        "INSERT INTO billing_checkout_sessions (
           organization_id, stripe_checkout_session_id, stripe_customer_id,
           stripe_subscription_id, stripe_invoice_id, stripe_payment_intent_id,
           client_reference_id, mode, status, payment_status, currency, total_amount,
           expires_at, metadata, livemode, stripe_created_at, last_event_at, last_event_rank,
           last_event_id, tied_event_ids)
         SELECT
           organization_id, stripe_checkout_session_id, stripe_customer_id,
           stripe_subscription_id, stripe_invoice_id, stripe_payment_intent_id,
           client_reference_id, mode, status, payment_status, currency, total_amount,
           expires_at, metadata, livemode, stripe_created_at, last_event_at, last_event_rank,
           last_event_id, tied_event_ids
           FROM json_populate_recordset(NULL::billing_checkout_sessions, $1::text::json)
         ON CONFLICT (organization_id, stripe_checkout_session_id) DO UPDATE SET
           stripe_customer_id = excluded.stripe_customer_id,
           stripe_subscription_id = excluded.stripe_subscription_id,
           stripe_invoice_id = excluded.stripe_invoice_id,
           stripe_payment_intent_id = excluded.stripe_payment_intent_id,
           client_reference_id = excluded.client_reference_id, mode = excluded.mode,
           status = excluded.status, payment_status = excluded.payment_status,
           currency = excluded.currency, total_amount = excluded.total_amount,
           expires_at = excluded.expires_at, metadata = excluded.metadata,
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
