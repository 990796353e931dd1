//! `doctor`: a verdict and a fix for each thing that is broken.

use serde_json::Value;
use valuecanvas_billing::event_handlers::HANDLED_TYPES;

use crate::stripe::Stripe;
use crate::support::TestDatabase;
use crate::support::program::{Ran, program_on, run};

async fn examine(db: &TestDatabase, stripe: Option<&Stripe>, command: &[&'static str]) -> Ran {
    let mut program = program_on(db, command);
    if let Some(stripe) = stripe {
        program
            .env("STRIPE_SECRET_KEY", "sk_test_secret")
            .env("STRIPE_WEBHOOK_SECRET", "whsec_secret")
            .env("STRIPE_API_BASE", stripe.sandbox.url());
    }
    tokio::task::spawn_blocking(move || run(&mut program))
        .await
        .unwrap()
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
    let mut program = program_on(&db, DOCTOR);
    program
        .env("STRIPE_SECRET_KEY", "sk_test_secret")
        .env("STRIPE_WEBHOOK_SECRET", "whsec_secret")
        .env("STRIPE_API_BASE", "http://127.0.0.1:1");
    let ran = tokio::task::spawn_blocking(move || run(&mut program))
        .await
        .unwrap();
    assert_eq!((ran.status, verdict(&ran, "stripe key")), (1, failed()));
    assert!(!ran.stdout.contains("sk_test_secret") && !ran.stderr.contains("sk_test_secret"));
}
