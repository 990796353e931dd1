//! SQL of checkout sessions.

use serde_json::json;

use super::mirrored::mirrored;
use crate::stripe::objects::CheckoutSession;

mirrored! {
    CheckoutSession, in "billing_checkout_sessions" by stripe_checkout_session_id, "stripe_checkout_session_id";
    columns: [
        "stripe_customer_id", "stripe_subscription_id", "stripe_invoice_id",
        "stripe_payment_intent_id", "client_reference_id", "mode", "status", "payment_status",
        "currency", "total_amount", "expires_at", "metadata", "livemode", "stripe_created_at",
    ];
    shown: "status, payment_status, mode, total_amount, currency, stripe_customer_id, stripe_subscription_id, stripe_invoice_id",
    |row| json!({
            "status": row.status,
            "paymentStatus": row.payment_status,
            "mode": row.mode,
            "totalAmount": row.total_amount,
            "currency": row.currency,
            "stripeCustomerId": row.stripe_customer_id,
            "stripeSubscriptionId": row.stripe_subscription_id,
            "stripeInvoiceId": row.stripe_invoice_id,
        })
}
