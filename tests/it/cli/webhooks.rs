//! `webhooks list|show|dead-letters|replay|trigger`

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::tenancy::organizations::sample;

use valuecanvas_billing::projection::HANDLED_TYPES;

use crate::support::TestDatabase;
use crate::support::events::{SECRET, event, invoice};
use crate::support::program::{Ran, program_on, run};
use crate::support::service::TestService;
use crate::support::serving::Serving;

fn webhooks(db: &TestDatabase, arguments: &[&str]) -> Ran {
    run(&mut program_on(db, &[&["webhooks"], arguments].concat()))
}

/// A service with one event processed and two dead-lettered: an invoice whose
/// total is no integer, and a charge without a status.
async fn with_dead_letters() -> TestService {
    let service = TestService::start().await;
    service.db.organization("cus_1").await;
    let good = invoice("in_1", "cus_1", "sub_1", "open");
    let mut bad = good.clone();
    bad["total"] = json!(0.5);
    let charge = json!({"id": "ch_1", "customer": "cus_1", "amount": 1, "currency": "usd"});
    for event in [
        event("evt_good", "invoice.finalized", 1, good),
        event("evt_bad", "invoice.updated", 2, bad),
        event("evt_charge", "charge.succeeded", 3, charge),
    ] {
        service.deliver(&event).await;
    }
    service.settle().await;
    assert_eq!(service.db.count("webhook_dead_letter_queue").await, 2);
    service
}

/// What `replay` says of each event, by id.
fn results(ran: &Ran) -> Vec<(String, String)> {
    let report = ran.json();
    let events = report["events"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .map(|event| (text(&event["eventId"]), text(&event["result"])))
        .collect()
}

#[tokio::test]
async fn events_and_dead_letters_are_listed_and_shown() {
    let service = with_dead_letters().await;
    let db = &service.db;
    let list = webhooks(db, &["list", "--json"]).json();
    assert_eq!(list[0]["eventId"], "evt_good");
    assert_eq!(list[0]["outcome"], "applied");
    assert_eq!(
        webhooks(db, &["list", "--unprocessed", "--json"]).json(),
        json!([])
    );

    let letters = webhooks(db, &["dead-letters", "--json"]).json();
    assert_eq!(letters.as_array().unwrap().len(), 2);
    let charges = webhooks(
        db,
        &["dead-letters", "--type", "charge.succeeded", "--json"],
    )
    .json();
    assert_eq!(charges[0]["eventId"], "evt_charge");
    assert_eq!(charges.as_array().unwrap().len(), 1);

    for (id, state) in [("evt_good", "processed"), ("evt_bad", "dead_letter")] {
        let shown = webhooks(db, &["show", id, "--json"]).json();
        assert_eq!(
            (&shown["state"], &shown["payload"]["id"]),
            (&json!(state), &json!(id))
        );
        assert!(
            webhooks(db, &["show", id]).stdout.contains("\"total\":"),
            "{id}"
        );
    }
    let unknown = webhooks(db, &["show", "evt_unknown"]);
    assert_eq!(
        (unknown.status, &*unknown.stdout),
        (1, ""),
        "{}",
        unknown.stderr
    );
    assert!(unknown.stderr.contains("evt_unknown"), "{}", unknown.stderr);
}

#[tokio::test]
async fn a_replay_that_cannot_succeed_leaves_everything() {
    let service = with_dead_letters().await;
    let db = &service.db;
    let state = "SELECT string_agg(concat(stripe_event_id, ' ', retry_count, ' ', jsonb_array_length(attempts)), ', '
                          ORDER BY stripe_event_id) FROM webhook_dead_letter_queue";
    let before = db.value(state).await;

    let unknown = webhooks(db, &["replay", "evt_unknown", "--json"]);
    assert_eq!(unknown.status, 1, "{}", unknown.stderr);
    assert_eq!(
        results(&unknown),
        [("evt_unknown".into(), "unknown".into())]
    );

    let dry = webhooks(db, &["replay", "--all", "--dry-run", "--json"]);
    assert_eq!(dry.status, 1, "{}", dry.stderr);
    assert_eq!(
        (
            &dry.json()["dryRun"],
            &dry.json()["replayed"],
            &dry.json()["failed"]
        ),
        (&json!(true), &json!(0), &json!(2)),
        "the handler says what would come of it"
    );
    assert!(
        dry.stdout.contains("data.object.status is missing"),
        "{}",
        dry.stdout
    );
    let none = webhooks(db, &["replay", "--all", "--type", "made.up", "--json"]);
    assert_eq!((none.status, &none.json()["replayed"]), (0, &json!(0)));
    assert_eq!(db.value(state).await, before, "nothing was kept of it");

    let all = webhooks(
        db,
        &["replay", "--all", "--type", "charge.succeeded", "--json"],
    );
    assert_eq!(all.status, 1, "{}", all.stderr);
    assert_eq!(results(&all), [("evt_charge".into(), "failed".into())]);
    assert_eq!(
        db.value(state).await,
        "evt_bad 0 1, evt_charge 0 2",
        "one more attempt"
    );
    let plain = webhooks(db, &["replay", "evt_charge"]);
    assert_eq!(plain.status, 1);
    assert!(
        plain.stdout.contains("data.object.status is missing"),
        "{}",
        plain.stdout
    );
}

#[tokio::test]
async fn a_processed_event_may_be_replayed_and_changes_nothing() {
    let service = with_dead_letters().await;
    let db = &service.db;
    let entries = db.count("billing_audit_log").await;
    let twice = webhooks(db, &["replay", "evt_good", "evt_good", "--json"]);
    assert_eq!(twice.status, 0, "{}", twice.stderr);
    assert_eq!(twice.json()["replayed"], 2);
    assert_eq!(db.count("billing_audit_log").await, entries);
    assert_eq!(db.count("billing_invoices").await, 1);
    let mixed = webhooks(db, &["replay", "evt_good", "evt_unknown", "--json"]);
    assert_eq!((mixed.status, &mixed.json()["failed"]), (1, &json!(1)));
}

/// All that sample events could change of an organization.
async fn state_of(db: &TestDatabase, organization: Uuid) -> String {
    db.value(&format!(
        "SELECT concat_ws(',', o.plan_tier,
                (SELECT string_agg(stripe_customer_id, '+') FROM billing_customers WHERE organization_id = o.id),
                (SELECT count(*) FROM billing_subscriptions WHERE organization_id = o.id),
                (SELECT count(*) FROM billing_invoices WHERE organization_id = o.id),
                (SELECT count(*) FROM billing_charges WHERE organization_id = o.id),
                (SELECT count(*) FROM billing_payment_methods WHERE organization_id = o.id),
                (SELECT count(*) FROM billing_audit_log WHERE organization_id = o.id))
           FROM organizations o WHERE id = '{organization}'"
    ))
    .await
}

#[tokio::test]
async fn a_trigger_is_signed_sent_and_processed() {
    let db = TestDatabase::new().await;
    let customers = db.organization("cus_1").await;
    let untouched = state_of(&db, customers).await;
    let serving = Serving::on(&db);
    let trigger = |arguments: &[&str], secret: &str| {
        let arguments = [&["webhooks", "trigger"], arguments].concat();
        let mut command = program_on(&db, &arguments);
        command
            .env("LISTEN_ADDR", serving.base.trim_start_matches("http://"))
            .env("STRIPE_WEBHOOK_SECRET", secret)
            // For what is far away; the service is not.
            .env("HTTP_PROXY", "http://127.0.0.1:1")
            .env("http_proxy", "http://127.0.0.1:1");
        run(&mut command)
    };
    let sample = sample::ID.to_string();
    for event_type in HANDLED_TYPES {
        let ran = trigger(&[event_type, "--json"], SECRET);
        assert_eq!(ran.status, 0, "{event_type}: {}", ran.stderr);
        assert_eq!(ran.json()["organizationId"], sample);
    }
    let named = ["charge.failed", "--organization", &sample, "--json"];
    assert_eq!(trigger(&named, SECRET).json()["organizationId"], sample);
    for other in [customers, Uuid::nil()] {
        let refused = trigger(
            &["charge.failed", "--organization", &other.to_string()],
            SECRET,
        );
        assert_eq!(refused.status, 2, "{}", refused.stderr);
    }
    let refused = trigger(&["charge.failed"], "whsec_another");
    assert_eq!(refused.status, 1);
    assert!(
        refused.stderr.contains("signature_invalid"),
        "{}",
        refused.stderr
    );
    let ran = webhooks(
        &db,
        &["trigger", "charge.failed", "--listen-addr", "127.0.0.1:1"],
    );
    assert_eq!(ran.status, 3, "{}", ran.stderr);

    for _ in 0..2_000 {
        if db.count("webhook_events WHERE NOT processed").await == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(
        db.count("webhook_events WHERE outcome IN ('applied', 'superseded')")
            .await,
        i64::try_from(HANDLED_TYPES.len()).unwrap()
    );
    // The payment of an invoice that nobody knows.
    assert_eq!(
        db.count("webhook_events WHERE outcome = 'ignored'").await,
        1
    );
    assert_eq!(state_of(&db, customers).await, untouched);
    let listed = run(&mut program_on(&db, &["organizations", "list"]));
    assert!(
        listed.stdout.contains("Sample events (nobody's"),
        "{}",
        listed.stdout
    );

    // Each is in the log when it comes and when it is done.
    let log = serving.terminated().await.stderr;
    for (message, fields) in [
        ("Webhook received", &["event_id", "event_type"][..]),
        (
            "Webhook event processed",
            &["event_id", "event_type", "organization_id"],
        ),
    ] {
        let entries = crate::support::serving::entries(&log, message);
        assert_eq!(entries.len(), HANDLED_TYPES.len() + 1, "{message}: {log}");
        for entry in entries.iter().filter(|entry| entry["outcome"] != "ignored") {
            assert!(
                fields.iter().all(|field| entry[field].is_string()),
                "{entry}"
            );
        }
    }
    // What somebody should hear of is in it, too.
    let alerts = crate::support::serving::entries(&log, "Billing alert raised");
    for kind in [
        "charge_refunded",
        "refund_failed",
        "payment_disputed",
        "customer_deleted",
    ] {
        let told = alerts.iter().filter(|entry| entry["kind"] == kind);
        assert_eq!(told.count(), 1, "{kind}: {log}");
    }
    // Where the event names its organization, so does the first line.
    let received = crate::support::serving::entries(&log, "Webhook received");
    let named = |entry: &&Value| entry["organization_id"] == sample;
    assert!(received.iter().filter(named).count() >= 3, "{log}");
}

/// Stored text must not steer the terminal that shows it, however it got there.
#[tokio::test]
async fn terminal_escapes_are_never_printed_raw() {
    const STEERS: [char; 5] = ['\u{1b}', '\u{9b}', '\u{7f}', '\u{7}', '\u{202e}'];
    let service = TestService::start().await;
    let nasty = format!("evt_{}[2Jx", STEERS.iter().collect::<String>());
    let mut object = invoice("in_1", &nasty, "sub_1", "open");
    object["description"] = json!(nasty);
    let mut dead = object.clone();
    dead["total"] = json!(nasty);
    service
        .deliver(&event(&nasty, "invoice.finalized", 1, object))
        .await;
    let dead_id = format!("{nasty}2");
    service
        .deliver(&event(&dead_id, "invoice.finalized", 1, dead))
        .await;
    service
        .deliver(&event("evt_type", &nasty, 1, json!({})))
        .await;
    service.settle().await;
    let db = &service.db;
    assert_eq!(db.count("webhook_dead_letter_queue").await, 1);
    for arguments in [
        &["list"][..],
        &["list", "--json"],
        &["show", &nasty],
        &["show", &nasty, "--json"],
        &["show", &dead_id],
        &["show", "evt_\u{1b}[2J"],
        &["dead-letters"],
        &["dead-letters", "--json"],
        &["replay", &dead_id],
        &["replay", &dead_id, "--json"],
        &["replay", &nasty],
    ] {
        for format in ["json", "pretty"] {
            let arguments = [&["webhooks"], arguments].concat();
            let ran = run(program_on(db, &arguments).env("LOG_FORMAT", format));
            let said = ran.stdout + &ran.stderr;
            assert!(
                !said.is_empty() && !said.contains(STEERS),
                "{arguments:?}: {said:?}"
            );
        }
    }
    let shown = webhooks(db, &["show", &nasty, "--json"]).json();
    assert_eq!(
        shown["payload"]["data"]["object"]["description"], nasty,
        "JSON keeps the value"
    );
}

#[tokio::test]
async fn a_payload_that_is_odd_is_shown_as_it_was_received() {
    let service = TestService::start().await;
    let body = r#"{"id":"evt_1","type":"a.b","created":1,"data":{"object":{"half":"\ud800","huge":1e400,"exact":0.50}}}"#;
    let signature = crate::support::events::sign(body.as_bytes());
    assert_eq!(service.deliver_raw(body, &signature).await.status(), 200);
    service.settle().await;
    assert!(
        webhooks(&service.db, &["show", "evt_1"])
            .stdout
            .ends_with(&format!("{body}\n"))
    );
    assert!(
        webhooks(&service.db, &["show", "evt_1", "--json"])
            .stdout
            .contains(body)
    );
}

/// `… | head -1`: the reader goes away, and nobody panics.
#[tokio::test]
async fn a_closed_pipe_ends_a_command_quietly() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    // More than a pipe holds.
    db.execute(
        "INSERT INTO webhook_events (bucket, stripe_event_id, event_type, livemode, event_created_at,
                                     payload, processed, outcome)
         SELECT 1, 'evt_' || n || repeat('x', 200), 'a.b', false, now(), '{}', true, 'ignored'
           FROM generate_series(1, 2000) n;
         INSERT INTO webhook_dead_letter_queue (bucket, stripe_event_id, event_type, livemode,
                                     event_created_at, payload, received_at, retry_count, error_message, attempts)
         SELECT 1, 'evt_dead' || n || repeat('x', 200), 'a.b', false, now(), '{}', now(), 0, 'bad', '[]'
           FROM generate_series(1, 2000) n;
         SELECT log_billing_action(p_organization_id => id, p_action => 'test_action',
                  p_actor_type => 'system', p_resource_type => repeat('x', 200))
           FROM organizations, generate_series(1, 2000)",
    )
    .await;
    for arguments in [
        &["webhooks", "list", "--limit", "10000"][..],
        &["webhooks", "list", "--limit", "10000", "--json"],
        &["webhooks", "dead-letters"],
        &["webhooks", "replay", "--all", "--dry-run"],
        &["audit", "list", "--limit", "10000"],
        &["audit", "export"],
        &["audit", "export", "--format", "csv"],
    ] {
        let (first, ended) = first_line(&mut program_on(&db, arguments));
        assert!(!first.is_empty(), "{arguments:?}");
        assert_eq!(ended.status, 0, "{arguments:?}: {}", ended.stderr);
        assert!(
            !ended.stderr.contains("panicked"),
            "{arguments:?}: {}",
            ended.stderr
        );
    }
    // `2>&1 | head -1`: the same of what is logged.
    let mut command = program_on(&db, &["webhooks", "retry"]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Reads one line of what a command prints, and closes the pipe.
fn first_line(command: &mut Command) -> (String, Ran) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let ended = Ran {
        status: output.status.code().unwrap_or(-1),
        stdout: String::new(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    (first, ended)
}

async fn processed(db: &TestDatabase) {
    for _ in 0..2_000 {
        if db.count("webhook_events WHERE NOT processed").await == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("events stay");
}

#[tokio::test]
async fn a_sample_is_undone_by_another_and_can_begin_again() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let plan = format!(
        "SELECT plan_tier FROM organizations WHERE id = '{}'",
        sample::ID
    );
    for (event_type, expected) in [
        ("customer.subscription.created", "standard"),
        ("invoice.created", "standard"),
        ("invoice.payment_succeeded", "standard"),
        ("customer.subscription.deleted", "free"),
        ("customer.subscription.created", "standard"),
        ("customer.subscription.deleted", "free"),
    ] {
        let mut command = program_on(&db, &["webhooks", "trigger", event_type]);
        command
            .env("LISTEN_ADDR", serving.base.trim_start_matches("http://"))
            .env("STRIPE_WEBHOOK_SECRET", SECRET);
        let ran = run(&mut command);
        assert_eq!(ran.status, 0, "{event_type}: {}", ran.stderr);
        processed(&db).await;
        assert_eq!(db.value(&plan).await, expected, "after {event_type}");
    }
    assert_eq!(db.count("billing_subscriptions").await, 2);
    assert_eq!(
        db.value("SELECT status FROM billing_invoices").await,
        "paid"
    );
}

#[tokio::test]
async fn no_sample_is_sent_with_a_live_key_or_a_secret_that_nobody_shares() {
    let db = TestDatabase::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for (variable, settings) in [
        (
            "STRIPE_SECRET_KEY",
            vec![
                ("STRIPE_SECRET_KEY", "sk_live_x"),
                ("STRIPE_WEBHOOK_SECRET", SECRET),
            ],
        ),
        (
            "STRIPE_SECRET_KEY",
            vec![
                ("STRIPE_SECRET_KEY", "rk_live_x"),
                ("STRIPE_WEBHOOK_SECRET", SECRET),
            ],
        ),
        ("STRIPE_WEBHOOK_SECRET", vec![]),
    ] {
        let mut command = program_on(&db, &["webhooks", "trigger", "invoice.created"]);
        command
            .envs(settings)
            .env("LISTEN_ADDR", listener.local_addr().unwrap().to_string())
            .env("DATA_DIR", scratch.path().join("data"));
        let ran = run(&mut command);
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(
            ran.stderr.starts_with(&format!("error: {variable}: ")),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(db.count("organizations").await, 0);
    assert!(!scratch.path().join("data").exists());
}
