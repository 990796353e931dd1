//! SQL of invoice payments.

use serde_json::json;

use super::mirrored::mirrored;
use crate::stripe::objects::InvoicePayment;

mirrored! {
    InvoicePayment, in "billing_invoice_payments" by stripe_invoice_payment_id, "stripe_invoice_payment_id";
    columns: [
        "stripe_invoice_id", "stripe_payment_intent_id", "stripe_charge_id", "status", "currency",
        "amount_paid", "livemode", "stripe_created_at",
    ];
    shown: "stripe_invoice_id, stripe_payment_intent_id, stripe_charge_id, status, amount_paid, currency",
    |row| json!({
            "invoiceId": row.stripe_invoice_id,
            "paymentIntentId": row.stripe_payment_intent_id,
            "chargeId": row.stripe_charge_id,
            "status": row.status,
            "paidAmount": row.amount_paid,
            "currency": row.currency,
        })
}
