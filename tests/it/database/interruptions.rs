//! Migrations that are killed, or wait for a table that others use.

use std::process::{Child, Stdio};
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection, Executor};

use super::psql;
use crate::support::TestDatabase;
use crate::support::program::{program_on, run};

/// The database before webhook_retry, and a session that reads webhook_events,
/// as a long report does.
async fn with_a_reader() -> (TestDatabase, PgConnection) {
    let db = TestDatabase::new().await;
    let undone = run(&mut program_on(
        &db,
        &["migrate", "rollback", "--to", "20260101092000", "--yes"],
    ));
    assert_eq!(undone.status, 0, "{}", undone.stderr);
    let mut reader = db.options("postgres").connect().await.unwrap();
    reader
        .execute("BEGIN; LOCK TABLE webhook_events IN ACCESS SHARE MODE")
        .await
        .unwrap();
    (db, reader)
}

/// Who waits for a lock, in this database: the clones of a template share the
/// numbers of their tables.
const WAITING: &str = "pg_locks l JOIN pg_database d ON d.oid = l.database
                       WHERE NOT granted AND datname = current_database()";

/// `migrate up`, which has come to wait for the reader.
async fn waiting(db: &TestDatabase) -> (Child, i32) {
    let child = program_on(db, &["migrate", "up"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = loop {
        let pid = db.value(&format!("SELECT pid FROM {WAITING}")).await;
        if !pid.is_empty() {
            break pid;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    (child, pid.parse().unwrap())
}

fn up(db: &TestDatabase) {
    for arguments in [["migrate", "up"], ["migrate", "verify"]] {
        let ran = run(&mut program_on(db, &arguments));
        assert_eq!(ran.status, 0, "{}\n{}", ran.stdout, ran.stderr);
    }
}

async fn retry_is_applied(db: &TestDatabase) -> bool {
    db.count("billing_schema_migrations WHERE version = '20260101093000'")
        .await
        == 1
}

#[tokio::test]
async fn a_killed_migration_is_run_again() {
    let (db, reader) = with_a_reader().await;
    let (mut child, _) = waiting(&db).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!retry_is_applied(&db).await);
    reader.close().await.unwrap();
    up(&db);
}

#[tokio::test]
async fn a_migration_whose_connection_is_ended_says_so_and_is_run_again() {
    let (db, reader) = with_a_reader().await;
    let (child, pid) = waiting(&db).await;
    db.execute(&format!("SELECT pg_terminate_backend({pid})"))
        .await;
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("migration 20260101093000 failed and was rolled back"),
        "{said}"
    );
    assert!(!retry_is_applied(&db).await);
    reader.close().await.unwrap();
    up(&db);
}

#[tokio::test]
async fn a_migration_that_cannot_have_a_lock_gives_up_and_intake_goes_on() {
    let (db, mut reader) = with_a_reader().await;
    let ran = run(&mut program_on(&db, &["migrate", "up"]));
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("migration 20260101093000 gave up waiting for a lock"),
        "{}",
        ran.stderr
    );
    assert!(!retry_is_applied(&db).await);
    // The reader still reads, and nobody waits.
    assert_eq!(db.count(WAITING).await, 0);
    let mut intake = db.service().connect().await.unwrap();
    intake
        .execute(sqlx::raw_sql(
            "SET ROLE billing_worker; SET lock_timeout = '1s';
             INSERT INTO webhook_events (bucket, stripe_event_id, event_type, livemode, event_created_at, payload)
               VALUES (1, 'evt_1', 'invoice.paid', false, now(), '{}')",
        ))
        .await
        .unwrap();
    reader.execute("ROLLBACK").await.unwrap();
    up(&db);
    assert_eq!(db.count("webhook_events").await, 1);
}

/// psql, as the guide calls it, goes on after an error.
#[tokio::test]
async fn a_file_that_failed_in_psql_is_not_taken_for_applied() {
    let (db, mut reader) = with_a_reader().await;
    let ran = psql::file(&db.url("postgres"), &psql::migration("webhook_retry"));
    assert!(
        ran.stderr
            .contains("canceling statement due to lock timeout"),
        "{}",
        ran.stderr
    );
    assert!(!retry_is_applied(&db).await);
    assert_eq!(
        db.value("SELECT to_regclass('webhook_dead_letter_queue')")
            .await,
        ""
    );
    reader.execute("ROLLBACK").await.unwrap();
    let ran = psql::file(&db.url("postgres"), &psql::migration("webhook_retry"));
    assert_eq!(ran.stderr, "");
    up(&db);
}

/// An event that becomes a dead letter while they are copied back is not lost.
#[tokio::test]
async fn undoing_waits_for_events_that_become_dead_letters() {
    let db = TestDatabase::new().await;
    db.execute(
        "INSERT INTO webhook_events (bucket, stripe_event_id, event_type, livemode, event_created_at, payload)
           VALUES (1, 'evt_1', 'invoice.paid', false, now(), '{}')",
    )
    .await;
    let mut worker = db.options("postgres").connect().await.unwrap();
    worker
        .execute(sqlx::raw_sql(
            "BEGIN;
             INSERT INTO webhook_dead_letter_queue
               (bucket, stripe_event_id, event_type, livemode, event_created_at, payload, received_at, retry_count,
                error_message, attempts)
               SELECT bucket, stripe_event_id, event_type, livemode, event_created_at, payload, received_at, 20,
                      'it failed', '[]' FROM webhook_events;
             DELETE FROM webhook_events",
        ))
        .await
        .unwrap();
    let arguments = ["migrate", "rollback", "--to", "20260101092000", "--yes"];
    let mut rollback = program_on(&db, &arguments);
    let undoing = std::thread::spawn(move || run(&mut rollback));
    while db.count(WAITING).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    worker.execute("COMMIT").await.unwrap();
    let undone = undoing.join().unwrap();
    assert_eq!(undone.status, 0, "{}", undone.stderr);
    assert_eq!(
        db.value("SELECT stripe_event_id FROM webhook_events").await,
        "evt_1"
    );
}
