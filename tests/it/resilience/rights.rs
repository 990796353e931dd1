//! Rights that somebody takes away while the service runs: `/readyz` says which,
//! and how to give them back.

use serde_json::Value;

use super::caller::Caller;
use crate::support::TestDatabase;
use crate::support::program::{program_on, run};
use crate::support::serving::Serving;

/// What each part needs: intake, processing, the ledger, the audit log, jobs,
/// and reading.
const TAKEN: &[(&str, &str)] = &[
    ("INSERT ON webhook_events", "billing_worker"),
    ("UPDATE, DELETE ON webhook_events", "billing_worker"),
    ("INSERT ON usage_events", "billing_worker"),
    ("INSERT, UPDATE ON usage_totals", "billing_worker"),
    ("UPDATE ON billing_subscriptions", "billing_worker"),
    ("INSERT ON billing_audit_log", "billing_worker"),
    ("UPDATE ON billing_audit_chain_heads", "billing_worker"),
    (
        "EXECUTE ON FUNCTION public.log_billing_action",
        "billing_worker",
    ),
    ("INSERT ON billing_job_runs", "billing_worker"),
    ("SELECT ON billing_invoices", "billing_app"),
    ("SELECT ON billing_schema_migrations", "billing_worker"),
    ("USAGE ON SCHEMA auth", "billing_app"),
    ("USAGE ON SCHEMA public", "billing_worker"),
];

/// What the reason says to do.
fn remedy(said: &str) -> String {
    let body: Value = serde_json::from_str(said).unwrap();
    let reason = body["reasons"][0].as_str().unwrap();
    let (_, remedy) = reason
        .split_once("as the owner: ")
        .unwrap_or_else(|| panic!("{reason}"));
    remedy.to_owned()
}

#[tokio::test]
async fn a_right_that_is_lost_is_named_until_it_is_given_back() {
    let db = TestDatabase::new().await;
    // No grant to everybody stands in for one that is taken away.
    db.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC").await;
    let serving = Serving::on(&db);
    let caller = Caller::new(
        &serving.base,
        &db.url("billing_service"),
        db.options("postgres"),
    );
    caller.requests_work().await;
    for (right, role) in TAKEN {
        db.execute(&format!("REVOKE {right} FROM {role}")).await;
        let said = caller.until_readiness(503).await;
        let remedy = remedy(&said);
        assert_eq!(remedy, format!("GRANT {right} TO {role}"));
        db.execute(&remedy).await;
        caller.until_readiness(200).await;
    }
    caller.requests_work().await;

    // The doctor passes the reason on, and verifying finds it, too.
    db.execute("REVOKE UPDATE ON usage_totals FROM billing_worker")
        .await;
    caller.until_readiness(503).await;
    let (status, body) = caller.consume().await;
    assert_eq!(status, 503, "{body}");
    let mut doctor = program_on(&db, &["doctor", "--json", "--url", &serving.base]);
    let ran = run(&mut doctor);
    let checks = ran.json();
    let check = |name: &str| {
        let mut checks = checks.as_array().unwrap().iter();
        checks.find(|check| check["name"] == name).unwrap().clone()
    };
    assert_eq!(check("service")["verdict"], "failed", "{}", ran.stdout);
    let detail = check("service")["detail"].to_string();
    let grant = "GRANT UPDATE ON usage_totals TO billing_worker";
    assert!(detail.contains(grant), "{detail}");
    assert_eq!(check("schema")["verdict"], "failed", "{}", ran.stdout);
    let verified = run(&mut program_on(&db, &["migrate", "verify"]));
    assert!(verified.stdout.contains(grant), "{}", verified.stdout);
    db.execute(grant).await;
    caller.until_readiness(200).await;
    caller.requests_work().await;
    let log = serving.log();
    assert!(log.contains("\"Not ready\"") && log.contains("\"Ready again\""));
    assert_eq!(serving.terminated().await.status, 0);
}

/// No right is lost, and all the same the ledger's writes are refused.
#[tokio::test]
async fn usage_that_the_database_refuses_for_good_is_a_reason() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let caller = Caller::new(
        &serving.base,
        &db.url("billing_service"),
        db.options("postgres"),
    );
    caller.requests_work().await;
    for (damage, mended) in [
        (
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
             CREATE TRIGGER no BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION no()",
            "DROP FUNCTION no() CASCADE",
        ),
        (
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
             CREATE TRIGGER no BEFORE UPDATE ON usage_totals FOR EACH ROW EXECUTE FUNCTION no()",
            "DROP FUNCTION no() CASCADE",
        ),
        (
            "ALTER TABLE usage_events RENAME COLUMN metadata TO meta",
            "ALTER TABLE usage_events RENAME COLUMN meta TO metadata",
        ),
    ] {
        db.execute(damage).await;
        let (status, body) = caller.consume().await;
        assert_eq!(status, 503, "{body}");
        let said = caller.until_readiness(503).await;
        assert!(said.contains("it refuses to count usage (SQLSTATE"), "{said}");
        db.execute(mended).await;
        caller.until_readiness(200).await;
        caller.requests_work().await;
    }
    // Nothing of what was tried for show is kept.
    assert_eq!(db.count("usage_totals WHERE metric = 'rehearsal'").await, 0);
    assert_eq!(serving.terminated().await.status, 0);
}
