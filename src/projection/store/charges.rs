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
    shown: "status, amount, amount_captured, currency, failure_code,
            CASE WHEN refunds_told_by = last_event_id THEN amount_refunded_told
                 ELSE amount_refunded END AS \"amount_refunded!\",
            CASE WHEN refunds_told_by = last_event_id THEN amount_refunded_told >= amount
                 ELSE refunded END AS \"refunded!\"",
    |row| json!({
            "status": row.status,
            "amount": row.amount,
            "amountCaptured": row.amount_captured,
            "amountRefunded": row.amount_refunded,
            "refunded": row.refunded,
            "currency": row.currency,
            "failureCode": row.failure_code,
        })
}

/// Updates charges from other objects: the invoice, if the charge does not name
/// it, whether it is disputed, and what was refunded without what has failed since
/// the charge's own event. `named` has ids of charges or of their payments.
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
           SELECT n.organization_id, n.stripe_charge_id, refunds.said,
                  greatest(refunds.said - refunds.returned, least(refunds.said, refunds.made), 0) AS kept,
                  (SELECT min(p.stripe_invoice_id) FROM billing_invoice_payments p
                    WHERE p.organization_id = n.organization_id
                      AND (p.stripe_charge_id = n.stripe_charge_id
                           OR p.stripe_payment_intent_id = n.stripe_payment_intent_id)) AS invoice,
                  EXISTS (SELECT FROM billing_disputes d
                           WHERE d.organization_id = n.organization_id
                             AND d.stripe_charge_id = n.stripe_charge_id) AS disputed
             FROM named n
             CROSS JOIN LATERAL (
               SELECT CASE WHEN c.refunds_told_by = c.last_event_id THEN c.amount_refunded_told
                           ELSE c.amount_refunded END AS said,
                      -- Events have seconds only. Of one second, the charge may have counted
                      -- the refund, or not any more: then the others make up what it says.
                      (SELECT coalesce(sum(r.amount), 0)::bigint FROM billing_refunds r
                        WHERE r.organization_id = c.organization_id
                          AND r.stripe_charge_id = c.stripe_charge_id
                          AND r.status IN ('failed', 'canceled')
                          AND r.last_event_at >= c.last_event_at) AS returned,
                      (SELECT coalesce(sum(r.amount), 0)::bigint FROM billing_refunds r
                        WHERE r.organization_id = c.organization_id
                          AND r.stripe_charge_id = c.stripe_charge_id
                          AND r.status NOT IN ('failed', 'canceled')) AS made
                 FROM billing_charges c
                WHERE c.organization_id = n.organization_id
                  AND c.stripe_charge_id = n.stripe_charge_id) refunds)
         UPDATE billing_charges c
            SET stripe_invoice_id = coalesce(told.invoice, c.stripe_invoice_id),
                disputed = c.disputed OR told.disputed,
                amount_refunded = told.kept,
                refunded = CASE WHEN told.kept < told.said THEN false
                                WHEN c.refunds_told_by = c.last_event_id THEN told.said >= c.amount
                                ELSE c.refunded END,
                amount_refunded_told = CASE WHEN told.kept < told.said THEN told.said END,
                refunds_told_by = CASE WHEN told.kept < told.said THEN c.last_event_id END,
                updated_at = now()
           FROM told
          WHERE c.organization_id = told.organization_id AND c.stripe_charge_id = told.stripe_charge_id
            AND (told.invoice IS DISTINCT FROM c.stripe_invoice_id AND told.invoice IS NOT NULL
                 OR told.disputed AND NOT c.disputed
                 OR told.kept <> c.amount_refunded
                 OR told.kept < told.said AND c.refunds_told_by IS DISTINCT FROM c.last_event_id
                 OR told.kept = told.said AND c.refunds_told_by IS NOT NULL)",
        &organizations,
        &ids as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}
