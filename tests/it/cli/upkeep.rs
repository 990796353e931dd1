//! `webhooks discard`, `retry --now`, `replay --dry-run`, `list --organization`.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::TestDatabase;
use crate::support::events::event;
use crate::support::program::{Ran, program_on, run};
use crate::webhooks::workbench::{Workbench, failed_payment, subscribed, verify_audit};

fn webhooks(db: &TestDatabase, arguments: &[&str]) -> Ran {
    run(&mut program_on(db, &[&["webhooks"], arguments].concat()))
}

/// Three dead letters, of customers that nobody knows.
async fn with_letters() -> Workbench {
    let mut bench = Workbench::new().await;
    bench.processor.max_retries = 0;
    bench
        .store(&[
            subscribed("evt_1", "cus_gone"),
            subscribed("evt_2", "cus_gone"),
            failed_payment(3, "cus_gone"),
        ])
        .await;
    bench.work().await;
    assert_eq!(bench.db.count("webhook_dead_letter_queue").await, 3);
    bench
}

#[tokio::test]
async fn dead_letters_are_discarded_one_by_one_or_all_of_a_type() {
    let bench = with_letters().await;
    let db = &bench.db;
    let dry = webhooks(db, &["discard", "--all", "--dry-run", "--json"]);
    assert_eq!((dry.status, &dry.json()["discarded"]), (0, &json!(3)));
    assert_eq!(db.count("webhook_dead_letter_queue").await, 3);

    let typed = &[
        "discard",
        "--all",
        "--type",
        "customer.subscription.created",
    ];
    let ran = webhooks(db, typed);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("2 discarded"), "{}", ran.stdout);
    let ran = webhooks(db, &["discard", "evt_00003", "evt_1", "--json"]);
    assert_eq!(ran.status, 1, "one of them is no dead letter any more");
    assert_eq!(ran.json()["unknown"], json!(["evt_1"]));
    assert_eq!(db.count("webhook_dead_letter_queue").await, 0);
    assert_eq!(
        db.count("webhook_events WHERE processed AND outcome = 'discarded'")
            .await,
        3
    );
    let told = "billing_audit_log WHERE action = 'webhook_event_discarded' AND before_state ->> 'eventType' <> ''
                  AND before_state ->> 'error' IS NULL";
    assert_eq!(db.count(told).await, 3);
    verify_audit(db).await;
    assert_eq!(webhooks(db, &["discard"]).status, 2);
}

#[tokio::test]
async fn what_waits_for_its_next_attempt_is_retried_now() {
    let bench = Workbench::without_customers().await;
    bench.store(&[subscribed("evt_1", "cus_late")]).await;
    assert_eq!(bench.work().await.failed, 1);
    // Behind the program's back, so that nothing wakes the event.
    bench
        .db
        .execute(
            "UPDATE webhook_events SET next_retry_at = now() + interval '1 hour';
             INSERT INTO organizations (id, name) VALUES ('0192e4a0-0000-7000-8000-000000000001', 'Late');
             INSERT INTO billing_customers (stripe_customer_id, organization_id)
               VALUES ('cus_late', '0192e4a0-0000-7000-8000-000000000001')",
        )
        .await;
    let ran = webhooks(&bench.db, &["retry", "--json"]);
    assert_eq!(
        ran.json(),
        json!({"processed": 0, "succeeded": 0, "failed": 0})
    );
    let ran = webhooks(&bench.db, &["retry", "--now", "--json"]);
    assert_eq!(
        ran.json(),
        json!({"processed": 1, "succeeded": 1, "failed": 0}),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn a_dry_run_says_what_the_handler_would_do_and_leaves_nothing() {
    let bench = with_letters().await;
    let db = &bench.db;
    let state = "SELECT md5(string_agg(d::text, '' ORDER BY stripe_event_id)) FROM webhook_dead_letter_queue d";
    let before = db.value(state).await;
    let dry = webhooks(db, &["replay", "--all", "--dry-run"]);
    assert_eq!(dry.status, 1);
    assert!(dry.stdout.contains("evt_1 FAILED"), "{}", dry.stdout);
    assert!(dry.stdout.contains("cus_gone"), "{}", dry.stdout);

    db.organization("cus_gone").await;
    let audit = db.count("billing_audit_log").await;
    let dry = webhooks(db, &["replay", "evt_1", "--dry-run", "--json"]);
    assert_eq!(dry.status, 0, "{}", dry.stderr);
    let event = &dry.json()["events"][0];
    assert_eq!(
        (&event["result"], &event["outcome"]),
        (&json!("succeeded"), &json!("applied"))
    );
    assert_eq!(db.value(state).await, before);
    for table in [
        "billing_subscriptions",
        "billing_applied_events",
        "webhook_events",
    ] {
        assert_eq!(db.count(table).await, 0, "{table}");
    }
    assert_eq!(db.count("billing_audit_log").await, audit);
    let ran = webhooks(db, &["replay", "evt_1", "--json"]);
    assert_eq!(ran.status, 0, "{}", ran.stdout);
    assert_eq!(db.count("billing_subscriptions").await, 1);
}

#[tokio::test]
async fn events_are_listed_by_organization_and_superseded_ones_do_not_look_lost() {
    let bench = Workbench::new().await;
    let other = bench.db.organization("cus_2").await;
    bench
        .process(&[failed_payment(2, "cus_1"), failed_payment(1, "cus_2")])
        .await;
    let mut older = failed_payment(2, "cus_1");
    older["id"] = json!("evt_older");
    older["created"] = json!(1_000_000_000);
    bench.process(&[older]).await;

    let of = |organization: Uuid| -> Vec<String> {
        let id = organization.to_string();
        let list = webhooks(&bench.db, &["list", "--organization", &id, "--json"]).json();
        let ids = list.as_array().unwrap().iter();
        ids.map(|event| event["eventId"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(of(other), ["evt_00001"]);
    assert_eq!(of(bench.organization), ["evt_older", "evt_00002"]);
    let plain = webhooks(&bench.db, &["list"]).stdout;
    assert!(plain.contains(&other.to_string()), "{plain}");
    assert!(plain.contains("a newer state"), "{plain}");
    assert_eq!(
        webhooks(&bench.db, &["list", "--organization", "acme"]).status,
        1
    );
}

#[tokio::test]
async fn a_thin_event_is_stored_and_ignored() {
    let bench = Workbench::new().await;
    let mut thin = event(
        "evt_thin",
        "customer.subscription.updated",
        100,
        Value::Null,
    );
    thin["object"] = json!("v2.core.event");
    thin.as_object_mut().unwrap().remove("data");
    bench.process(&[thin]).await;
    assert_eq!(
        bench.outcomes().await,
        json!([{"id": "evt_thin", "outcome": "ignored"}])
    );
}
