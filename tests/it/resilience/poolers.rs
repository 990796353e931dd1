//! Debian's PgBouncer between the service and PostgreSQL.

use serde_json::Value;
use valuecanvas_billing::http_client;

use super::caller::Caller;
use crate::support::TestDatabase;
use crate::support::program::{program_on, run};
use crate::support::server::PgBouncer;
use crate::support::serving::{Serving, entries, serve_on};

async fn before(db: &TestDatabase, pool_mode: &str, more: &str) -> PgBouncer {
    let pooler = PgBouncer::before(db.socket_directory(), pool_mode, more).await;
    pooler.expect("pgbouncer is not installed: scripts/setup test installs it")
}

async fn works_behind(more: &str) {
    let db = TestDatabase::new().await;
    let pooler = before(&db, "session", more).await;
    let url = pooler.url("billing_service", &db.name);
    let mut command = serve_on(&db);
    command.env("DATABASE_URL", &url);
    let serving = Serving::start(&mut command);
    let caller = Caller::new(&serving.base, &url, db.options("postgres"));
    for _ in 0..3 {
        caller.requests_work().await;
    }
    assert_eq!(serving.terminated().await.status, 0);
}

#[tokio::test]
async fn sessions_are_kept_by_pgbouncer_as_it_is_installed() {
    works_behind("").await;
}

/// A common setting, which drops what a startup packet asks for.
#[tokio::test]
async fn nothing_depends_on_what_pgbouncer_ignores() {
    works_behind("ignore_startup_parameters = extra_float_digits,options,search_path").await;
}

#[tokio::test]
async fn a_pooler_that_shares_sessions_is_refused_in_a_sentence() {
    let db = TestDatabase::new().await;
    for (pool_mode, more) in [
        ("transaction", ""),
        ("transaction", "server_round_robin = 1\nmin_pool_size = 4"),
        ("statement", ""),
    ] {
        let pooler = before(&db, pool_mode, more).await;
        let mut command = serve_on(&db);
        command.env("DATABASE_URL", pooler.url("billing_service", &db.name));
        let ran = run(&mut command);
        assert_eq!(ran.status, 2, "{pool_mode}: {}", ran.stderr);
        let said: Vec<&str> = ran.stderr.lines().collect();
        assert_eq!(said.len(), 1, "{}", ran.stderr);
        assert!(said[0].contains("set pool_mode = session"), "{}", said[0]);
        assert!(said[0].starts_with("error: DATABASE_URL: "), "{}", said[0]);
        for arguments in [&["migrate", "up"][..], &["webhooks", "retry"]] {
            let mut command = program_on(&db, arguments);
            command.env("DATABASE_URL", pooler.url("billing_service", &db.name));
            command.env("MIGRATION_DATABASE_URL", pooler.url("postgres", &db.name));
            let ran = run(&mut command);
            assert_eq!(ran.status, 2, "{pool_mode}: {}", ran.stderr);
            assert!(
                ran.stderr.contains("set pool_mode = session"),
                "{}",
                ran.stderr
            );
        }
        let mut command = program_on(&db, &["doctor"]);
        command.env("DATABASE_URL", pooler.url("billing_service", &db.name));
        command.env("MIGRATION_DATABASE_URL", pooler.url("postgres", &db.name));
        let ran = run(&mut command);
        assert_eq!(ran.status, 1, "{pool_mode}: {}", ran.stderr);
        let said = ran.stdout.contains("set pool_mode = session");
        assert!(said, "{}", ran.stdout);
    }
}

/// How many connections a replica takes, how many of them it says that it was
/// not given, and what its metric says.
async fn connections_of(db: &TestDatabase, url: &str) -> (u64, Option<Value>, u64) {
    let mut command = serve_on(db);
    command.env("DATABASE_URL", url);
    let serving = Serving::start(&mut command);
    let log = serving.log();
    let needed = entries(&log, "Listening")[0]["connections"].as_u64();
    let said = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|entry| entry["given"] != Value::Null);
    let client = http_client::direct_client().unwrap();
    let metrics = client.get(format!("{}/metrics", serving.base)).send().await;
    let metrics = metrics.unwrap().text().await.unwrap();
    let missing = metrics
        .lines()
        .find_map(|line| line.strip_prefix("billing_database_connections_missing "));
    let missing = missing.unwrap_or_else(|| panic!("{metrics}")).parse();
    assert_eq!(serving.terminated().await.status, 0);
    (needed.unwrap(), said, missing.unwrap())
}

#[tokio::test]
async fn a_pooler_with_fewer_connections_than_a_replica_takes_is_told_of() {
    let db = TestDatabase::new().await;
    let doctor = |url: String| {
        let mut command = program_on(&db, &["doctor", "--json"]);
        command.env("DATABASE_URL", url);
        let ran = run(&mut command);
        let checks = ran.json();
        let mut checks = checks.as_array().unwrap().iter();
        let found = checks.find(|check| check["name"] == "connections");
        found.unwrap_or_else(|| panic!("{}", ran.stdout)).clone()
    };
    let enough = before(&db, "session", "").await;
    let url = enough.url("billing_service", &db.name);
    let (needed, said, missing) = connections_of(&db, &url).await;
    assert_eq!((said, missing), (None, 0));
    assert_eq!(doctor(url)["verdict"], "ok");

    let small = before(&db, "session", "default_pool_size = 8").await;
    let url = small.url("billing_service", &db.name);
    let (_, said, missing) = connections_of(&db, &url).await;
    let said = said.expect("a warning");
    assert_eq!(
        (&said["needed"], &said["given"]),
        (&needed.into(), &8.into())
    );
    assert_eq!(missing, needed - 8);
    let message = said["message"].as_str().unwrap();
    assert!(
        message.starts_with("DATABASE_URL: a connection pooler"),
        "{message}"
    );
    assert!(message.contains("set default_pool_size"), "{message}");
    // A job may find them taken, too.
    let found = doctor(url);
    assert_eq!(found["verdict"], "warning", "{found}");
    assert!(
        found["detail"].as_str().unwrap().contains("gave 8 of 10"),
        "{found}"
    );
    assert!(
        found["fix"].as_str().unwrap().contains("default_pool_size"),
        "{found}"
    );
}

/// Nobody is refused a connection by a pooler, and all the same those that idle
/// go round.
#[tokio::test]
async fn intake_gets_a_connection_of_a_pooler_that_is_too_small() {
    let db = TestDatabase::new().await;
    let pooler = before(&db, "session", "default_pool_size = 8").await;
    let mut command = serve_on(&db);
    command.env("DATABASE_URL", pooler.url("billing_service", &db.name));
    let serving = Serving::start(&mut command);
    let direct = db.url("billing_service");
    let caller = Caller::new(&serving.base, &direct, db.options("postgres"));
    let crowd = caller.crowd();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    drop(crowd);
    caller.until_deliveries_are_stored().await;
    caller
        .until_none("webhook_events WHERE NOT processed")
        .await;
    assert_eq!(serving.terminated().await.status, 0);
}
