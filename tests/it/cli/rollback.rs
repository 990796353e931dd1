//! `migrate rollback` says what would be lost, asks, and wants a fresh backup.

use std::process::{Command, Stdio};

use crate::metering::tenant::Tenant;
use crate::support::program::{Ran, program_on, run};
use crate::support::serving::Serving;
use crate::support::{TestDatabase, TestService};

const BEFORE_THE_GUIDE: &str = "20260101090300";

fn rollback(db: &TestDatabase, flags: &[&str]) -> Ran {
    let arguments = [&["migrate", "rollback", "--to", BEFORE_THE_GUIDE], flags].concat();
    run(&mut program_on(db, &arguments))
}

fn backup(db: &TestDatabase) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("billing.dump");
    let ran = run(&mut program_on(db, &["backup", file.to_str().unwrap()]));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

#[tokio::test]
async fn what_holds_rows_is_not_dropped_without_consent_and_a_fresh_backup() {
    let mut service = TestService::start().await;
    let tenant = Tenant::of(&service, "Kept").await;
    tenant.consume(&service, "api_calls", 7).await.ok();
    service.stop().await;
    let db = &service.db;
    // Its connections close on this runtime, which the commands below hold up.
    let sessions = "pg_stat_activity WHERE datname = current_database()
                      AND application_name = 'valuecanvas-billing' AND pid <> pg_backend_pid()";
    while db.count(sessions).await > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let entries = db.count("billing_audit_log").await;
    assert!(entries > 0);

    let asked = rollback(db, &[]);
    assert_eq!(asked.status, 2, "{}", asked.stderr);
    let said = format!("table billing_audit_log: {entries} row");
    for said in [
        &*said,
        "table usage_events: 1 row\n",
        "table api_keys: 1 row\n",
        "--yes",
    ] {
        assert!(asked.stderr.contains(said), "{said}: {}", asked.stderr);
    }
    let unsaved = rollback(db, &["--yes"]);
    assert_eq!(unsaved.status, 1, "{}", unsaved.stderr);
    assert!(
        unsaved.stderr.contains("this database was never backed up"),
        "{}",
        unsaved.stderr
    );

    backup(db);
    db.execute("UPDATE billing_job_runs SET finished_at = finished_at - interval '25 hours'")
        .await;
    let stale = rollback(db, &["--yes"]);
    assert_eq!(stale.status, 1, "{}", stale.stderr);
    assert!(
        stale.stderr.contains("the last backup is 25 hours old"),
        "{}",
        stale.stderr
    );
    // A backup that failed is none.
    db.execute("UPDATE billing_job_runs SET finished_at = now(), succeeded = false")
        .await;
    assert_eq!(rollback(db, &["--yes"]).status, 1);
    assert_eq!(
        db.count("billing_audit_log").await,
        entries,
        "nothing was undone"
    );

    backup(db);
    let done = rollback(db, &["--yes"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(!done.stderr.contains("warning"), "{}", done.stderr);
    assert_eq!(
        db.count("pg_tables WHERE tablename = 'billing_audit_log'")
            .await,
        0
    );

    // An empty log is not an intact one.
    assert_eq!(run(&mut program_on(db, &["migrate", "up"])).status, 0);
    let verified = run(&mut program_on(db, &["audit", "verify"]));
    assert_eq!(verified.status, 1, "{}", verified.stdout);
    assert!(
        verified.stdout.contains("it proves nothing"),
        "{}",
        verified.stdout
    );
    assert!(!verified.stdout.contains("intact"), "{}", verified.stdout);
}

#[tokio::test]
async fn a_rollback_that_loses_nothing_names_what_it_undoes_and_asks_too() {
    let db = TestDatabase::new().await;
    let asked = rollback(&db, &[]);
    assert_eq!(asked.status, 2, "{}", asked.stderr);
    for said in [
        "20260101091000_billing_audit_log",
        "--yes",
        "nothing was undone",
    ] {
        assert!(asked.stderr.contains(said), "{said}: {}", asked.stderr);
    }
    assert!(!asked.stderr.contains("would lose"), "{}", asked.stderr);
    let ran = rollback(&db, &["--yes"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let empty = run(&mut program_on(
        &TestDatabase::new().await,
        &["audit", "verify"],
    ));
    assert_eq!(empty.status, 0, "{}", empty.stderr);
    assert!(
        empty.stdout.contains("nothing to verify yet"),
        "{}",
        empty.stdout
    );
}

#[tokio::test]
async fn a_service_that_is_still_connected_stops_a_rollback_that_is_not_forced() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let refused = rollback(&db, &["--yes"]);
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    for said in [
        "nothing was undone",
        "of the service are connected",
        "--force",
    ] {
        assert!(refused.stderr.contains(said), "{said}: {}", refused.stderr);
    }
    let applied = "SELECT count(*) FROM billing_schema_migrations WHERE version = '20260101091000'";
    assert_eq!(db.value(applied).await, "1");
    let ran = rollback(&db, &["--yes", "--force"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("of the service are connected; stop it first"),
        "{}",
        ran.stderr
    );
    drop(serving);
}

#[tokio::test]
async fn what_a_newer_program_migrated_is_left_to_it() {
    let db = TestDatabase::new().await;
    db.execute(
        "INSERT INTO billing_schema_migrations (version, name) VALUES ('20990101000000', 'future')",
    )
    .await;
    for more in [&["--yes", "--force"][..], &[]] {
        for to in [
            &["--to", BEFORE_THE_GUIDE][..],
            &["--to", "20990101000000"],
            &[],
        ] {
            let arguments = [&["migrate", "rollback"], to, more].concat();
            let refused = run(&mut program_on(&db, &arguments));
            assert_eq!(refused.status, 1, "{}", refused.stderr);
            let said = "roll back with the program that made 20990101000000";
            assert!(refused.stderr.contains(said), "{}", refused.stderr);
        }
    }
    let verified = run(&mut program_on(&db, &["migrate", "verify"]));
    assert_eq!(verified.status, 0, "{}", verified.stdout);
    let said = "warn  migration 20990101000000_future is of a newer program";
    assert!(verified.stdout.contains(said), "{}", verified.stdout);
    let checks = run(&mut program_on(&db, &["doctor", "--json"])).json();
    let checks = checks.as_array().unwrap();
    let schema = checks
        .iter()
        .find(|check| check["name"] == "schema")
        .unwrap();
    assert_eq!(schema["verdict"], "warning", "{schema}");
    assert!(
        schema["detail"]
            .as_str()
            .unwrap()
            .contains("20990101000000_future")
    );
}

/// On a terminal, what `script` makes.
fn typed(db: &TestDatabase, answer: &str) -> Ran {
    let program = env!("CARGO_BIN_EXE_valuecanvas-billing");
    let line = format!("{program} migrate rollback --to {BEFORE_THE_GUIDE} --force");
    let mut command = program_on(db, &[]);
    let settings: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    command = Command::new("script");
    command
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env_clear()
        .envs(settings)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().expect("script is installed");
    use std::io::Write as _;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(answer.as_bytes())
        .unwrap();
    let ended = child.wait_with_output().unwrap();
    Ran {
        status: ended.status.code().unwrap(),
        stdout: String::from_utf8_lossy(&ended.stdout).into_owned(),
        stderr: String::new(),
    }
}

#[tokio::test]
async fn on_a_terminal_what_is_lost_is_typed() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    for wrong in ["y\n", "yes\n", "\n"] {
        let refused = typed(&db, wrong);
        assert_eq!(refused.status, 1, "{wrong:?}: {}", refused.stdout);
        assert!(
            refused.stdout.contains("nothing was undone"),
            "{}",
            refused.stdout
        );
    }
    let asked = typed(&db, "\n").stdout;
    let (_, wanted) = asked.split_once("Type `").unwrap();
    let (wanted, _) = wanted.split_once('`').unwrap();
    let done = typed(&db, &format!("{wanted}\n"));
    assert_eq!(done.status, 0, "{}", done.stdout);
    assert_eq!(
        db.count("pg_tables WHERE tablename = 'billing_audit_log'")
            .await,
        0
    );
}
