//! Defaults that a server, a database or a role has for everybody.

use super::caller::Caller;
use crate::support::TestDatabase;
use crate::support::program::{program_on, run};
use crate::support::serving::Serving;

#[tokio::test]
async fn the_servers_defaults_change_nothing() {
    let db = TestDatabase::new().await;
    for default in [
        "default_transaction_isolation = 'serializable'",
        "statement_timeout = '100ms'",
        "lock_timeout = '100ms'",
        "idle_in_transaction_session_timeout = '100ms'",
        "idle_session_timeout = '1s'",
    ] {
        db.execute(&format!("ALTER DATABASE {} SET {default}", db.name))
            .await;
    }
    let serving = Serving::on(&db);
    // The superuser of the test is no service, and sets nothing for itself.
    let admin = db.options("postgres").options([
        ("statement_timeout", "0"),
        ("idle_session_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
    ]);
    let caller = Caller::new(&serving.base, &db.url("billing_service"), admin);
    // Thirty events of one organization, some of which fail at first.
    let delivered = (0..30).map(|_| caller.deliver());
    for (id, status) in futures_util::future::join_all(delivered).await {
        assert_eq!(status, 200, "{id}");
    }
    caller.requests_work().await;
    caller
        .until_none("webhook_events WHERE NOT processed")
        .await;
    caller.every_part_works(false).await;
    let log = serving.log();
    assert!(!log.contains("could not be recorded"), "{log}");
    assert!(!log.contains("40001"), "{log}");
    assert!(!log.contains("could not serialize"), "{log}");
    assert_eq!(serving.terminated().await.status, 0);
    for command in [["migrate", "up"], ["migrate", "verify"]] {
        let ran = run(&mut program_on(&db, &command));
        assert_eq!(ran.status, 0, "{command:?}: {}{}", ran.stdout, ran.stderr);
    }
}

/// Guides that harden a server say so, also of one that serves already.
#[tokio::test]
async fn defaults_that_come_while_it_serves_change_nothing() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let admin = db.options("postgres").options([("search_path", "public")]);
    let caller = Caller::new(&serving.base, &db.url("billing_service"), admin);
    for default in [
        "search_path = 'nowhere'",
        "row_security = off",
        "synchronous_commit = off",
    ] {
        db.execute(&format!("ALTER DATABASE {} SET {default}", db.name))
            .await;
    }
    caller
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = current_database() AND usename = 'billing_service'",
        )
        .await;
    caller.until_readiness(200).await;
    let (id, status) = caller.deliver().await;
    assert_eq!(status, 200, "{id}");
    caller
        .until_none("webhook_events WHERE NOT processed")
        .await;
    caller.requests_work().await;
    assert_eq!(caller.readiness().await.0, 200);
    let session = db.service_pool();
    let kept: (String, String) = sqlx::query_as(
        "SELECT current_setting('synchronous_commit'), current_setting('search_path')",
    )
    .fetch_one(&session)
    .await
    .unwrap();
    assert_eq!(kept, ("on".to_owned(), "public".to_owned()));
}
