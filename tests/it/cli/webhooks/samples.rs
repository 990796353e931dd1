//! `webhooks trigger`: samples, what they leave, and where none is sent.

use serde_json::Value;
use uuid::Uuid;
use valuecanvas_billing::projection::HANDLED_TYPES;
use valuecanvas_billing::tenancy::organizations::sample;

use super::webhooks;
use crate::support::TestDatabase;
use crate::support::events::SECRET;
use crate::support::program::{program_on, run};
use crate::support::serving::Serving;

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
