//! Another primary, a restart, a network that breaks, and a password that is
//! replaced.

use std::path::Path;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use super::caller::Caller;
use crate::attack::siege::plans_before;
use crate::metering::gateway::Upstream;
use crate::support::events::SECRET;
use crate::support::program::{program, run_beside};
use crate::support::server::{OwnServer, Proxy};
use crate::support::serving::Serving;

fn serve(url: &str) -> Serving {
    serve_with(url, None)
}

fn serve_with(url: &str, plans: Option<&Path>) -> Serving {
    let mut command = program(&["serve"]);
    if let Some(plans) = plans {
        command.env("PLANS_FILE", plans);
    }
    command
        .env("DATABASE_URL", url)
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("STRIPE_WEBHOOK_SECRET", SECRET)
        .env("WORKER_CONCURRENCY", "2")
        .env("LOG_FORMAT", "json");
    Serving::start(&mut command)
}

fn options(url: &str) -> PgConnectOptions {
    url.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_becomes_the_primary_and_the_network_breaks() {
    let primary = OwnServer::start().await;
    let proxy = Proxy::to(primary.socket_directory()).await;
    let url = proxy.url("billing_service");
    let serving = serve(&url);
    let caller = Caller::new(&serving.base, &url, options(&proxy.url("postgres")));
    caller.requests_work().await;
    let standby = primary.standby().await;
    // What was committed is to be there afterwards.
    for _ in 0..100 {
        let behind = "SELECT count(*) FROM pg_stat_replication
                       WHERE replay_lsn >= pg_current_wal_lsn()";
        if primary.value(behind).await == "1" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // The address leads to the standby before it is promoted; the sessions of
    // before are still with a primary that others have left.
    proxy.lead_to(standby.socket_directory());
    let said = caller.until_readiness(503).await;
    assert!(said.contains("read-only: a standby"), "{said}");
    proxy.cut();
    let said = caller.until_readiness(503).await;
    assert!(said.contains("read-only: a standby"), "{said}");
    assert_eq!(caller.deliver().await.1, 503);
    assert_eq!(caller.consume().await.0, 503);
    standby.promote();
    caller.until_readiness(200).await;
    // Sessions that were read-only when they began write now, or are left.
    caller.every_part_works(false).await;

    // A network that breaks, and comes back.
    proxy.lead_to(std::path::Path::new("/nonexistent"));
    proxy.cut();
    let said = caller.until_readiness(503).await;
    assert!(
        said.contains("cannot be reached") || said.contains("in time"),
        "{said}"
    );
    assert_eq!(caller.deliver().await.1, 503);
    proxy.lead_to(standby.socket_directory());
    caller.until_readiness(200).await;
    caller.requests_work().await;
    assert_eq!(serving.terminated().await.status, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_use_whose_commit_was_not_answered_is_counted_once() {
    let server = OwnServer::start().await;
    let proxy = Proxy::to(server.socket_directory()).await;
    let url = proxy.url("billing_service");
    let upstream = Upstream::start().await;
    let plans = plans_before(&upstream.url);
    let serving = serve_with(&url, Some(plans.path()));
    let caller = Caller::new(&serving.base, &url, options(&proxy.url("postgres")));
    for counted in 1..=3_u32 {
        // The session is used again, and knows its statements.
        assert_eq!(caller.consume().await.0, 200);
        proxy.lose_commit("INSERT INTO usage_events");
        let (status, body) = caller.consume().await;
        assert_eq!(status, 200, "{body}");
        assert!(proxy.has_lost_commit());
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["usage"], 2 * counted, "{body}");
        assert_ne!(body["duplicate"], true, "{body}");
    }
    let counted = "SELECT concat_ws(' ', sum(total), sum(events), sum(reserved),
                          (SELECT count(*) FROM usage_events)) FROM usage_totals";
    assert_eq!(server.value(counted).await, "6.0000 6 0.0000 6");
    // A use that is held for a call, and settled afterwards.
    for statement in [
        "INSERT INTO usage_reservations",
        "DELETE FROM usage_reservations",
    ] {
        assert_eq!(caller.get("/tools/one").await.0, 200);
        proxy.lose_commit(statement);
        assert_eq!(caller.get("/tools/one").await.0, 200);
        assert!(proxy.has_lost_commit());
    }
    // An answer may come before its use is settled.
    let left = "SELECT count(*) FROM usage_reservations";
    while server.value(left).await != "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.value(counted).await, "10.0000 10 0.0000 10");
    assert_eq!(serving.terminated().await.status, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_password_is_an_outage_that_ends() {
    let server = OwnServer::start().await;
    server
        .allow("local all billing_service scram-sha-256\nlocal all all trust\n")
        .await;
    server
        .execute("ALTER ROLE billing_service PASSWORD 'first'")
        .await;
    let proxy = Proxy::to(server.socket_directory()).await;
    let url = proxy.url("billing_service:first");
    let serving = serve(&url);
    let caller = Caller::new(&serving.base, &url, options(&server.url("postgres")));
    caller.requests_work().await;

    server
        .execute("ALTER ROLE billing_service PASSWORD 'second'")
        .await;
    // Those that are open go on, and no new one will.
    let said = caller.until_readiness(503).await;
    assert!(said.contains("refuses the login of DATABASE_URL"), "{said}");
    proxy.cut();
    assert_eq!(caller.deliver().await.1, 503);
    assert_eq!(caller.consume().await.0, 503);
    for path in ["/api/billing/usage", "/api/billing/invoices"] {
        let (status, body) = caller.get(path).await;
        assert_eq!(status, 503, "{path}: {body}");
    }
    let mut doctor = program(&["doctor", "--json"]);
    doctor
        .env("DATABASE_URL", &url)
        .env("MIGRATION_DATABASE_URL", server.url("postgres"));
    let doctor = run_beside(doctor).await;
    assert_eq!(doctor.status, 1, "{}", doctor.stderr);
    let checks = doctor.json();
    let checks = checks.as_array().unwrap();
    let login = checks
        .iter()
        .find(|check| check["name"] == "login")
        .unwrap();
    assert_eq!(login["verdict"], "failed", "{}", doctor.stdout);
    let fix = login["fix"].as_str().unwrap();
    assert!(fix.contains("password in DATABASE_URL"), "{fix}");
    // Nothing that works is called broken for it.
    let schema = checks
        .iter()
        .find(|check| check["name"] == "schema")
        .unwrap();
    assert_eq!(schema["verdict"], "ok", "{}", doctor.stdout);
    assert!(
        !doctor.stdout.contains("migrate verify"),
        "{}",
        doctor.stdout
    );

    server
        .execute("ALTER ROLE billing_service PASSWORD 'first'")
        .await;
    caller.until_readiness(200).await;
    caller.every_part_works(false).await;
    assert_eq!(serving.terminated().await.status, 0);
}
