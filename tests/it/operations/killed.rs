//! `backup` and `restore` that are killed: what they started ends, too.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::TestDatabase;
use crate::support::program::{program, run};

fn restore(db: &TestDatabase, file: &str) -> Command {
    let mut command = program(&["restore", file]);
    command
        .env("MIGRATION_DATABASE_URL", db.url("postgres"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn backup(db: &TestDatabase, file: &str) -> Command {
    let mut command = program(&["backup", file]);
    command
        .env("MIGRATION_DATABASE_URL", db.url("postgres"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// The processes whose command lines have this in them.
fn processes(named: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|process| {
        let line = std::fs::read(process.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(named)).collect()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Waits until `seen` says so.
async fn until(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !seen().await {
        assert!(Instant::now() < deadline, "not within 40 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_restore_that_is_killed_leaves_nothing_running_and_nothing_done() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("killed.dump");
    let file = file.to_str().unwrap();
    assert_eq!(run(&mut backup(&db, file)).status, 0);
    // All rows are in, and it goes on with one index after the other.
    let into = TestDatabase::empty().await;
    into.execute(
        "CREATE FUNCTION wait() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); END';
         CREATE EVENT TRIGGER slow ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION wait()",
    )
    .await;
    let restoring = restore(&into, file).spawn().unwrap();
    let sleeping = format!(
        "pg_stat_activity WHERE datname = '{}' AND wait_event = 'PgSleep'",
        into.name
    );
    until("it builds an index", async || {
        into.count(&sleeping).await > 0
    })
    .await;
    kill(restoring);
    until("its session ends", async || {
        into.count(&sleeping).await == 0
    })
    .await;
    until("pg_restore ends", async || processes(file).is_empty()).await;
    let tables = "pg_tables WHERE schemaname IN ('public', 'auth')";
    assert_eq!(into.count(tables).await, 0);

    into.execute("DROP EVENT TRIGGER slow; DROP FUNCTION wait()")
        .await;
    assert_eq!(run(&mut restore(&into, file)).status, 0);
    assert_eq!(into.count("organizations").await, 1);
}

/// Holds a table that pg_dump waits for, and nothing before does.
async fn hold(db: &TestDatabase) -> sqlx::Transaction<'_, sqlx::Postgres> {
    db.execute("CREATE TABLE auth.held (n int)").await;
    let mut holding = db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE auth.held IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *holding)
        .await
        .unwrap();
    holding
}

/// The sessions of pg_dump.
fn dumping(db: &TestDatabase) -> String {
    format!(
        "pg_stat_activity WHERE datname = '{}' AND application_name = 'pg_dump'",
        db.name
    )
}

#[tokio::test]
async fn a_backup_that_is_killed_leaves_nothing_running() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    let holding = hold(&db).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("killed.dump");
    let file = file.to_str().unwrap();
    let making = backup(&db, file).spawn().unwrap();
    let waiting = format!("{} AND wait_event_type = 'Lock'", dumping(&db));
    until("pg_dump waits", async || db.count(&waiting).await > 0).await;
    kill(making);
    // Also while what it waits for is held.
    until("pg_dump's session ends", async || {
        db.count(&dumping(&db)).await == 0
    })
    .await;
    until("pg_dump ends", async || {
        let left = processes(&db.name);
        !left.iter().any(|line| line.contains("pg_dump"))
    })
    .await;
    holding.rollback().await.unwrap();
    // What it left is in nobody's way.
    assert!(!std::fs::exists(file).unwrap());
    assert_eq!(run(&mut backup(&db, file)).status, 0);
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[tokio::test]
async fn a_backup_waits_for_as_long_as_a_table_is_held_and_says_so() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    let holding = hold(&db).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("late.dump");
    let log = folder.path().join("log");
    let mut command = backup(&db, file.to_str().unwrap());
    command.stderr(std::fs::File::create(&log).unwrap());
    let mut making = command.spawn().unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    until("it says so", async || {
        assert!(making.try_wait().unwrap().is_none(), "{}", said());
        said().contains("another session holds a lock on a table")
    })
    .await;
    holding.rollback().await.unwrap();
    assert!(making.wait().unwrap().success(), "{}", said());
    let into = TestDatabase::empty().await;
    assert_eq!(run(&mut restore(&into, file.to_str().unwrap())).status, 0);
    assert_eq!(into.count("organizations").await, 1);
}
