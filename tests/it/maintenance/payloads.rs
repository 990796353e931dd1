//! Payloads are removed, and processing goes on as if they were there.

use std::time::Duration;

use serde_json::{Value, json};
use valuecanvas_billing::config::RetentionConfig;
use valuecanvas_billing::maintenance::retention::{self, Report};

use crate::support::events::{event, sign, subscription};
use crate::support::program::{program_on, run};
use crate::support::{TestDatabase, TestService};
use crate::webhooks::workbench::{Workbench, subscribed};

const UPDATED: &str = "customer.subscription.updated";

/// Runs retention, once the service's own run is over.
pub async fn retained(db: &TestDatabase) -> Report {
    let (pool, kept) = (db.service_pool(), RetentionConfig::default());
    loop {
        let ran = retention::run(&pool, &kept, jiff::Timestamp::now(), |_, _| {}).await;
        let report = ran.unwrap();
        if !report.already_running {
            return report;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Everything that was processed is a hundred days old, and its payload goes.
pub async fn remove_payloads(bench: &Workbench) {
    bench
        .db
        .execute(
            "UPDATE webhook_events SET received_at = received_at - interval '100 days'
              WHERE processed AND received_at > now() - interval '100 days'",
        )
        .await;
    assert!(retained(&bench.db).await.is_whole());
    let left = "webhook_events WHERE processed AND payload::text <> '{\"removed\": true}'";
    assert_eq!(bench.db.count(left).await, 0);
}

/// Three changes within one second. Each names what it changed, and only together
/// do they tell which was the last: it has the smallest id.
fn changes_of_one_second() -> Vec<Value> {
    let states = [
        ("evt_c", "a", "0"),
        ("evt_b", "b", "a"),
        ("evt_a", "c", "b"),
    ];
    let changes = states.map(|(id, now, was)| {
        let mut object = subscription("sub_1", "cus_1", "active", "standard");
        object["description"] = json!(now);
        object["metadata"] = json!({"state": now});
        let mut event = event(id, UPDATED, 1_760_000_100, object);
        event["data"]["previous_attributes"] =
            json!({"description": was, "metadata": {"state": was}});
        event
    });
    changes.to_vec()
}

const STATE: &str = "SELECT metadata, last_event_id, tied_event_ids, plan_tier, known_tier
                       FROM billing_subscriptions";

#[tokio::test]
async fn a_late_event_of_the_same_second_finds_its_place_among_removed_ones() {
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let changes = changes_of_one_second();
        let whole = Workbench::new().await;
        let emptied = Workbench::new().await;
        for n in order {
            whole.process(&changes[n..=n]).await;
            emptied.process(&changes[n..=n]).await;
            remove_payloads(&emptied).await;
        }
        let expected = whole.rows(STATE).await;
        assert_eq!(expected[0]["metadata"], json!({"state": "c"}), "{order:?}");
        assert_eq!(emptied.rows(STATE).await, expected, "{order:?}");
        assert_eq!(emptied.outcomes().await, whole.outcomes().await);
        emptied.verify_audit().await;
    }
}

#[tokio::test]
async fn what_is_kept_of_a_payload_is_what_the_mirror_has() {
    let bench = Workbench::new().await;
    let mut object = subscription("sub_1", "cus_1", "active", "standard");
    object["customer_email"] = json!("who@example.com");
    object["items"]["data"][0]["price"]["nickname"] = json!("who@example.com");
    bench.process(&[event("evt_1", UPDATED, 100, object)]).await;
    remove_payloads(&bench).await;
    let kept = bench
        .db
        .value("SELECT extract FROM billing_applied_events")
        .await;
    assert!(kept.contains("valuecanvas_standard_monthly"), "{kept}");
    assert!(!kept.contains("who@example.com"), "{kept}");
}

#[tokio::test]
async fn a_delivery_after_the_payload_is_gone_is_still_a_duplicate() {
    let service = TestService::start().await;
    service.db.organization("cus_1").await;
    let first = subscribed("evt_1", "cus_1");
    assert_eq!(service.deliver(&first).await["duplicate"], false);
    service.settle().await;
    service
        .db
        .execute("UPDATE webhook_events SET received_at = now() - interval '399 days'")
        .await;
    assert_eq!(retained(&service.db).await.total, 1);

    let altered = "stripe_webhook_altered_events_total";
    let before = service.metric(altered).await;
    assert_eq!(service.deliver(&first).await["duplicate"], true);
    let body = first.to_string();
    let again = service
        .deliver_raw(body.clone(), &sign(body.as_bytes()))
        .await;
    assert_eq!(again.status(), 200);
    assert_eq!(service.db.count("webhook_events WHERE processed").await, 1);
    assert_eq!(
        service.metric(altered).await,
        before,
        "there is nothing left to differ from"
    );
}

#[tokio::test]
async fn an_event_whose_payload_is_gone_says_so() {
    let bench = Workbench::new().await;
    bench.process(&[subscribed("evt_1", "cus_1")]).await;
    remove_payloads(&bench).await;
    let shown = run(&mut program_on(&bench.db, &["webhooks", "show", "evt_1"]));
    assert!(
        shown.stdout.contains("payload      removed at 2"),
        "{}",
        shown.stdout
    );
    let shown = run(&mut program_on(
        &bench.db,
        &["webhooks", "show", "evt_1", "--json"],
    ))
    .json();
    assert_eq!(shown["payload"], Value::Null);
    assert!(shown["payloadRemovedAt"].is_string());
    for dry in [&["--dry-run"][..], &[]] {
        let arguments = [&["webhooks", "replay", "evt_1"], dry].concat();
        let ran = run(&mut program_on(&bench.db, &arguments));
        assert_eq!(ran.status, 1, "{}", ran.stdout);
        let said = "its payload was removed at ";
        assert!(ran.stdout.contains(said), "{}", ran.stdout);
    }
    let replayed = run(&mut program_on(
        &bench.db,
        &["webhooks", "replay", "evt_1", "--json"],
    ));
    assert_eq!(replayed.json()["events"][0]["result"], "payload_removed");
    // What has no payload does not wake up, whoever turns out to own it.
    assert_eq!(bench.db.count("webhook_events WHERE processed").await, 1);
}

#[tokio::test]
async fn an_erased_organization_leaves_nothing_of_its_events() {
    let bench = Workbench::new().await;
    let mut ended = subscription("sub_1", "cus_1", "canceled", "standard");
    ended["ended_at"] = json!(1_760_000_000);
    let ended = event("evt_1", "customer.subscription.deleted", 100, ended);
    bench.process(&[ended]).await;
    remove_payloads(&bench).await;
    let kept = "billing_applied_events WHERE extract IS NOT NULL";
    assert_eq!(bench.db.count(kept).await, 1);
    let id = bench.organization.to_string();
    let mut erase = program_on(
        &bench.db,
        &["organizations", "erase", "--organization", &id, "--yes"],
    );
    let ran = run(&mut erase);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(bench.db.count(kept).await, 0);
}
