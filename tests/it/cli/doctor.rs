//! `doctor`: a verdict and a fix for each thing that is broken.

use serde_json::Value;
use valuecanvas_billing::projection::{HANDLED_TYPES, MAIN_TYPES};

use crate::stripe::Stripe;
use crate::support::program::{Ran, program_on, program_with_stripe, run, run_beside};
use crate::support::{TestDatabase, TestService};

async fn examine(db: &TestDatabase, stripe: Option<&Stripe>, command: &[&'static str]) -> Ran {
    let mut program = program_on(db, command);
    if let Some(stripe) = stripe {
        program
            .env("STRIPE_SECRET_KEY", "sk_test_secret")
            .env("STRIPE_WEBHOOK_SECRET", "whsec_secret")
            .env("STRIPE_API_BASE", stripe.sandbox.url());
    }
    run_beside(program).await
}

/// The verdict on one thing, and whether it says what to do.
fn verdict(ran: &Ran, name: &str) -> (String, bool) {
    let checks = ran.json();
    let check = checks
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("{name}: {}", ran.stdout));
    let verdict = check["verdict"].as_str().unwrap().to_owned();
    (verdict, check["fix"] != Value::Null)
}

const DOCTOR: &[&str] = &["doctor", "--json"];

fn failed() -> (String, bool) {
    ("failed".to_owned(), true)
}

#[tokio::test]
async fn a_whole_deployment_passes_and_each_broken_part_is_named() {
    let (db, stripe) = (TestDatabase::new().await, Stripe::start().await);
    let ran = examine(&db, Some(&stripe), DOCTOR).await;
    assert_eq!(ran.status, 1);
    assert_eq!(verdict(&ran, "webhook endpoint"), failed());
    assert_eq!(verdict(&ran, "catalogue"), failed());
    assert_eq!(verdict(&ran, "last delivery"), ("warning".to_owned(), true));

    examine(&db, Some(&stripe), &["plans", "sync"]).await;
    let url = "http://127.0.0.1:1/api/billing/webhooks/stripe";
    let mut fields = vec![("url", url), ("enabled_events[]", "invoice.created")];
    let id = stripe.post("/v1/webhook_endpoints", &fields).await["id"].clone();
    let ran = examine(&db, Some(&stripe), DOCTOR).await;
    assert_eq!(verdict(&ran, "webhook endpoint"), failed());
    assert!(ran.stdout.contains("charge.failed"), "{}", ran.stdout);

    let path = format!("/v1/webhook_endpoints/{}", id.as_str().unwrap());
    fields = MAIN_TYPES
        .map(|handled| ("enabled_events[]", handled))
        .to_vec();
    stripe.post(&path, &fields).await;
    let ran = examine(&db, Some(&stripe), DOCTOR).await;
    assert_eq!(ran.status, 0, "{}", ran.stdout);
    let further = "webhook endpoint, further events";
    assert_eq!(verdict(&ran, further), ("warning".to_owned(), true));
    for lacking in [
        "charge.refunded",
        "customer.deleted",
        "invoice_payment.paid",
    ] {
        assert!(ran.stdout.contains(lacking), "{}", ran.stdout);
    }

    fields = HANDLED_TYPES
        .map(|handled| ("enabled_events[]", handled))
        .to_vec();
    stripe.post(&path, &fields).await;
    let ran = examine(&db, Some(&stripe), DOCTOR).await;
    assert_eq!(ran.status, 0, "{}", ran.stdout);
    for whole in [
        "database",
        "schema",
        "login",
        "backlog",
        "stripe key",
        "clock",
        "webhook endpoint",
        "webhook endpoint, further events",
        "catalogue",
    ] {
        assert_eq!(verdict(&ran, whole), ("ok".to_owned(), false), "{whole}");
    }

    stripe.post(&path, &[("disabled", "true")]).await;
    let ran = examine(&db, Some(&stripe), DOCTOR).await;
    assert_eq!(verdict(&ran, "webhook endpoint"), failed());
    db.execute("ALTER TABLE billing_invoices NO FORCE ROW LEVEL SECURITY")
        .await;
    let ran = examine(&db, Some(&stripe), DOCTOR).await;
    assert_eq!(verdict(&ran, "schema"), failed());
    assert!(ran.stdout.contains("billing_invoices"), "{}", ran.stdout);
}

#[tokio::test]
async fn without_a_key_stripe_is_left_out() {
    let db = TestDatabase::new().await;
    let ran = examine(&db, None, DOCTOR).await;
    assert_eq!(
        (ran.status, verdict(&ran, "stripe key").0.as_str()),
        (0, "skipped")
    );
    let ran = examine(&db, None, &["doctor"]).await;
    assert!(
        ran.stdout.contains("ok      database: PostgreSQL "),
        "{}",
        ran.stdout
    );
}

#[tokio::test]
async fn stripe_out_of_reach_is_a_failure_that_shows_no_key() {
    let db = TestDatabase::new().await;
    let program = program_with_stripe(&db, "http://127.0.0.1:1", DOCTOR);
    let ran = run_beside(program).await;
    assert_eq!((ran.status, verdict(&ran, "stripe key")), (1, failed()));
    assert!(!ran.stdout.contains("sk_test_secret") && !ran.stderr.contains("sk_test_secret"));
}

fn ok() -> (String, bool) {
    ("ok".to_owned(), false)
}

fn warning() -> (String, bool) {
    ("warning".to_owned(), true)
}

/// Enters a run of `job` that ended so many minutes ago.
async fn ran(db: &TestDatabase, job: &str, minutes: u32, succeeded: bool) {
    db.execute(&format!(
        "INSERT INTO billing_job_runs (id, job, started_at, finished_at, succeeded)
         VALUES (gen_random_uuid(), '{job}', now() - interval '{minutes} minutes',
                 now() - interval '{minutes} minutes', {succeeded})"
    ))
    .await;
}

#[tokio::test]
async fn a_job_that_is_late_or_fails_is_named() {
    let db = TestDatabase::new().await;
    let found = examine(&db, None, DOCTOR).await;
    for job in [
        "webhook-retry",
        "grace-period-cleanup",
        "usage-report",
        "backup",
        "retention",
        "reconciliation",
    ] {
        assert_eq!(verdict(&found, job), warning(), "{job}");
    }
    ran(&db, "webhook-retry", 16, true).await;
    ran(&db, "grace-period-cleanup", 60 * 24, true).await;
    ran(&db, "grace-period-cleanup", 60, false).await;
    ran(&db, "usage-report", 60, false).await;
    let found = examine(&db, None, DOCTOR).await;
    assert_eq!(found.status, 1);
    assert_eq!(verdict(&found, "webhook-retry"), failed());
    assert_eq!(verdict(&found, "grace-period-cleanup"), warning());
    assert_eq!(verdict(&found, "usage-report"), failed());

    // What the commands themselves enter is found.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.dump");
    let url = db.url("postgres");
    let made = run(program_on(&db, &["backup"])
        .arg(&file)
        .env("MIGRATION_DATABASE_URL", url));
    assert_eq!(made.status, 0, "{}", made.stderr);
    examine(&db, None, &["webhooks", "retry"]).await;
    examine(
        &db,
        None,
        &["grace-periods", "cleanup", "--older-than-days", "30"],
    )
    .await;
    examine(&db, None, &["retention", "run"]).await;
    ran(&db, "usage-report", 0, true).await;
    ran(&db, "reconciliation", 60, true).await;
    let found = examine(&db, None, DOCTOR).await;
    assert_eq!(found.status, 0, "{}", found.stdout);
    for job in [
        "webhook-retry",
        "grace-period-cleanup",
        "usage-report",
        "backup",
        "retention",
        "reconciliation",
    ] {
        assert_eq!(verdict(&found, job), ok(), "{job}: {}", found.stdout);
    }
}

#[tokio::test]
async fn fewer_than_95_percent_of_retries_are_too_few() {
    let db = TestDatabase::new().await;
    assert_eq!(verdict(&examine(&db, None, DOCTOR).await, "retries"), ok());
    db.execute(
        "INSERT INTO webhook_events (bucket, stripe_event_id, event_type, livemode,
                                     event_created_at, payload, processed, processed_at, retry_count)
         SELECT n, 'evt_' || n, 'invoice.created', false, now(), '{}', true, now(), 1
           FROM generate_series(1, 19) n",
    )
    .await;
    let letter = |n: u32| {
        format!(
            "INSERT INTO webhook_dead_letter_queue (bucket, stripe_event_id, event_type, livemode,
               event_created_at, payload, received_at, retry_count, error_message, attempts)
             VALUES (0, 'evt_dead{n}', 'invoice.created', false, now(), '{{}}', now(), 20, 'why', '[]')"
        )
    };
    db.execute(&letter(1)).await;
    assert_eq!(verdict(&examine(&db, None, DOCTOR).await, "retries"), ok());
    db.execute(&letter(2)).await;
    assert_eq!(
        verdict(&examine(&db, None, DOCTOR).await, "retries"),
        failed()
    );
}

#[tokio::test]
async fn the_running_service_is_asked_as_stripe_asks_it() {
    let service = TestService::start().await;
    let at = |url: String| {
        let mut program = program_on(&service.db, DOCTOR);
        program.args(["--url", &url]);
        run_beside(program)
    };
    let found = at(service.base.clone()).await;
    assert_eq!(verdict(&found, "service"), ok());
    assert_eq!(verdict(&found, "signatures"), ok());
    let counted = "stripe_webhook_deliveries_total{result=\"signature_missing\"}";
    assert_eq!(
        service.metric(counted).await.unwrap_or(0),
        0,
        "doctor's own try is no delivery"
    );
    let elsewhere = at(format!("{}/elsewhere", service.base)).await;
    assert_eq!(verdict(&elsewhere, "service"), failed());
    assert_eq!(verdict(&elsewhere, "signatures"), failed());
    let nowhere = at("http://127.0.0.1:1".to_owned()).await;
    assert_eq!(
        (nowhere.status, verdict(&nowhere, "service")),
        (1, failed())
    );
}

#[tokio::test]
async fn secrets_with_white_space_and_keys_of_two_modes_are_found() {
    let db = TestDatabase::new().await;
    let with = |key: &'static str, publishable: &'static str| {
        let mut program = program_on(&db, DOCTOR);
        program
            .env("STRIPE_SECRET_KEY", key)
            .env("STRIPE_WEBHOOK_SECRET", "whsec_secret")
            .env("STRIPE_PUBLISHABLE_KEY", publishable)
            .env("STRIPE_API_BASE", "http://127.0.0.1:1");
        run_beside(program)
    };
    let clean = with("sk_test_x", "pk_test_x").await;
    assert_eq!(verdict(&clean, "secrets"), ok());
    assert_eq!(verdict(&clean, "configuration"), ok());
    let padded = with("sk_test_x ", "pk_test_x").await;
    assert_eq!(verdict(&padded, "secrets"), warning());
    assert!(
        padded.stdout.contains("STRIPE_SECRET_KEY"),
        "{}",
        padded.stdout
    );
    let mixed = with("sk_live_x", "pk_test_x").await;
    assert_eq!(verdict(&mixed, "configuration"), failed());
}

#[tokio::test]
async fn the_services_login_alone_is_enough_for_all_green() {
    let db = TestDatabase::new().await;
    for owner in [None, Some(db.url("postgres"))] {
        let mut program = program_on(&db, DOCTOR);
        program.env_remove("MIGRATION_DATABASE_URL");
        program.envs(owner.map(|url| ("MIGRATION_DATABASE_URL", url)));
        let ran = run(&mut program);
        assert_eq!(ran.status, 0, "{}", ran.stdout);
        for name in ["database", "schema", "login", "backlog"] {
            assert_eq!(verdict(&ran, name), ok(), "{name}: {}", ran.stdout);
        }
    }
    // What is wrong is seen by the service's login, too.
    db.execute("ALTER TABLE billing_invoices NO FORCE ROW LEVEL SECURITY")
        .await;
    let mut program = program_on(&db, DOCTOR);
    let ran = run(program.env_remove("MIGRATION_DATABASE_URL"));
    assert_eq!(verdict(&ran, "schema"), failed());
    assert!(ran.stdout.contains("billing_invoices"), "{}", ran.stdout);
}

#[tokio::test]
async fn why_a_call_fails_is_told_down_to_its_cause() {
    let db = TestDatabase::new().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // It speaks no TLS: it answers what it is sent with words.
    std::thread::spawn(move || {
        use std::io::Write as _;
        for stream in listener.incoming().map_while(Result::ok).take(4) {
            let _ = (&stream).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let url = format!("https://127.0.0.1:{port}");
    let ran = run(&mut program_on(&db, &["doctor", "--json", "--url", &url]));
    assert_eq!(verdict(&ran, "service"), failed());
    let checks = ran.json();
    let checks = checks.as_array().unwrap();
    let service = checks.iter().find(|check| check["name"] == "service");
    let detail = service.unwrap()["detail"].as_str().unwrap().to_owned();
    let reason = detail.split_once("error sending request: ");
    assert!(
        reason.is_some_and(|(_, cause)| cause.len() > 10),
        "{detail}"
    );
}
