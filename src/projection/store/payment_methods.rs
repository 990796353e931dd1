//! SQL of payment methods.

use serde_json::json;

use super::mirrored::mirrored;
use crate::stripe::objects::PaymentMethod;

mirrored! {
    PaymentMethod, in "billing_payment_methods" by stripe_payment_method_id, "stripe_payment_method_id";
    columns: [
        "stripe_customer_id", "status", "type", "brand", "last4", "exp_month", "exp_year",
        "funding", "country", "metadata", "livemode", "stripe_created_at",
    ];
    shown: "status, type AS kind, brand, exp_month, exp_year, funding",
    |row| json!({
            "status": row.status,
            "type": row.kind,
            "brand": row.brand,
            "expMonth": row.exp_month,
            "expYear": row.exp_year,
            "funding": row.funding,
        })
}
