//! What is kept of an event whose payload is removed, as far as processing reads
//! it again: the attributes that are mirrored anyway, and digests of all of them,
//! by which a late event of its second compares with it as with the whole.

use serde_json::{Map, Value, json};
use sqlx::PgConnection;

use super::store::extracts;
pub use super::store::extracts::Emptied;
use crate::stripe::event::EventData;

/// What the objects read of Stripe's attributes, at whatever depth; sorted.
const READ: &[&str] = &[
    "address",
    "amount",
    "amount_captured",
    "amount_decimal",
    "amount_due",
    "amount_off",
    "amount_paid",
    "amount_refunded",
    "amount_remaining",
    "amount_total",
    "attempt_count",
    "attempted",
    "automatic_tax",
    "bank_name",
    "behavior",
    "billing",
    "billing_cycle_anchor",
    "billing_mode",
    "billing_reason",
    "brand",
    "cancel_at",
    "cancel_at_period_end",
    "canceled_at",
    "cancellation_details",
    "captured",
    "card",
    "card_present",
    "charge",
    "client_reference_id",
    "closed",
    "code",
    "collection_method",
    "comment",
    "completed_at",
    "country",
    "coupon",
    "created",
    "currency",
    "current_period_end",
    "current_period_start",
    "current_phase",
    "customer",
    "customer_account",
    "data",
    "date",
    "default_payment_method",
    "default_source",
    "default_tax_rates",
    "deleted",
    "delinquent",
    "description",
    "discount",
    "discount_amounts",
    "discounts",
    "dispute",
    "disputed",
    "divide_by",
    "due_by",
    "due_date",
    "duration",
    "duration_in_months",
    "enabled",
    "end",
    "end_behavior",
    "end_date",
    "ended_at",
    "ending_balance",
    "evidence_details",
    "exp_month",
    "exp_year",
    "expires_at",
    "failure_code",
    "failure_message",
    "failure_reason",
    "feedback",
    "finalized_at",
    "forgiven",
    "funding",
    "has_more",
    "hosted_invoice_url",
    "iban_last4",
    "id",
    "inclusive",
    "interac_present",
    "interval",
    "interval_count",
    "invoice",
    "invoice_item_details",
    "invoice_pdf",
    "invoice_settings",
    "items",
    "last4",
    "latest_invoice",
    "lines",
    "livemode",
    "lookup_key",
    "metadata",
    "mode",
    "name",
    "network_status",
    "next_payment_attempt",
    "number",
    "object",
    "outcome",
    "paid",
    "paid_at",
    "parent",
    "pause_collection",
    "payment",
    "payment_intent",
    "payment_link",
    "payment_method",
    "payment_method_details",
    "payment_status",
    "pending_update",
    "percent_off",
    "percentage",
    "period",
    "period_end",
    "period_start",
    "phases",
    "plan",
    "plan_version",
    "plans",
    "postal_code",
    "price",
    "price_details",
    "pricing",
    "product",
    "promotion_code",
    "proration",
    "quantity",
    "reason",
    "receipt_url",
    "recurring",
    "refunded",
    "released_at",
    "released_subscription",
    "risk_level",
    "round",
    "schedule",
    "seller_message",
    "source",
    "start",
    "start_date",
    "starting_balance",
    "state",
    "status",
    "status_transitions",
    "subscription",
    "subscription_details",
    "subscription_item",
    "subscription_item_details",
    "subtotal",
    "tax",
    "tax_amounts",
    "tax_behavior",
    "tax_percent",
    "tax_rates",
    "taxes",
    "test_clock",
    "total",
    "total_discount_amounts",
    "total_tax_amounts",
    "total_taxes",
    "transform_quantity",
    "transform_usage",
    "trial_end",
    "trial_start",
    "type",
    "unit_amount",
    "unit_amount_decimal",
    "usage_type",
    "voided_at",
];

/// What is read as it is, whatever is in it.
const WHOLE: &[&str] = &["metadata", "pending_update"];

/// What is kept of a payload, as JSON that reads as the payload did; `None` where
/// the payload cannot be read.
pub fn extract(payload: &str) -> Option<String> {
    let data = EventData::read(payload).ok()?;
    let digests = data.digests();
    let mut kept = json!({
        "data": {"object": pruned(&data.object)},
        "valuecanvas_digests": digests,
    });
    if let Some(previous) = &data.previous_attributes {
        kept["data"]["previous_attributes"] = Value::Object(pruned_attributes(previous, None));
    }
    if let Some(cause) = &data.caused_by {
        kept["request"] = json!({"idempotency_key": cause});
    }
    Some(kept.to_string())
}

fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            // What it is of stands under the name of its type.
            let kind = object.get("type").and_then(Value::as_str);
            Value::Object(pruned_attributes(object, kind))
        }
        Value::Array(members) => members.iter().map(pruned).collect(),
        other => other.clone(),
    }
}

fn pruned_attributes(object: &Map<String, Value>, kind: Option<&str>) -> Map<String, Value> {
    let read = |name: &str| READ.binary_search(&name).is_ok() || kind == Some(name);
    let kept = object.iter().filter(|(name, _)| read(name));
    // Names of coupons are read, those of people are not.
    let is_coupon = object.get("object").and_then(Value::as_str) == Some("coupon");
    let kept = kept.filter(|(name, _)| is_coupon || name.as_str() != "name");
    let kept = kept.map(|(name, value)| match name.as_str() {
        whole if WHOLE.contains(&whole) => (name.clone(), value.clone()),
        "address" => (name.clone(), masked(value)),
        _ => (name.clone(), pruned(value)),
    });
    kept.collect()
}

/// An address without what says where exactly: of all but the country it is read
/// only whether it is there.
fn masked(address: &Value) -> Value {
    let Value::Object(fields) = address else {
        return address.clone();
    };
    let read = fields
        .iter()
        .filter(|(name, _)| ["country", "postal_code", "state"].contains(&name.as_str()));
    let masked = read.map(|(name, value)| {
        let given = value.as_str().is_some_and(|text| !text.trim().is_empty());
        let value = match (name.as_str(), given) {
            ("country", _) => value.clone(),
            (_, true) => json!("given"),
            (_, false) => Value::Null,
        };
        (name.clone(), value)
    });
    Value::Object(masked.collect())
}

/// Empties the payloads of up to `limit` of the events that `which` names and that
/// came before `before`, oldest first, within one transaction. Returns how many
/// those are.
pub async fn remove_payloads(
    conn: &mut PgConnection,
    which: Emptied,
    before: jiff::Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let old = extracts::old(conn, which, before, limit).await?;
    for event in extracts::read_again(conn, &old).await? {
        // One at a time: payloads may be large.
        let payload = extracts::payload(conn, event).await?;
        if let Some(extract) = extract(&payload) {
            extracts::keep(conn, event, &extract).await?;
        }
    }
    extracts::empty(conn, &old).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: [&str; 12] = [
        include_str!("../stripe/objects/charge.rs"),
        include_str!("../stripe/objects/checkout_session.rs"),
        include_str!("../stripe/objects/customer.rs"),
        include_str!("../stripe/objects/discount.rs"),
        include_str!("../stripe/objects/dispute.rs"),
        include_str!("../stripe/objects/fields.rs"),
        include_str!("../stripe/objects/invoice.rs"),
        include_str!("../stripe/objects/invoice_payment.rs"),
        include_str!("../stripe/objects/payment_method.rs"),
        include_str!("../stripe/objects/refund.rs"),
        include_str!("../stripe/objects/subscription.rs"),
        include_str!("../stripe/objects/subscription_schedule.rs"),
    ];

    /// What is written as a word there, and is no attribute.
    const VALUES: &[&str] = &[
        "attached",
        "canceled",
        "completed",
        "detached",
        "draft",
        "failed",
        "lost",
        "open",
        "prevented",
        "released",
        "succeeded",
        "uncollectible",
        "warning_closed",
        "won",
    ];

    #[test]
    fn every_attribute_that_an_object_reads_is_kept() {
        assert!(READ.is_sorted(), "it is searched by halves");
        for source in SOURCES {
            let code = source.lines().filter(|line| !line.trim().starts_with("#["));
            let code: String = code.flat_map(|line| [line, "\n"]).collect();
            for word in code.split('"').skip(1).step_by(2) {
                let is_name = !word.is_empty()
                    && word
                        .bytes()
                        .all(|byte| matches!(byte, b'a'..=b'z' | b'_' | b'0'..=b'9'));
                let known = READ.contains(&word) || VALUES.contains(&word);
                assert!(
                    !is_name || known,
                    "{word} is read: keep it, or name it a value"
                );
            }
        }
    }

    #[test]
    fn an_extract_reads_and_compares_as_the_payload_did() {
        let payload = json!({
            "id": "evt_1", "type": "customer.subscription.updated",
            "data": {
                "object": {
                    "id": "sub_1", "customer": {"id": "cus_1", "email": "who@example.com"},
                    "status": "active", "metadata": {"any": {"thing": 1}}, "application": "ca_1",
                    "items": {"data": [{"id": "si_1", "price": {"id": "price_1", "nickname": "x"}}]},
                },
                "previous_attributes": {"status": "past_due", "application": null},
            },
            "request": {"id": "req_1", "idempotency_key": "key_1"},
        });
        let whole = EventData::read(&payload.to_string()).unwrap();
        let kept = extract(&payload.to_string()).unwrap();
        assert!(
            !kept.contains("example.com") && !kept.contains("ca_1"),
            "{kept}"
        );
        let kept = EventData::read(&kept).unwrap();
        assert_eq!(kept.caused_by, whole.caused_by);
        assert_eq!(kept.digests().object, whole.digests().object);
        assert_eq!(
            kept.digests().previous_attributes,
            whole.digests().previous_attributes
        );
        let read = |data: &EventData| {
            let object = crate::stripe::objects::Subscription::read(&data.object).unwrap();
            format!("{object:?}")
        };
        assert_eq!(read(&kept), read(&whole));
    }
}
