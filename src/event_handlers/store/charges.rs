//! Charges as rows.

use serde_json::json;
use sqlx::PgConnection;

use super::{document, unzip, version};
use crate::event_handlers::fold::{Folded, Key, Stored, StoredRows};
use crate::stripe::objects::Charge;

pub async fn load(conn: &mut PgConnection, keys: &[Key]) -> Result<StoredRows, sqlx::Error> {
    let (organizations, ids) = unzip(keys);
    let rows = sqlx::query!(
        r#"SELECT organization_id, stripe_charge_id, status, amount, amount_captured, amount_refunded, refunded,
                  currency, failure_code, failure_message,
                  last_event_at, last_event_rank, last_event_id, tied_event_ids
             FROM unnest($1::uuid[], $2::text[]) AS wanted(organization, id)
             JOIN billing_charges row
               ON row.organization_id = wanted.organization AND row.stripe_charge_id = wanted.id"#,
        &organizations,
        &ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let stored = rows.into_iter().map(|row| {
        let summary = json!({
            "status": row.status,
            "amount": row.amount,
            "amountCaptured": row.amount_captured,
            "amountRefunded": row.amount_refunded,
            "refunded": row.refunded,
            "currency": row.currency,
            "failureCode": row.failure_code,
            "failureMessage": row.failure_message,
        });
        let version = version(
            row.last_event_at,
            row.last_event_rank,
            row.last_event_id,
            row.tied_event_ids,
        );
        (
            (row.organization_id, row.stripe_charge_id),
            Stored { summary, version },
        )
    });
    Ok(stored.collect())
}

pub async fn save(conn: &mut PgConnection, changed: &[Folded<Charge>]) -> Result<(), sqlx::Error> {
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = changed.iter().map(Folded::row).collect();
    sqlx::query!(
        "INSERT INTO billing_charges (
           organization_id, stripe_charge_id, stripe_customer_id, stripe_invoice_id,
           stripe_payment_intent_id, stripe_payment_method_id, status, currency, amount,
           amount_captured, amount_refunded, paid, captured, refunded, disputed, failure_code,
           failure_message, outcome_type, outcome_network_status, outcome_reason,
           outcome_risk_level, outcome_seller_message, card_brand, card_last4, description,
           receipt_url, metadata, livemode, stripe_created_at, last_event_at, last_event_rank,
           last_event_id, tied_event_ids)
         SELECT
           organization_id, stripe_charge_id, stripe_customer_id, stripe_invoice_id,
           stripe_payment_intent_id, stripe_payment_method_id, status, currency, amount,
           amount_captured, amount_refunded, paid, captured, refunded, disputed, failure_code,
           failure_message, outcome_type, outcome_network_status, outcome_reason,
           outcome_risk_level, outcome_seller_message, card_brand, card_last4, description,
           receipt_url, metadata, livemode, stripe_created_at, last_event_at, last_event_rank,
           last_event_id, tied_event_ids
           FROM json_populate_recordset(NULL::billing_charges, $1::text::json)
         ON CONFLICT (organization_id, stripe_charge_id) DO UPDATE SET
           stripe_customer_id = excluded.stripe_customer_id, stripe_invoice_id =
           excluded.stripe_invoice_id, stripe_payment_intent_id =
           excluded.stripe_payment_intent_id, stripe_payment_method_id =
           excluded.stripe_payment_method_id, status = excluded.status, currency =
           excluded.currency, amount = excluded.amount, amount_captured =
           excluded.amount_captured, amount_refunded = excluded.amount_refunded, paid =
           excluded.paid, captured = excluded.captured, refunded = excluded.refunded, disputed =
           excluded.disputed, failure_code = excluded.failure_code, failure_message =
           excluded.failure_message, outcome_type = excluded.outcome_type,
           outcome_network_status = excluded.outcome_network_status, outcome_reason =
           excluded.outcome_reason, outcome_risk_level = excluded.outcome_risk_level,
           outcome_seller_message = excluded.outcome_seller_message, card_brand =
           excluded.card_brand, card_last4 = excluded.card_last4, description =
           excluded.description, receipt_url = excluded.receipt_url, metadata =
           excluded.metadata, livemode = excluded.livemode, stripe_created_at =
           excluded.stripe_created_at, last_event_at = excluded.last_event_at, last_event_rank =
           excluded.last_event_rank, last_event_id = excluded.last_event_id, tied_event_ids =
           excluded.tied_event_ids, updated_at = excluded.updated_at",
        document(&rows)?
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Enters what other objects say of charges, which `named` names by the id of
/// the charge or of its payment: the invoice, where the charge does not say it,
/// and whether it is disputed.
pub async fn link(conn: &mut PgConnection, named: &[Key]) -> Result<(), sqlx::Error> {
    if named.is_empty() {
        return Ok(());
    }
    let (organizations, ids) = unzip(named);
    sqlx::query!(
        "WITH named AS (
           SELECT c.organization_id, c.stripe_charge_id, c.stripe_payment_intent_id
             FROM unnest($1::uuid[], $2::text[]) AS named(organization, id)
             JOIN billing_charges c
               ON c.organization_id = named.organization AND c.stripe_charge_id = named.id
           UNION
           SELECT c.organization_id, c.stripe_charge_id, c.stripe_payment_intent_id
             FROM unnest($1::uuid[], $2::text[]) AS named(organization, id)
             JOIN billing_charges c
               ON c.organization_id = named.organization AND c.stripe_payment_intent_id = named.id),
         told AS (
           SELECT n.organization_id, n.stripe_charge_id,
                  (SELECT min(p.stripe_invoice_id) FROM billing_invoice_payments p
                    WHERE p.organization_id = n.organization_id
                      AND (p.stripe_charge_id = n.stripe_charge_id
                           OR p.stripe_payment_intent_id = n.stripe_payment_intent_id)) AS invoice,
                  EXISTS (SELECT FROM billing_disputes d
                           WHERE d.organization_id = n.organization_id
                             AND d.stripe_charge_id = n.stripe_charge_id) AS disputed
             FROM named n)
         UPDATE billing_charges c
            SET stripe_invoice_id = coalesce(told.invoice, c.stripe_invoice_id),
                disputed = c.disputed OR told.disputed, updated_at = now()
           FROM told
          WHERE c.organization_id = told.organization_id AND c.stripe_charge_id = told.stripe_charge_id
            AND (told.invoice IS DISTINCT FROM c.stripe_invoice_id AND told.invoice IS NOT NULL
                 OR told.disputed AND NOT c.disputed)",
        &organizations,
        &ids as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}
