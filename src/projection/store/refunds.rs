//! SQL of refunds.

use serde_json::json;

use super::mirrored::mirrored;
use crate::stripe::objects::Refund;

mirrored! {
    Refund, in "billing_refunds" by stripe_refund_id, "stripe_refund_id";
    columns: [
        "stripe_charge_id", "stripe_payment_intent_id", "status", "reason", "failure_reason",
        "currency", "amount", "metadata", "stripe_created_at",
    ];
    shown: "stripe_charge_id, status, reason, failure_reason, amount, currency",
    |row| json!({
            "chargeId": row.stripe_charge_id,
            "status": row.status,
            "reason": row.reason,
            "failureReason": row.failure_reason,
            "amount": row.amount,
            "currency": row.currency,
        })
}
