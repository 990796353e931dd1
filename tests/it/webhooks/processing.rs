//! What is true of every event.

use serde_json::{Value, json};

use super::workbench::Workbench;
use crate::support::TestService;
use crate::support::events::{event, invoice, subscription};

fn created(id: &str) -> Value {
    let object = subscription("sub_1", "cus_1", "active", "standard");
    event(id, "customer.subscription.created", 100, object)
}

#[tokio::test]
async fn a_delivery_becomes_plan_and_quotas() {
    let service = TestService::start().await;
    service.db.organization("cus_1").await;
    let answer = service.deliver(&created("evt_1")).await;
    assert_eq!(
        answer,
        json!({"received": true, "eventId": "evt_1", "duplicate": false})
    );
    service.settle().await;
    assert_eq!(
        service
            .db
            .value("SELECT plan_tier FROM organizations")
            .await,
        "standard"
    );
    assert_eq!(
        service
            .db
            .value("SELECT quota FROM usage_quotas WHERE metric = 'llm_tokens'")
            .await,
        "1000000.0000"
    );
    assert_eq!(service.deliver(&created("evt_1")).await["duplicate"], true);
}

#[tokio::test]
async fn what_is_not_ours_to_apply_is_marked_processed() {
    let mut bench = Workbench::new().await;
    bench.processor.key_is_live = Some(true);
    let mut foreign = created("evt_3");
    foreign["account"] = json!("acct_1");
    foreign["livemode"] = json!(true);
    bench
        .process(&[
            event(
                "evt_1",
                "customer.tax_id.created",
                100,
                json!({"id": "txi_1"}),
            ),
            created("evt_2"),
            foreign,
        ])
        .await;
    assert_eq!(
        bench.outcomes().await,
        json!([
            {"id": "evt_1", "outcome": "ignored"},
            {"id": "evt_2", "outcome": "livemode_mismatch"},
            {"id": "evt_3", "outcome": "foreign_account"},
        ])
    );
    assert_eq!(bench.db.count("billing_subscriptions").await, 0);
    assert_eq!(
        bench
            .db
            .count("billing_audit_log WHERE actor_type = 'webhook'")
            .await,
        0
    );
}

#[tokio::test]
async fn a_test_key_takes_no_live_event_and_no_key_takes_both() {
    for (key_is_live, livemode, applied) in [
        (Some(false), true, 0),
        (Some(false), false, 1),
        (Some(true), true, 1),
        (None, true, 1),
        (None, false, 1),
    ] {
        let mut bench = Workbench::new().await;
        bench.processor.key_is_live = key_is_live;
        let mut event = created("evt_1");
        event["livemode"] = json!(livemode);
        bench.process(&[event]).await;
        assert_eq!(bench.db.count("billing_subscriptions").await, applied);
    }
}

#[tokio::test]
async fn each_effect_has_its_audit_entry_with_the_states_before_and_after() {
    let bench = Workbench::new().await;
    bench.process(&[created("evt_1")]).await;
    let upgraded = subscription("sub_1", "cus_1", "active", "enterprise");
    bench
        .process(&[event(
            "evt_2",
            "customer.subscription.updated",
            101,
            upgraded,
        )])
        .await;
    assert_eq!(
        bench
            .rows(
                "SELECT action, actor_type, resource_type, resource_id,
                        before_state ->> 'planTier' AS before, after_state ->> 'planTier' AS after,
                        metadata
                   FROM billing_audit_log WHERE action <> 'organization_created' ORDER BY sequence",
            )
            .await,
        json!([
            entry(
                "subscription_created",
                "subscription",
                "sub_1",
                [Value::Null, json!("standard")],
                json!({"stripe_event_id": "evt_1", "event_type": "customer.subscription.created"})
            ),
            entry(
                "plan_changed",
                "organization",
                &bench.organization.to_string(),
                [json!("free"), json!("standard")],
                json!({})
            ),
            entry(
                "subscription_updated",
                "subscription",
                "sub_1",
                [json!("standard"), json!("enterprise")],
                json!({"stripe_event_id": "evt_2", "event_type": "customer.subscription.updated"})
            ),
            entry(
                "plan_changed",
                "organization",
                &bench.organization.to_string(),
                [json!("standard"), json!("enterprise")],
                json!({})
            ),
        ])
    );
    bench.verify_audit().await;
}

fn entry(
    action: &str,
    resource_type: &str,
    id: &str,
    states: [Value; 2],
    metadata: Value,
) -> Value {
    let [before, after] = states;
    json!({
        "action": action,
        "actor_type": "webhook",
        "resource_type": resource_type,
        "resource_id": id,
        "before": before,
        "after": after,
        "metadata": metadata,
    })
}

#[tokio::test]
async fn without_its_audit_entry_an_event_has_no_effect_and_is_retried() {
    let bench = Workbench::new().await;
    bench
        .db
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN RAISE EXCEPTION 'the audit log is broken' USING ERRCODE = 'XX000'; END $$;
             CREATE TRIGGER broken BEFORE INSERT ON billing_audit_log
               FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    let failed = event(
        "evt_2",
        "invoice.payment_failed",
        100,
        invoice("in_1", "cus_1", "sub_1", "open"),
    );
    bench.store(&[created("evt_1"), failed]).await;
    assert_eq!(bench.work().await.failed, 2);
    bench
        .shows(
            "SELECT (SELECT count(*) FROM billing_subscriptions) AS subscriptions,
                    (SELECT count(*) FROM billing_invoices) AS invoices,
                    (SELECT count(*) FROM billing_alerts) AS alerts,
                    (SELECT count(*) FROM billing_applied_events) AS applied,
                    (SELECT plan_tier FROM organizations) AS plan,
                    (SELECT count(*) FROM webhook_events
                      WHERE NOT processed AND retry_count = 1 AND next_retry_at > now()
                        AND error_message ~ 'the audit log is broken') AS waiting",
            json!({"subscriptions": 0, "invoices": 0, "alerts": 0, "applied": 0, "plan": "free", "waiting": 2}),
        )
        .await;
    bench
        .db
        .execute("DROP TRIGGER broken ON billing_audit_log")
        .await;
    bench.let_retries_be_due().await;
    assert_eq!(bench.work().await.succeeded, 2);
    bench
        .shows(
            "SELECT status FROM billing_subscriptions",
            json!({"status": "past_due"}),
        )
        .await;
    bench.verify_audit().await;
}

#[tokio::test]
async fn applied_again_an_event_changes_nothing() {
    let bench = Workbench::new().await;
    let failed = event(
        "evt_2",
        "invoice.payment_failed",
        100,
        invoice("in_1", "cus_1", "sub_1", "open"),
    );
    bench.process(&[created("evt_1"), failed]).await;
    let state = "SELECT (SELECT count(*) FROM billing_audit_log) AS entries,
                        (SELECT count(*) FROM billing_alerts) AS alerts,
                        (SELECT count(*) FROM billing_applied_events) AS applied,
                        (SELECT status FROM billing_subscriptions) AS status";
    let before = bench.rows(state).await;
    for id in ["evt_1", "evt_2", "evt_1"] {
        let replayed =
            valuecanvas_billing::webhooks::dead_letters::replay::replay(&bench.processor, id)
                .await
                .unwrap();
        assert!(
            matches!(
                replayed,
                valuecanvas_billing::webhooks::dead_letters::replay::Replayed::Succeeded { .. }
            ),
            "{replayed:?}"
        );
    }
    assert_eq!(bench.rows(state).await, before);
}
