//! What an invoice's payments say of its subscription.

use serde_json::{Value, json};

use super::workbench::Workbench;
use crate::support::events::{event, invoice, subscription};

const STATUS: &str = "SELECT status, stripe_status FROM billing_subscriptions";

fn active() -> Value {
    let object = subscription("sub_1", "cus_1", "active", "standard");
    event("evt_sub", "customer.subscription.created", 100, object)
}

fn payment(outcome: &str, created: i64, change: impl FnOnce(&mut Value)) -> Value {
    let status = if outcome == "succeeded" {
        "paid"
    } else {
        "open"
    };
    let mut object = invoice("in_1", "cus_1", "sub_1", status);
    change(&mut object);
    let id = format!("evt_{outcome}_{created}");
    event(&id, &format!("invoice.payment_{outcome}"), created, object)
}

#[tokio::test]
async fn a_failed_payment_is_past_due_with_alert_and_audit_entry() {
    let bench = Workbench::new().await;
    bench.process(&[active()]).await;
    bench
        .process(&[payment("failed", 150, |object| {
            object["next_payment_attempt"] = json!(1_760_100_000)
        })])
        .await;
    bench
        .shows(
            STATUS,
            json!({"status": "past_due", "stripe_status": "active"}),
        )
        .await;
    bench
        .shows(
            "SELECT kind, alert_key, resource_type, resource_id, message FROM billing_alerts",
            json!({
                "kind": "payment_failed",
                "alert_key": "evt_failed_150",
                "resource_type": "invoice",
                "resource_id": "in_1",
                "message": "payment of 99.00 USD for invoice A-0001 failed (attempt 1); \
                            Stripe tries again at 2025-10-10T12:40:00Z",
            }),
        )
        .await;
    bench
        .shows(
            "SELECT actor_type, resource_id, before_state, after_state,
                    metadata ->> 'stripe_event_id' AS event
               FROM billing_audit_log WHERE action = 'subscription_status_changed'",
            json!({
                "actor_type": "webhook",
                "resource_id": "sub_1",
                "before_state": {"status": "active"},
                "after_state": {"status": "past_due"},
                "event": "evt_failed_150",
            }),
        )
        .await;
    // Its plan stays until Stripe gives up.
    bench
        .shows(
            "SELECT plan_tier FROM organizations",
            json!({"plan_tier": "standard"}),
        )
        .await;
    bench.process(&[payment("succeeded", 160, |_| {})]).await;
    bench
        .shows(
            STATUS,
            json!({"status": "active", "stripe_status": "active"}),
        )
        .await;
}

#[tokio::test]
async fn a_payment_never_revives_a_cancelled_subscription() {
    let bench = Workbench::new().await;
    let cancelled = subscription("sub_1", "cus_1", "canceled", "standard");
    bench
        .process(&[
            active(),
            event("evt_2", "customer.subscription.deleted", 120, cancelled),
        ])
        .await;
    bench.process(&[payment("failed", 150, |_| {})]).await;
    bench.process(&[payment("succeeded", 160, |_| {})]).await;
    bench
        .shows(
            STATUS,
            json!({"status": "canceled", "stripe_status": "canceled"}),
        )
        .await;
    bench
        .shows(
            "SELECT plan_tier FROM organizations",
            json!({"plan_tier": "free"}),
        )
        .await;
}

#[tokio::test]
async fn a_first_payment_that_fails_leaves_the_subscription_incomplete() {
    let bench = Workbench::new().await;
    let incomplete = subscription("sub_1", "cus_1", "incomplete", "standard");
    let created = event("evt_1", "customer.subscription.created", 100, incomplete);
    let failed = payment("failed", 100, |object| {
        object["billing_reason"] = json!("subscription_create")
    });
    bench.process(&[failed, created]).await;
    bench
        .shows(
            STATUS,
            json!({"status": "incomplete", "stripe_status": "incomplete"}),
        )
        .await;
    bench
        .shows(
            "SELECT plan_tier FROM organizations",
            json!({"plan_tier": "free"}),
        )
        .await;
}

#[tokio::test]
async fn an_invoice_without_a_subscription_is_only_an_invoice() {
    let bench = Workbench::new().await;
    bench.process(&[active()]).await;
    bench
        .process(&[payment("failed", 150, |object| {
            object["parent"] = Value::Null;
            object["billing_reason"] = json!("manual");
        })])
        .await;
    bench
        .shows(
            STATUS,
            json!({"status": "active", "stripe_status": "active"}),
        )
        .await;
    assert_eq!(bench.db.count("billing_alerts").await, 1);
}

#[tokio::test]
async fn the_old_shape_marks_past_due_too() {
    let bench = Workbench::new().await;
    bench.process(&[active()]).await;
    let mut failed = payment("failed", 150, |object| {
        object["parent"] = Value::Null;
        object["subscription"] = json!("sub_1");
    });
    failed["api_version"] = json!("2020-03-02");
    bench.process(&[failed]).await;
    bench
        .shows(
            STATUS,
            json!({"status": "past_due", "stripe_status": "active"}),
        )
        .await;
}

/// The status in force, after each of `events` in turn.
async fn statuses(events: &[Value]) -> Vec<Value> {
    let bench = Workbench::new().await;
    let mut statuses = Vec::new();
    for event in events {
        bench.process(std::slice::from_ref(event)).await;
        statuses.push(bench.rows(STATUS).await[0]["status"].clone());
    }
    statuses
}

#[tokio::test]
async fn a_change_that_waits_for_its_payment_leaves_the_subscription_active() {
    for reason in ["subscription_update", "manual"] {
        let mut waiting = subscription("sub_1", "cus_1", "active", "standard");
        waiting["pending_update"] = json!({"expires_at": 1_760_080_000,
            "subscription_items": [{"id": "si_sub_1", "price": "price_enterprise"}]});
        let events = [
            active(),
            event("evt_2", "customer.subscription.updated", 149, waiting),
            payment("failed", 150, |object| {
                object["billing_reason"] = json!(reason)
            }),
        ];
        assert_eq!(statuses(&events).await, ["active"; 3], "{reason}");
    }
}

#[tokio::test]
async fn a_change_that_does_not_wait_is_past_due() {
    let failed = payment("failed", 150, |object| {
        object["billing_reason"] = json!("subscription_update")
    });
    assert_eq!(statuses(&[active(), failed]).await, ["active", "past_due"]);
}

#[tokio::test]
async fn a_deduced_status_ends_with_its_cause_in_any_order() {
    for (event_type, status, out_of_band) in [
        ("invoice.updated", "paid", true),
        ("invoice.paid", "paid", true),
        ("invoice.voided", "void", false),
        ("invoice.updated", "void", false),
        ("invoice.marked_uncollectible", "uncollectible", false),
    ] {
        let mut object = invoice("in_1", "cus_1", "sub_1", status);
        object["paid_out_of_band"] = json!(out_of_band);
        let ended = event("evt_end", event_type, 160, object);
        let failed = payment("failed", 150, |_| {});
        assert_eq!(
            statuses(&[active(), failed.clone(), ended.clone()]).await,
            ["active", "past_due", "active"],
            "{event_type} {status}"
        );
        assert_eq!(statuses(&[active(), ended, failed]).await, ["active"; 3]);
    }
}

#[tokio::test]
async fn another_invoice_that_ends_is_not_the_cause() {
    let failed = payment("failed", 150, |_| {});
    let other = invoice("in_2", "cus_1", "sub_1", "void");
    let other = event("evt_other", "invoice.voided", 160, other);
    assert_eq!(
        statuses(&[active(), failed, other]).await,
        ["active", "past_due", "past_due"]
    );
}
