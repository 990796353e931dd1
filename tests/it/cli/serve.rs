//! `serve`: its start and its end.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use sqlx::{ConnectOptions as _, Executor as _};

use crate::support::TestDatabase;
use crate::support::events::{event, sign};
use crate::support::ports::reserved;
use crate::support::program::run;
use crate::support::service::WEBHOOKS;
use crate::support::serving::{Serving, serve_on};
use crate::support::wire::Wire;

fn request(id: &str) -> String {
    let body = event(id, "plan.created", 1, json!({"id": "plan_1"})).to_string();
    format!(
        "POST {WEBHOOKS} HTTP/1.1\r\nhost: test\r\nstripe-signature: {}\r\ncontent-length: {}\r\n\r\n{body}",
        sign(body.as_bytes()),
        body.len()
    )
}

/// Waits until the service's insert waits for the lock.
async fn until_blocked(db: &TestDatabase) {
    for _ in 0..2_000 {
        if db
            .count("pg_locks WHERE NOT granted AND relation = 'webhook_events'::regclass")
            .await
            > 0
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("nothing waits");
}

#[tokio::test]
async fn sigterm_answers_what_is_under_way_and_ends_with_0() {
    let db = TestDatabase::new().await;
    let serving = Serving::start(serve_on(&db).env("WORKER_CONCURRENCY", "0"));
    let mut holder = db.options("postgres").connect().await.unwrap();
    holder
        .execute("BEGIN; LOCK TABLE webhook_events IN SHARE MODE")
        .await
        .unwrap();
    let mut wire = Wire::open(&serving.base).await;
    wire.send(request("evt_1")).await;
    let idle = Wire::open(&serving.base).await;
    until_blocked(&db).await;
    serving.signal(Signal::TERM);

    // It no longer listens, so the next instance may; nor does it keep idle connections.
    assert_eq!(idle.closed().await, "");
    let address = serving.base.trim_start_matches("http://").to_owned();
    let next = Serving::start(serve_on(&db).env("LISTEN_ADDR", &address));

    holder.execute("COMMIT").await.unwrap();
    let reply = wire.answer().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(wire.closed().await, "", "and then it closes");
    let ended = serving.ended().await;
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(db.count("webhook_events").await, 1);

    let mut wire = Wire::open(&next.base).await;
    wire.send(request("evt_1")).await;
    assert_eq!(wire.answer().await.json()["duplicate"], true);
    assert_eq!(next.terminated().await.status, 0);
}

/// Whoever cannot wait any longer says it twice.
#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let mut wire = Wire::open(&serving.base).await;
    wire.send(request("evt_1")).await;
    assert_eq!(wire.answer().await.status, 200);
    // A worker that waits for a lock holds it up.
    let mut holder = db.options("postgres").connect().await.unwrap();
    holder
        .execute("BEGIN; LOCK TABLE webhook_events IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    until_blocked(&db).await;
    serving.signal(Signal::TERM);
    assert_eq!(wire.closed().await, "", "it stops, as far as it can");
    serving.signal(Signal::TERM);
    let ended = serving.ended().await;
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("stopped without draining"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn an_address_in_use_is_said() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let address = serving.base.trim_start_matches("http://").to_owned();
    for variable in ["LISTEN_ADDR", "METRICS_ADDR"] {
        let ran = run(serve_on(&db).env(variable, &address));
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        let line = ran.stderr.lines().last().unwrap();
        assert!(
            line.starts_with(&format!("error: {variable}: cannot listen on")),
            "{line}"
        );
    }
}

#[tokio::test]
async fn metrics_may_have_a_listener_of_their_own() {
    let db = TestDatabase::new().await;
    let free = reserved();
    let serving = Serving::start(serve_on(&db).env("METRICS_ADDR", free.to_string()));
    for (base, path, status) in [
        (&serving.base, "/metrics", 404),
        (&serving.base, "/readyz", 200),
        (&format!("http://{free}"), "/metrics", 200),
        (&format!("http://{free}"), "/readyz", 404),
    ] {
        let mut wire = Wire::open(base).await;
        wire.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))
            .await;
        assert_eq!(wire.answer().await.status, status, "{base}{path}");
    }
}
