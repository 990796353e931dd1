//! `/readyz`, and what requests and the doctor say, where the database takes no
//! writes or no logins.

use super::caller::Caller;
use crate::support::TestDatabase;
use crate::support::program::{program_on, run};
use crate::support::server::OwnServer;
use crate::support::serving::{Serving, serve_on};
use crate::webhooks::crash::small_disk::SmallDisk;

#[tokio::test]
async fn a_read_only_database_is_a_reason_and_doctor_says_so() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let caller = Caller::new(
        &serving.base,
        &db.url("billing_service"),
        db.options("postgres"),
    );
    caller.requests_work().await;
    let name = &db.name;
    db.execute(&format!(
        "ALTER DATABASE {name} SET default_transaction_read_only = on"
    ))
    .await;
    let said = caller.until_readiness(503).await;
    assert!(
        said.contains("default_transaction_read_only is on"),
        "{said}"
    );

    // One that starts now says the same, and so does the doctor.
    let late = Serving::on(&db);
    let client = &caller.client;
    let answer = client.get(format!("{}/readyz", late.base)).send().await;
    assert_eq!(answer.unwrap().status(), 503);
    let doctor = run(&mut program_on(&db, &["doctor", "--json"]));
    let checks = doctor.json();
    let checks = checks.as_array().unwrap();
    let of = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap();
    assert_eq!(of("writable")["verdict"], "failed", "{}", doctor.stdout);
    assert_eq!(of("schema")["verdict"], "skipped", "{}", doctor.stdout);

    caller
        .execute(&format!(
            "BEGIN READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only; COMMIT"
        ))
        .await;
    caller.until_readiness(200).await;
    caller.requests_work().await;
    let (_, metrics) = caller.get("/metrics").await;
    assert!(metrics.contains("\nbilling_ready 1\n"), "{metrics}");
    assert_eq!(late.terminated().await.status, 0);
    assert_eq!(serving.terminated().await.status, 0);
}

#[tokio::test]
async fn roles_that_are_taken_away_are_an_outage_that_ends() {
    let db = TestDatabase::new().await;
    let login = format!("login_{}", db.name);
    db.execute(&format!(
        "CREATE ROLE {login} LOGIN NOINHERIT; GRANT billing_app, billing_worker TO {login}"
    ))
    .await;
    let mut command = serve_on(&db);
    command.env("DATABASE_URL", db.url(&login));
    let serving = Serving::start(&mut command);
    let caller = Caller::new(&serving.base, &db.url(&login), db.options("postgres"));
    caller.requests_work().await;

    db.execute(&format!(
        "REVOKE billing_app, billing_worker FROM {login};
         SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{login}'"
    ))
    .await;
    let said = caller.until_readiness(503).await;
    assert!(said.contains("may not become"), "{said}");
    for _ in 0..2 {
        let (status, body) = caller.get("/api/billing/usage").await;
        assert_eq!(status, 503, "{body}");
    }
    assert_eq!(caller.deliver().await.1, 503);
    db.execute(&format!("GRANT billing_app, billing_worker TO {login}"))
        .await;
    caller.until_readiness(200).await;
    caller.requests_work().await;
    assert_eq!(serving.terminated().await.status, 0);
    db.execute(&format!("DROP OWNED BY {login}; DROP ROLE {login}"))
        .await;
}

#[tokio::test]
async fn a_full_disk_is_a_reason_until_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("not run: only root may mount a small file system");
        return;
    };
    let directory = tempfile::TempDir::new_in(disk.path()).unwrap();
    let server = OwnServer::start_in(directory).await;
    let url = server.url("billing_service");
    let mut command = crate::support::program::program(&["serve"]);
    command
        .env("DATABASE_URL", &url)
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("STRIPE_WEBHOOK_SECRET", crate::support::events::SECRET)
        .env("LOG_FORMAT", "json");
    let serving = Serving::start(&mut command);
    let admin = server.url("postgres").parse().unwrap();
    let caller = Caller::new(&serving.base, &url, admin);
    caller.requests_work().await;
    disk.fill();
    // Until what is left of the last page is used.
    let mut stored = 0;
    while caller.deliver().await.1 == 200 {
        stored += 1;
        assert!(stored < 5_000, "the disk is full");
    }
    let said = caller.until_readiness(503).await;
    assert!(said.contains("database: "), "{said}");
    disk.make_room();
    caller.until_readiness(200).await;
    caller.requests_work().await;
    serving.terminated().await;
}
