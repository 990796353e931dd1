//! A server that has few connections to give.

use std::time::Duration;

use serde_json::Value;
use valuecanvas_billing::db::{self, WorkerTx};
use valuecanvas_billing::http_client;

use super::caller::Caller;
use crate::support::TestDatabase;
use crate::support::program::{program_on, run};
use crate::support::serving::{Serving, entries};

fn warning(log: &str) -> Option<Value> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|entry| {
            entry["message"]
                .as_str()
                .is_some_and(|message| message.starts_with("PostgreSQL has "))
        })
}

#[tokio::test]
async fn serve_says_when_the_server_has_too_few_connections() {
    let db = TestDatabase::new().await;
    let plenty = Serving::on(&db);
    let log = plenty.log();
    assert_eq!(warning(&log), None, "{log}");
    let needed = entries(&log, "Listening")[0]["connections"]
        .as_i64()
        .unwrap();
    assert!(needed > 10, "{log}");
    plenty.terminated().await;

    let limit = needed - 1;
    db.execute(&format!(
        "ALTER DATABASE {} CONNECTION LIMIT {limit}",
        db.name
    ))
    .await;
    let scarce = Serving::on(&db);
    let said = warning(&scarce.log()).expect("a warning");
    let message = said["message"].as_str().unwrap();
    assert!(
        message.contains("the database's CONNECTION LIMIT"),
        "{message}"
    );
    assert_eq!(said["needed"], needed);
    let free = said["free"].as_i64().unwrap();
    let metrics = http_client::direct_client().unwrap();
    let metrics = metrics.get(format!("{}/metrics", scarce.base)).send().await;
    let metrics = metrics.unwrap().text().await.unwrap();
    let missing = format!("\nbilling_database_connections_missing {}\n", needed - free);
    assert!(metrics.contains(&missing), "{missing}{metrics}");
    // It works with what there is.
    let caller = Caller::new(
        &scarce.base,
        &db.url("billing_service"),
        db.options("postgres"),
    );
    caller.requests_work().await;
    let open = "SELECT count(*) + 5 FROM pg_stat_activity WHERE datname = current_database()";
    let limit = db.value(open).await;
    db.execute(&format!(
        "ALTER DATABASE {} CONNECTION LIMIT {limit}",
        db.name
    ))
    .await;
    let doctor = run(&mut program_on(&db, &["doctor", "--json"]));
    let checks: Vec<Value> = serde_json::from_str(&doctor.stdout).unwrap();
    let found = checks.iter().find(|check| check["name"] == "connections");
    assert_ne!(found.unwrap()["verdict"], "ok", "{}", doctor.stdout);
    scarce.terminated().await;
}

#[tokio::test]
async fn a_replica_whose_server_has_none_left_for_others_stays_ready() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let caller = Caller::new(
        &serving.base,
        &db.url("billing_service"),
        db.options("postgres"),
    );
    caller.requests_work().await;
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    let open = db.value(open).await;
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                   AND application_name = 'valuecanvas-billing'";
    let had: i64 = db.value(ours).await.parse().unwrap();
    db.execute(&format!(
        "ALTER DATABASE {} CONNECTION LIMIT {open}",
        db.name
    ))
    .await;
    db.execute(&format!("ALTER DATABASE {} CONNECTION LIMIT 1", db.name))
        .await;
    // No probe makes a part give up what it has, which nobody would give back.
    for _ in 0..20 {
        let (status, body) = caller.readiness().await;
        assert_eq!(status, 200, "{body}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let kept: i64 = db.value(ours).await.parse().unwrap();
    assert!(kept >= had, "{kept} of {had}");
    caller.requests_work().await;
}

/// As after a restart with a small max_connections: all want theirs back at
/// once, and those that come last get one when others do not need theirs.
#[tokio::test]
async fn intake_gets_a_connection_where_there_are_too_few_for_all() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let caller = Caller::new(
        &serving.base,
        &db.url("billing_service"),
        db.options("postgres"),
    );
    caller.requests_work().await;
    let crowd = caller.crowd();
    // Fewer than the pools would keep that are busy when it begins.
    db.execute(&format!(
        "ALTER DATABASE {} CONNECTION LIMIT 8;
         SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
          WHERE datname = current_database() AND usename = 'billing_service'",
        db.name
    ))
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(crowd);
    // Whose connections stay open, idle, unless they are given back.
    caller.until_deliveries_are_stored().await;
    let open =
        "pg_stat_activity WHERE datname = current_database() AND usename = 'billing_service'";
    assert!(db.count(open).await <= 8);
    serving.terminated().await;
}

/// A part that finds no connection gets one that another keeps for later.
#[tokio::test]
async fn idle_connections_are_given_to_who_finds_none() {
    let db = TestDatabase::new().await;
    let options = db.options("billing_service");
    let (keeps, wants) = (db::pool(options.clone(), 2), db::pool(options, 2));
    let (one, other) = tokio::join!(keeps.acquire(), keeps.acquire());
    drop((one.unwrap(), other.unwrap()));
    // They go back by themselves.
    while keeps.num_idle() < 2 {
        tokio::task::yield_now().await;
    }
    db.execute(&format!("ALTER DATABASE {} CONNECTION LIMIT 2", db.name))
        .await;
    let pools = [keeps.clone(), wants.clone()];
    // As `serve` does where it finds that there are too few.
    db::waiting_is_refusal();
    db::give_back_idle(&pools).await;
    assert_eq!(keeps.num_idle(), 2, "nobody was refused one");
    assert!(WorkerTx::begin(&wants).await.is_err());
    db::give_back_idle(&pools).await;
    assert_eq!(keeps.num_idle(), 0);
    let tx = WorkerTx::begin(&wants).await.unwrap();
    tx.commit().await.unwrap();
}
