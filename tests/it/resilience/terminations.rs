//! Connections that are ended by the server, one after the other.
//!
//! `VCB_TERMINATION_ROUNDS` raises the number of rounds.

use std::collections::BTreeSet;

use sqlx::{Connection as _, Executor as _};

use super::caller::Caller;
use crate::stripe::Stripe;
use crate::support::TestDatabase;
use crate::support::serving::{Serving, serve_on};

/// Whoever takes the product's alerts.
async fn application() -> String {
    let taken = axum::routing::post(async || axum::http::StatusCode::NO_CONTENT);
    let router = axum::Router::new().route("/alerts", taken);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/alerts", listener.local_addr().unwrap());
    let stop = tokio_util::sync::CancellationToken::new();
    let site = valuecanvas_billing::server::bare(router);
    tokio::spawn(valuecanvas_billing::server::serve(listener, site, stop));
    url
}

fn rounds() -> usize {
    let asked = std::env::var("VCB_TERMINATION_ROUNDS").ok();
    asked.map_or(3, |rounds| rounds.parse().expect("a number of rounds"))
}

const OURS: &str = "pg_stat_activity WHERE datname = current_database()
                    AND application_name = 'valuecanvas-billing'";

async fn open(db: &TestDatabase) -> BTreeSet<i32> {
    let pids = format!("SELECT string_agg(pid::text, ',') FROM {OURS}");
    let pids = db.value(&pids).await;
    pids.split(',').filter_map(|pid| pid.parse().ok()).collect()
}

#[tokio::test]
async fn every_part_works_after_every_connection_was_terminated() {
    let db = TestDatabase::new().await;
    let stripe = Stripe::start().await;
    let mut command = serve_on(&db);
    command
        .env("STRIPE_SECRET_KEY", "sk_test_terminated")
        .env("STRIPE_API_BASE", stripe.sandbox.url())
        .env("APPLICATION_WEBHOOK_URL", application().await)
        .env(
            "APPLICATION_WEBHOOK_SECRET",
            "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        );
    let serving = Serving::start(&mut command);
    let caller = Caller::new(
        &serving.base,
        &db.url("billing_service"),
        db.options("postgres"),
    );
    caller.requests_work().await;
    for _ in 0..rounds() {
        let before = open(&db).await;
        assert!(before.len() >= 6, "{before:?}");
        // One by one, and each part is asked while some are gone.
        for (n, pid) in before.iter().enumerate() {
            db.execute(&format!("SELECT pg_terminate_backend({pid}, 5000)"))
                .await;
            if n == before.len() / 2 {
                caller.requests_work().await;
            }
        }
        caller.requests_work().await;
        // And all at once.
        db.execute(&format!(
            "SELECT pg_terminate_backend(pid, 5000) FROM {OURS}"
        ))
        .await;
        caller.requests_work().await;
    }
    caller.every_part_works(true).await;
    // Retention looks every five minutes.
    let longest = if rounds() > 3 { 300.0 } else { 60.0 };
    caller.every_part_runs_again(longest).await;
    assert_eq!(serving.terminated().await.status, 0);
}

/// What a batch had claimed is due as soon as the database is there, not once the lease of
/// a minute ends.
#[tokio::test]
async fn events_of_an_interrupted_batch_do_not_wait_for_its_lease() {
    let db = TestDatabase::new().await;
    let serving = Serving::start(&mut serve_on(&db));
    let caller = Caller::new(
        &serving.base,
        &db.url("billing_service"),
        db.options("postgres"),
    );
    caller.requests_work().await;
    caller
        .until_none("webhook_events WHERE NOT processed")
        .await;
    // A batch waits where it begins to apply, and its connection is ended there.
    let mut holder = sqlx::PgConnection::connect_with(&db.options("postgres"))
        .await
        .unwrap();
    holder
        .execute("BEGIN; LOCK TABLE billing_subscriptions IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    assert_eq!(caller.deliver().await.1, 200);
    let ended =
        format!("SELECT count(pg_terminate_backend(pid)) FROM {OURS} AND wait_event_type = 'Lock'");
    while db.value(&ended).await == "0" {}
    holder.execute("ROLLBACK").await.unwrap();
    caller
        .until_none("webhook_events WHERE NOT processed")
        .await;
    let log = serving.log();
    assert!(log.contains("Events of an interrupted batch"), "{log}");
}
