//! `retention run`, and the part of the service that does the same.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use valuecanvas_billing::config::RetentionConfig;
use valuecanvas_billing::event_log::bucket_of;
use valuecanvas_billing::maintenance::retention::{self, RULES};

use super::payloads::retained;
use crate::metering::tenant::{EVENTS, Tenant};
use crate::support::program::{Ran, program, program_on, run};
use crate::support::{TestDatabase, TestService};

fn retain(db: &TestDatabase, more: &[&str]) -> Ran {
    run(&mut program_on(
        db,
        &[&["retention", "run", "--json"], more].concat(),
    ))
}

fn rows(report: &Value) -> Vec<(String, i64)> {
    let removed = report["removed"].as_array().unwrap().iter();
    removed
        .map(|one| {
            (
                one["what"].as_str().unwrap().to_owned(),
                one["rows"].as_i64().unwrap(),
            )
        })
        .collect()
}

/// Of everything that retention removes, one row that is too old and one that is not.
async fn old_and_new(db: &TestDatabase) {
    for (name, received, processed, outcome) in [
        ("old_payload", 91, 91, "ignored"),
        ("new_payload", 89, 89, "ignored"),
        ("old_event", 401, 401, "ignored"),
        ("old_discarded", 120, 91, "discarded"),
        ("new_discarded", 120, 89, "discarded"),
    ] {
        let bucket = bucket_of(name);
        db.execute(&format!(
            "INSERT INTO webhook_events (bucket, stripe_event_id, event_type, livemode, event_created_at,
               payload, received_at, processed, processed_at, outcome, attempts)
             VALUES ({bucket}, '{name}', 'some.type', false, now(), '{{\"id\": 1}}',
               now() - interval '{received} days', true, now() - interval '{processed} days', '{outcome}',
               '[{{\"error\": \"x\"}}]')"
        ))
        .await;
    }
    let bucket = bucket_of("old_unprocessed");
    db.execute(&format!(
        "INSERT INTO webhook_events (bucket, stripe_event_id, event_type, livemode, event_created_at,
           payload, received_at, next_retry_at)
         VALUES ({bucket}, 'old_unprocessed', 'some.type', false, now(), '{{}}',
           now() - interval '500 days', now() + interval '1 day')"
    ))
    .await;
    let of = "'0192e4a0-0000-7000-8000-00000000000a'";
    for (name, more, sequence) in [("old", 1, 0), ("new", -1, 10)] {
        let ago = |days: i32| format!("now() - interval '{} hours'", days * 24 + more);
        db.execute(&format!(
            "INSERT INTO webhook_unclaimed_events (waiting_for, stripe_event_id, bucket, created_at)
               VALUES ('cus_{name}', 'evt_{name}', 1, {});
             INSERT INTO usage_events (organization_id, event_id, metric, quantity, recorded_at, period_start)
               VALUES ({of}, '{name}', 'api_calls', 1, {}, now() - interval '450 days');
             INSERT INTO request_idempotency (organization_id, idempotency_key, fingerprint, lease_id,
                 lease_expires_at, expires_at)
               VALUES ({of}, '{name}', sha256('x'), gen_random_uuid(), now(), {} + interval '1 day');
             INSERT INTO user_sessions (token_hash, user_id, expires_at)
               VALUES (sha256('{name}'), gen_random_uuid(), {});
             INSERT INTO portal_sessions (organization_id, id, role, service_key_id, code_hash,
                 code_expires_at, expires_at)
               VALUES ({of}, gen_random_uuid(), 'member', gen_random_uuid(), sha256('{name}'), now(), {});
             INSERT INTO login_throttles (throttle_key, last_attempt_at) VALUES (sha256('{name}'), {});
             INSERT INTO webhook_rejections (reason, hour, deliveries, last_at)
               VALUES ('signature_invalid', {}, 1, now());
             INSERT INTO billing_job_runs (id, job, started_at, finished_at, succeeded, counters)
               VALUES (gen_random_uuid(), 'webhook-retry', now(), {}, true, '{{\"x_total\": 5}}');
             INSERT INTO webhook_bulk_actions (id, action, filter, counted, through, ended_at)
               VALUES (gen_random_uuid(), 'replay_events', '{{}}', 1, now(), {}),
                      (gen_random_uuid(), 'replay_events', '{{\"type\": \"{name}\"}}', 1, now(), NULL);
             INSERT INTO usage_denials (organization_id, id, request_id, denied_at, reason, metric)
               VALUES ({of}, gen_random_uuid(), '{name}', {}, 'QUOTA_EXCEEDED', 'm');
             INSERT INTO usage_alerts (organization_id, metric, period_start, threshold, id, period_end,
                 usage, quota, raised_at, next_attempt_at, delivered_at)
               VALUES ({of}, '{name}', now(), 80, gen_random_uuid(), now() - interval '1 day',
                 1, 1, now(), now(), {});
             INSERT INTO outbound_endpoints (id, source, url, secret)
               VALUES ({of}, 'operator', 'https://app.example', 'whsec_x') ON CONFLICT DO NOTHING;
             INSERT INTO outbound_events (organization_id, sequence, id, event_type, body, created_at)
               SELECT {of}, n + {sequence}, gen_random_uuid(), '{name}', '{{}}', {}
                 FROM generate_series(1, 2) n;
             INSERT INTO outbound_deliveries (organization_id, endpoint_id, sequence, status, ended_at)
               VALUES ({of}, {of}, 1 + {sequence}, 'pending', NULL),
                      ({of}, {of}, 2 + {sequence}, 'delivered', now());
             INSERT INTO mails (organization_id, id, kind, fact, resource_id, happened_at, status, ended_at)
               VALUES ({of}, gen_random_uuid(), 'trial_ending', '{name}', 'sub', now() - interval '100 days',
                 'sent', {});
             INSERT INTO usage_reservations (organization_id, id, metric, period_start, quantity, held,
                 reserved_at, expires_at, name, outcome, settled_at)
               VALUES ({of}, gen_random_uuid(), 'm', now(), 0, 1, now(), 'infinity', '{name}', 'released', {})",
            ago(90), ago(400), ago(1), ago(30), ago(30), ago(30), ago(30), ago(30), ago(30), ago(30), ago(90), ago(90),
            ago(90), ago(30)
        ))
        .await;
    }
}

#[tokio::test]
async fn what_is_too_old_goes_and_the_rest_stays() {
    let db = TestDatabase::new().await;
    old_and_new(&db).await;
    let expected: Vec<(String, i64)> = RULES
        .iter()
        .map(|rule| {
            // Old events lose their payload on the way.
            let payloads = if rule.name == "webhook_payloads" {
                2
            } else {
                1
            };
            (rule.name.to_owned(), payloads)
        })
        .collect();
    let dry = retain(&db, &["--dry-run"]);
    assert_eq!(
        (dry.status, rows(&dry.json())),
        (0, expected.clone()),
        "{}",
        dry.stderr
    );
    assert_eq!(
        db.count("webhook_events").await,
        6,
        "a dry run removes nothing"
    );

    let ran = retain(&db, &[]);
    assert_eq!(
        (ran.status, rows(&ran.json())),
        (0, expected),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("webhook_payloads: 2 removed"),
        "the first batch is told of: {}",
        ran.stderr
    );
    let events = "SELECT string_agg(stripe_event_id || CASE WHEN payload_removed_at IS NULL THEN '' ELSE ' -' END,
                                    ', ' ORDER BY stripe_event_id) FROM webhook_events";
    let left = "new_discarded, new_payload, old_discarded -, old_payload -, old_unprocessed";
    assert_eq!(db.value(events).await, left);
    let attempts = "SELECT attempts FROM webhook_events WHERE stripe_event_id = 'old_discarded'";
    assert_eq!(db.value(attempts).await, "[]");
    for (table, name) in [
        ("webhook_unclaimed_events", "stripe_event_id = 'evt_new'"),
        ("usage_events", "event_id = 'new'"),
        ("request_idempotency", "idempotency_key = 'new'"),
        ("user_sessions", "token_hash = sha256('new')"),
        ("portal_sessions", "code_hash = sha256('new')"),
        ("login_throttles", "throttle_key = sha256('new')"),
        ("webhook_rejections", "true"),
        ("usage_alerts", "metric = 'new'"),
        ("mails", "fact = 'new'"),
        ("usage_reservations", "name = 'new'"),
    ] {
        assert_eq!(db.count(table).await, 1, "{table}");
        assert_eq!(
            db.count(&format!("{table} WHERE {name}")).await,
            1,
            "{table}"
        );
    }
    // One that an endpoint still waits for stays as well.
    let events = "SELECT string_agg(event_type, ' ' ORDER BY sequence) FROM outbound_events";
    assert_eq!(db.value(events).await, "old new new");
    assert_eq!(db.count("outbound_deliveries").await, 3);
    assert_eq!(
        rows(&retain(&db, &[]).json())
            .iter()
            .map(|(_, n)| n)
            .sum::<i64>(),
        0
    );
}

#[tokio::test]
async fn zero_keeps_for_ever_and_what_is_no_number_is_refused() {
    let db = TestDatabase::new().await;
    old_and_new(&db).await;
    let mut command = program_on(&db, &["retention", "run", "--json"]);
    for rule in &RULES {
        command.env(rule.setting, "0");
    }
    let ran = run(&mut command);
    assert_eq!(
        (ran.status, &ran.json()["total"]),
        (0, &json!(0)),
        "{}",
        ran.stderr
    );
    for bad in ["-1", "abc", "36501", "1.5"] {
        for command in [&["retention", "run"][..], &["serve"]] {
            let ran = run(program(command)
                .env("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
                .env("STRIPE_WEBHOOK_SECRET", "whsec_x")
                .env("RETENTION_SESSION_DAYS", bad));
            assert_eq!(ran.status, 2, "{}", ran.stderr);
            assert!(
                ran.stderr.contains("RETENTION_SESSION_DAYS"),
                "{}",
                ran.stderr
            );
            assert_eq!(ran.stderr.trim_end().lines().count(), 1, "{}", ran.stderr);
        }
    }
}

#[tokio::test]
async fn usage_ids_are_known_for_as_long_as_their_period_may_change() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Yearly").await;
    let used = json!({"id": "a", "metric": "api_calls", "quantity": 3});
    assert_eq!(tenant.post(&service, EVENTS, &used).await.status, 200);
    // Recorded long ago, in a period that is not over.
    service
        .db
        .execute("UPDATE usage_events SET recorded_at = now() - interval '500 days'")
        .await;
    assert_eq!(retained(&service.db).await.total, 0);
    let again = tenant.post(&service, EVENTS, &used).await.ok();
    assert_eq!(again["status"], "duplicate", "{again}");
    assert_eq!(tenant.total(&service, "api_calls").await, "3");
    service
        .db
        .execute(
            "UPDATE usage_totals SET period_start = now() - interval '2 years',
                         period_end = now() - interval '36 days';
                  UPDATE usage_events e SET period_start = t.period_start FROM usage_totals t
                   WHERE t.organization_id = e.organization_id",
        )
        .await;
    assert_eq!(retained(&service.db).await.total, 1);
    let total = service
        .db
        .value("SELECT trim_scale(total) FROM usage_totals")
        .await;
    assert_eq!(total, "3", "totals stay");
}

#[tokio::test]
async fn what_removed_runs_counted_stays_in_the_totals() {
    let db = TestDatabase::new().await;
    old_and_new(&db).await;
    retain(&db, &[]);
    let total =
        "SELECT total FROM billing_job_totals WHERE job = 'webhook-retry' AND series = 'x_total'";
    assert_eq!(db.value(total).await, "5");
    // The newest success of a job is remembered, however old.
    db.execute("UPDATE billing_job_runs SET finished_at = now() - interval '99 days'")
        .await;
    retain(&db, &[]);
    assert_eq!(
        db.count("billing_job_runs WHERE job = 'webhook-retry'")
            .await,
        1
    );
}

/// Events by the thousands, all of them old.
async fn many(db: &TestDatabase, events: usize) {
    db.execute(&format!(
        "INSERT INTO webhook_events (bucket, stripe_event_id, event_type, livemode, event_created_at, payload,
           received_at, processed, processed_at, outcome)
         SELECT n % 1024, 'evt_' || n, 'some.type', false, now(), '{{\"id\": 1}}',
                now() - interval '100 days', true, now() - interval '100 days', 'ignored'
           FROM generate_series(1, {events}) n"
    ))
    .await;
}

#[tokio::test]
async fn a_run_that_is_killed_leaves_whole_batches_and_the_next_goes_on() {
    let db = TestDatabase::new().await;
    many(&db, 4_000).await;
    let emptied = "webhook_events WHERE payload_removed_at IS NOT NULL";
    let mut killed = program_on(&db, &["retention", "run"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(40);
    while db.count(emptied).await == 0 {
        assert!(Instant::now() < deadline, "nothing was removed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    // What it had sent may still be committed.
    let connected =
        "pg_stat_activity WHERE datname = current_database() AND usename = 'billing_service'";
    while db.count(connected).await > 0 {
        assert!(Instant::now() < deadline, "its connection stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let done = db.count(emptied).await;
    assert!(done < 4_000 && done % 200 == 0, "{done} in batches of 200");
    assert_eq!(
        db.count("webhook_events WHERE payload::text = '{\"removed\": true}'")
            .await,
        done
    );

    // Nobody takes over before the dead run's lease is over.
    let pool = db.service_pool();
    let kept = RetentionConfig::default();
    let early = retention::run(&pool, &kept, Timestamp::now(), |_, _| {})
        .await
        .unwrap();
    assert!(early.already_running);
    db.execute("UPDATE billing_job_leases SET lease_expires_at = now()")
        .await;
    let ran = retain(&db, &[]);
    assert_eq!(
        (ran.status, &ran.json()["total"]),
        (0, &json!(4_000 - done)),
        "{}",
        ran.stderr
    );
    assert_eq!(db.count("billing_job_leases").await, 0);
}

#[tokio::test]
async fn what_another_transaction_holds_is_left_and_nothing_waits() {
    let db = TestDatabase::new().await;
    many(&db, 10).await;
    let mut held = db.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM webhook_events WHERE stripe_event_id = 'evt_3' FOR UPDATE")
        .execute(&mut *held)
        .await
        .unwrap();
    assert_eq!(retain(&db, &[]).json()["total"], 9);
    held.rollback().await.unwrap();
    assert_eq!(retain(&db, &[]).json()["total"], 1);
}

#[tokio::test]
async fn a_missing_index_is_named_and_the_other_rules_go_on() {
    let db = TestDatabase::new().await;
    old_and_new(&db).await;
    db.execute("DROP INDEX usage_events_time_idx").await;
    let ran = retain(&db, &[]);
    assert_eq!(ran.status, 1);
    let report = ran.json();
    for one in report["removed"].as_array().unwrap() {
        let failed = one["what"] == "usage_events";
        assert_eq!(one["error"].is_string(), failed, "{one}");
        assert_eq!(one["rows"] == 0, failed, "{one}");
    }
    assert!(
        ran.stdout.contains("usage_events_time_idx"),
        "{}",
        ran.stdout
    );
    let run_of = "billing_job_runs WHERE job = 'retention' AND NOT succeeded";
    assert_eq!(db.count(run_of).await, 1);
}

#[tokio::test]
async fn the_service_does_it_once_whatever_the_number_of_replicas() {
    let db = Arc::new(TestDatabase::new().await);
    many(&db, 300).await;
    let first = TestService::on(db.clone(), Default::default()).await;
    let _second = TestService::beside(&first).await;
    let deadline = Instant::now() + Duration::from_secs(40);
    let done = "billing_job_runs WHERE job = 'retention' AND succeeded";
    while db.count(done).await == 0 {
        assert!(Instant::now() < deadline, "retention did not run");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        db.count("webhook_events WHERE payload_removed_at IS NOT NULL")
            .await,
        300
    );
    let _third = TestService::beside(&first).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(db.count(done).await, 1);
    for rule in &RULES {
        let series = format!("billing_purged_rows_total{{table=\"{}\"}}", rule.name);
        assert!(
            first.metric(&series).await.is_some(),
            "{series} is there from the start"
        );
    }
    let task = "billing_scheduled_job_last_success_timestamp_seconds{task=\"retention\"}";
    assert!(first.metric(task).await > Some(1_700_000_000));
}
