//! SQL of disputes.

use serde_json::json;

use super::mirrored::mirrored;
use crate::stripe::objects::Dispute;

mirrored! {
    Dispute, in "billing_disputes" by stripe_dispute_id, "stripe_dispute_id";
    columns: [
        "stripe_charge_id", "stripe_payment_intent_id", "status", "reason", "currency", "amount",
        "evidence_due_by", "metadata", "livemode", "stripe_created_at",
    ];
    shown: "stripe_charge_id, status, reason, amount, currency, evidence_due_by",
    |row| json!({
            "chargeId": row.stripe_charge_id,
            "status": row.status,
            "reason": row.reason,
            "amount": row.amount,
            "currency": row.currency,
            "evidenceDueBy": row.evidence_due_by.map(|at| at.to_jiff()),
        })
}
