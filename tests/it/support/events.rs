//! Events as Stripe sends them.

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Value, json};
use valuecanvas_billing::stripe::signature::{self, SigningSecret};

pub const SECRET: &str = "whsec_test_secret";

/// Signs `body` as of now with [`SECRET`].
pub fn sign(body: &[u8]) -> String {
    sign_with(SECRET, body)
}

pub fn sign_with(secret: &str, body: &[u8]) -> String {
    let now = Timestamp::now().as_second();
    signature::sign(&SigningSecret::new(secret), body, now)
}

/// An event around `object`, created at `created` (unix seconds).
pub fn event(id: &str, event_type: &str, created: i64, object: Value) -> Value {
    json!({
        "id": id,
        "object": "event",
        "api_version": "2025-03-31.basil",
        "created": created,
        "data": {"object": object},
        "livemode": false,
        "pending_webhooks": 1,
        "request": {"id": null, "idempotency_key": null},
        "type": event_type,
    })
}

/// A file of the recorded events, such as `charge_failed`.
pub fn recorded(name: &str) -> Value {
    let path: PathBuf = [
        env!("CARGO_MANIFEST_DIR"),
        "..",
        "shared",
        "data",
        "stripe-events",
    ]
    .iter()
    .collect();
    let path = path.join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// A subscription in today's shape.
pub fn subscription(id: &str, customer: &str, status: &str, tier: &str) -> Value {
    json!({
        "id": id,
        "object": "subscription",
        "billing_cycle_anchor": 1_760_000_000,
        "billing_mode": {"type": "flexible"},
        "cancel_at_period_end": false,
        "collection_method": "charge_automatically",
        "created": 1_760_000_000,
        "currency": "usd",
        "customer": customer,
        "items": {"object": "list", "has_more": false, "data": [{
            "id": format!("si_{id}"),
            "object": "subscription_item",
            "current_period_start": 1_760_000_000,
            "current_period_end": 1_762_678_400,
            "price": {
                "id": format!("price_{tier}"),
                "currency": "usd",
                "lookup_key": format!("valuecanvas_{tier}_monthly"),
                "metadata": {},
                "product": format!("prod_{tier}"),
                "recurring": {"interval": "month", "interval_count": 1, "usage_type": "licensed"},
                "unit_amount": 9900,
                "unit_amount_decimal": "9900",
            },
            "quantity": 1,
        }]},
        "livemode": false,
        "metadata": {},
        "status": status,
    })
}

/// An invoice of a subscription in today's shape.
pub fn invoice(id: &str, customer: &str, subscription: &str, status: &str) -> Value {
    let paid = if status == "paid" { 9900 } else { 0 };
    json!({
        "id": id,
        "object": "invoice",
        "amount_due": 9900,
        "amount_paid": paid,
        "amount_remaining": 9900 - paid,
        "attempt_count": 1,
        "billing_reason": "subscription_cycle",
        "collection_method": "charge_automatically",
        "created": 1_760_000_000,
        "currency": "usd",
        "customer": customer,
        "lines": {"object": "list", "has_more": false, "data": [{
            "id": format!("il_{id}"),
            "object": "line_item",
            "amount": 9900,
            "currency": "usd",
            "description": "1 × Standard (at $99.00 / month)",
            "metadata": {},
            "parent": {"subscription_item_details": {
                "proration": false,
                "subscription": subscription,
                "subscription_item": format!("si_{subscription}"),
            }},
            "period": {"start": 1_760_000_000, "end": 1_762_678_400},
            "pricing": {"price_details": {"price": "price_standard"}},
            "quantity": 1,
        }]},
        "livemode": false,
        "metadata": {},
        "number": "A-0001",
        "parent": {"subscription_details": {"metadata": {}, "subscription": subscription}},
        "status": status,
        "status_transitions": {},
        "subtotal": 9900,
        "total": 9900,
        "total_taxes": [],
    })
}
