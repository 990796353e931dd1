//! SQL of charges.

use serde_json::json;
use sqlx::PgConnection;

use super::mirrored::mirrored;
use super::unzip;
use crate::projection::versions::merge::ObjectKey;
use crate::stripe::objects::Charge;

mirrored! {
    Charge, in "billing_charges" by stripe_charge_id, "stripe_charge_id";
    columns: [
        "stripe_customer_id", "stripe_invoice_id", "stripe_payment_intent_id",
        "stripe_payment_method_id", "status", "currency", "amount", "amount_captured",
        "amount_refunded", "paid", "captured", "refunded", "disputed", "failure_code",
        "failure_message", "outcome_type", "outcome_network_status", "outcome_reason",
        "outcome_risk_level", "outcome_seller_message", "card_brand", "card_last4", "description",
        "receipt_url", "metadata", "livemode", "stripe_created_at",
    ];
    shown: "status, amount, amount_captured, amount_refunded, refunded, currency, failure_code, failure_message",
    |row| json!({
            "status": row.status,
            "amount": row.amount,
            "amountCaptured": row.amount_captured,
            "amountRefunded": row.amount_refunded,
            "refunded": row.refunded,
            "currency": row.currency,
            "failureCode": row.failure_code,
            "failureMessage": row.failure_message,
        })
}

/// Updates charges from other objects: the invoice, if the charge does not name
/// it, and whether it is disputed. `named` has ids of charges or of their
/// payments.
pub async fn link(conn: &mut PgConnection, named: &[ObjectKey]) -> Result<(), sqlx::Error> {
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
