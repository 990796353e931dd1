//! The guide's tests 3 and 4, step by step: processing breaks, events wait or
//! become dead letters, and once it is repaired the job or a replay applies
//! them.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::events::{event, invoice, sign, subscription};
use crate::support::program::{Ran, program_on, run};
use crate::support::service::WEBHOOKS;
use crate::support::serving::{Serving, entries, serve_on};
use crate::support::{TestDatabase, TestService};

const BREAK: &str = "ALTER TABLE billing_invoices RENAME TO billing_invoices_away";
const REPAIR: &str = "ALTER TABLE billing_invoices_away RENAME TO billing_invoices";
const MAKE_DUE: &str = "UPDATE webhook_events SET next_retry_at = now() WHERE NOT processed";

fn retry(db: &TestDatabase, max_retries: &str) -> Ran {
    let mut command = program_on(db, &["webhooks", "retry", "--json"]);
    command
        .env("LOG_FORMAT", "json")
        .env("WEBHOOK_MAX_RETRIES", max_retries);
    run(&mut command)
}

fn tally(processed: u32, succeeded: u32, failed: u32) -> Value {
    json!({"processed": processed, "succeeded": succeeded, "failed": failed})
}

fn payment_failed() -> Value {
    event(
        "evt_1",
        "invoice.payment_failed",
        100,
        invoice("in_1", "cus_1", "sub_1", "open"),
    )
}

async fn send(base: &str, event: &Value) {
    let body = event.to_string();
    let request = valuecanvas_billing::http_client::direct_client()
        .unwrap()
        .post(format!("{base}{WEBHOOKS}"));
    let signed = request
        .header("stripe-signature", sign(body.as_bytes()))
        .body(body);
    assert_eq!(signed.send().await.unwrap().status(), 200);
}

/// Waits until a query counts something.
async fn until(db: &TestDatabase, table_and_condition: &str) {
    for _ in 0..2_000 {
        if db.count(table_and_condition).await > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {table_and_condition}");
}

#[tokio::test]
async fn what_fails_waits_and_is_applied_by_the_job_once_it_can() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await;
    let serving = Serving::on(&db);
    db.execute(BREAK).await;
    send(&serving.base, &payment_failed()).await;
    until(
        &db,
        "webhook_events WHERE retry_count > 0 AND next_retry_at IS NOT NULL",
    )
    .await;
    assert_eq!(
        db.count("billing_alerts").await,
        0,
        "a failed attempt leaves no effect"
    );
    let message = db.value("SELECT error_message FROM webhook_events").await;
    assert!(message.contains("billing_invoices"), "{message}");
    // From here on the job alone works on it.
    serving.signal(Signal::TERM);
    assert_eq!(serving.ended().await.status, 0);

    // Not due yet: there is nothing to do, and that is fine.
    db.execute("UPDATE webhook_events SET next_retry_at = now() + interval '1 hour'")
        .await;
    let ran = retry(&db, "20");
    assert_eq!(
        (ran.status, ran.json()),
        (0, tally(0, 0, 0)),
        "{}",
        ran.stderr
    );
    assert_eq!(
        entries(&ran.stderr, "Processing 0 webhook retries").len(),
        1,
        "{}",
        ran.stderr
    );

    // Due, but still broken.
    db.execute(MAKE_DUE).await;
    let attempts: i64 = db
        .value("SELECT retry_count FROM webhook_events")
        .await
        .parse()
        .unwrap();
    let ran = retry(&db, "20");
    assert_eq!(
        (ran.status, ran.json()),
        (1, tally(1, 0, 1)),
        "{}",
        ran.stderr
    );
    let waits = format!(
        "webhook_events WHERE retry_count = {} AND next_retry_at > now()",
        attempts + 1
    );
    assert_eq!(db.count(&waits).await, 1);

    db.execute(REPAIR).await;
    db.execute(MAKE_DUE).await;
    let ran = retry(&db, "20");
    assert_eq!(
        (ran.status, ran.json()),
        (0, tally(1, 1, 0)),
        "{}",
        ran.stderr
    );
    for message in ["Starting webhook retry job", "Processing 1 webhook retries"] {
        assert_eq!(
            entries(&ran.stderr, message).len(),
            1,
            "{message}: {}",
            ran.stderr
        );
    }
    let completed = &entries(&ran.stderr, "Webhook retry job completed")[0];
    for (field, count) in [("processed", 1), ("succeeded", 1), ("failed", 0)] {
        assert_eq!(completed[field], count, "{completed}");
    }
    let processed = &entries(&ran.stderr, "Webhook event processed")[0];
    assert_eq!(processed["event_id"], "evt_1");
    assert_eq!(processed["event_type"], "invoice.payment_failed");
    assert_eq!(processed["organization_id"], organization.to_string());
    assert_eq!(
        db.count("webhook_events WHERE processed AND error_message IS NULL")
            .await,
        1
    );
    assert_eq!(db.count("billing_invoices WHERE status = 'open'").await, 1);
}

#[tokio::test]
async fn after_the_last_retry_it_is_a_dead_letter_until_it_is_replayed() {
    for max_retries in ["0", "1"] {
        let db = TestDatabase::new().await;
        db.organization("cus_1").await;
        let serving = Serving::start(serve_on(&db).env("WEBHOOK_MAX_RETRIES", max_retries));
        db.execute(BREAK).await;
        send(&serving.base, &payment_failed()).await;
        until(&db, "webhook_dead_letter_queue").await;
        assert_eq!(db.count("webhook_events").await, 0);
        let kept = db.value("SELECT retry_count || ' ' || jsonb_array_length(attempts) FROM webhook_dead_letter_queue").await;
        let attempts: u32 = max_retries.parse::<u32>().unwrap() + 1;
        assert_eq!(kept, format!("{max_retries} {attempts}"));

        // Still broken: the replay fails, and the dead letter stays.
        let replay = |id: &str| run(&mut program_on(&db, &["webhooks", "replay", id, "--json"]));
        assert_eq!(replay("evt_1").status, 1);
        let tried = format!(
            "webhook_dead_letter_queue WHERE jsonb_array_length(attempts) = {}",
            attempts + 1
        );
        assert_eq!(db.count(&tried).await, 1);

        db.execute(REPAIR).await;
        let ran = replay("evt_1");
        assert_eq!(
            (ran.status, &ran.json()["replayed"]),
            (0, &json!(1)),
            "{}",
            ran.stderr
        );
        assert_eq!(db.count("webhook_dead_letter_queue").await, 0);
        assert_eq!(
            db.count("webhook_events WHERE processed AND outcome = 'applied'")
                .await,
            1
        );
        assert_eq!(db.count("billing_invoices WHERE status = 'open'").await, 1);
        serving.terminated().await;
    }
}

#[tokio::test]
async fn two_replays_at_once_have_one_effect() {
    let service = TestService::with(crate::support::service::Options {
        max_retries: 0,
        ..Default::default()
    })
    .await;
    let db = &service.db;
    db.organization("cus_1").await;
    db.execute(BREAK).await;
    service.deliver(&payment_failed()).await;
    service.settle().await;
    db.execute(REPAIR).await;
    let entries = db.count("billing_audit_log").await;
    let start = || {
        let mut command = program_on(db, &["webhooks", "replay", "evt_1", "--json"]);
        std::thread::spawn(move || run(&mut command))
    };
    let replays: Vec<_> = (0..4).map(|_| start()).collect();
    for replay in replays {
        let ran = replay.join().unwrap();
        assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    }
    assert_eq!(db.count("webhook_dead_letter_queue").await, 0);
    assert_eq!(db.count("webhook_events WHERE processed").await, 1);
    assert_eq!(db.count("billing_invoices").await, 1);
    assert_eq!(db.count("billing_alerts").await, 1);
    assert_eq!(db.count("billing_audit_log").await, entries + 1);
    let verified = run(&mut program_on(db, &["audit", "verify"]));
    assert_eq!(verified.status, 0, "{}", verified.stdout);
}

/// Two jobs, and whatever `serve` does beside them: each event once.
#[tokio::test]
async fn jobs_at_once_share_the_work() {
    let service = TestService::intake_only().await;
    let db = &service.db;
    db.organization("cus_1").await;
    for n in 0..40 {
        let id = format!("sub_{n}");
        let object = subscription(&id, "cus_1", "active", "standard");
        service
            .deliver(&event(
                &format!("evt_{n}"),
                "customer.subscription.created",
                1,
                object,
            ))
            .await;
    }
    let start = || {
        let mut command = program_on(db, &["webhooks", "retry", "--json"]);
        std::thread::spawn(move || run(&mut command))
    };
    let jobs: Vec<_> = (0..3).map(|_| start()).collect();
    let mut succeeded = 0;
    for job in jobs {
        let ran = job.join().unwrap();
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        succeeded += ran.json()["succeeded"].as_u64().unwrap();
    }
    assert_eq!(succeeded, 40);
    assert_eq!(db.count("webhook_events WHERE processed").await, 40);
    assert_eq!(db.count("billing_subscriptions").await, 40);
}

/// What was stored while the database's clock was two hours ahead does not wait
/// for two hours once the clock is right.
#[tokio::test]
async fn a_clock_that_steps_back_keeps_no_event_waiting() {
    let service = TestService::intake_only().await;
    let db = &service.db;
    db.organization("cus_1").await;
    for id in ["evt_received", "evt_retried", "evt_leased", "evt_patient"] {
        let object = invoice(&id.replace("evt", "in"), "cus_1", "sub_1", "open");
        send(&service.base, &event(id, "invoice.updated", 100, object)).await;
    }
    for (id, ahead) in [
        ("evt_received", "received_at = now() + interval '2 hours'"),
        (
            "evt_retried",
            "retry_count = 3, next_retry_at = now() + interval '2 hours'",
        ),
        (
            "evt_leased",
            "lease_id = gen_random_uuid(), lease_expires_at = now() + interval '2 hours'",
        ),
        (
            "evt_patient",
            "retry_count = 12, next_retry_at = now() + interval '1 hour'",
        ),
    ] {
        db.execute(&format!(
            "UPDATE webhook_events SET {ahead} WHERE stripe_event_id = '{id}'"
        ))
        .await;
    }
    let ran = retry(db, "20");
    assert_eq!(ran.json(), tally(3, 3, 0), "{}", ran.stderr);
    assert!(ran.stderr.contains("clock stepped back"), "{}", ran.stderr);
    let waiting = db
        .value("SELECT string_agg(stripe_event_id, ',') FROM webhook_events WHERE NOT processed")
        .await;
    assert_eq!(waiting, "evt_patient");
}
