//! `webhooks list|show|dead-letters|replay`

mod samples;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::TestDatabase;
use crate::support::events::{event, invoice};
use crate::support::program::{Ran, program_on, run};
use crate::support::service::TestService;

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
