//! Intake while the database is away, slow or silent, and while others deliver
//! the same events.

use std::time::Duration;

use axum::body::Bytes;
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, PgConnection};
use valuecanvas_billing::stripe::event::Envelope;
use valuecanvas_billing::stripe::signature::{self, SigningSecret};
use valuecanvas_billing::webhooks::intake::{self, IntakeError, Receipt, Source};

use crate::support::events::{SECRET, event, invoice, sign};
use crate::support::service::{Options, WEBHOOKS};
use crate::support::serving::Serving;
use crate::support::{TestDatabase, TestService};

fn plan_created(id: &str) -> Value {
    event(id, "plan.created", 1, json!({"id": "plan_1"}))
}

/// Sends an event as Stripe does, which hangs up after 20 seconds.
async fn send(base: &str, event: &Value) -> (u16, Value, bool) {
    let body = event.to_string();
    let request = valuecanvas_billing::http_client::http_client()
        .unwrap()
        .post(format!("{base}{WEBHOOKS}"))
        .timeout(Duration::from_secs(20))
        .header("stripe-signature", sign(body.as_bytes()))
        .body(body);
    let response = request.send().await.expect("an answer in time");
    let status = response.status().as_u16();
    let come_back = response.headers().contains_key("retry-after");
    (status, response.json().await.unwrap(), come_back)
}

/// Sends an event that cannot be stored now.
async fn refused(service: &TestService, event: &Value) {
    let (status, problem, come_back) = send(&service.base, event).await;
    assert_eq!(
        (status, problem["code"].as_str(), come_back),
        (503, Some("inbox_unavailable"), true)
    );
}

/// Sends it again: it is stored, once.
async fn stored(service: &TestService, event: &Value) {
    let (status, answer, _) = send(&service.base, event).await;
    assert_eq!(status, 200, "{answer}");
    let id = event["id"].as_str().unwrap();
    let rows = service
        .db
        .count(&format!("webhook_events WHERE stripe_event_id = '{id}'"))
        .await;
    assert_eq!(rows, 1);
}

/// A connection to the server that does not need the test's database.
async fn server(db: &TestDatabase) -> PgConnection {
    db.options("postgres")
        .database("postgres")
        .connect()
        .await
        .unwrap()
}

async fn end_connections(server: &mut PgConnection, db: &TestDatabase) {
    let sql = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'",
        db.name
    );
    server.execute(AssertSqlSafe(sql)).await.unwrap();
}

async fn allow_connections(server: &mut PgConnection, db: &TestDatabase, allow: bool) {
    let sql = format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allow}", db.name);
    server.execute(AssertSqlSafe(sql)).await.unwrap();
}

#[tokio::test]
async fn while_the_database_is_down_stripe_is_told_to_come_back() {
    let service = TestService::intake_only().await;
    stored(&service, &plan_created("evt_before")).await;
    let mut server = server(&service.db).await;
    allow_connections(&mut server, &service.db, false).await;
    end_connections(&mut server, &service.db).await;
    for id in ["evt_1", "evt_2"] {
        refused(&service, &plan_created(id)).await;
    }
    allow_connections(&mut server, &service.db, true).await;
    for id in ["evt_1", "evt_2"] {
        stored(&service, &plan_created(id)).await;
    }
}

/// A restart of the server between two deliveries costs no delivery.
#[tokio::test]
async fn a_connection_that_died_is_replaced_before_anyone_notices() {
    let service = TestService::intake_only().await;
    stored(&service, &plan_created("evt_1")).await;
    end_connections(&mut server(&service.db).await, &service.db).await;
    stored(&service, &plan_created("evt_2")).await;
}

#[tokio::test]
async fn a_locked_table_is_waited_for_until_the_deadline() {
    let service = TestService::intake_only().await;
    let mut holder = service.db.options("postgres").connect().await.unwrap();
    holder
        .execute("BEGIN; LOCK TABLE webhook_events IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let events = ["evt_1", "evt_2", "evt_3"].map(plan_created);
    join_all(events.iter().map(|event| refused(&service, event))).await;
    holder.execute("COMMIT").await.unwrap();
    join_all(events.iter().map(|event| stored(&service, event))).await;
    assert_eq!(service.db.count("webhook_events").await, 3);
}

/// A host that froze, or a network that swallows everything, breaks no
/// connection: the service itself must give up on it.
#[tokio::test]
async fn a_server_that_says_nothing_more_is_given_up() {
    let service = TestService::intake_only().await;
    stored(&service, &plan_created("evt_before")).await;
    // Its NOTIFY may be under way when the event is answered.
    let pid = loop {
        let waiting = service.db.value(
            "SELECT coalesce(max(pid)::text, '') FROM pg_stat_activity
              WHERE datname = current_database() AND query = 'NOTIFY webhook_events' AND state = 'idle'",
        );
        match waiting.await {
            none if none.is_empty() => tokio::time::sleep(Duration::from_millis(5)).await,
            pid => break pid,
        }
    };
    let backend = Pid::from_raw(pid.parse().expect("one connection writes")).unwrap();
    kill_process(backend, Signal::STOP).unwrap();
    refused(&service, &plan_created("evt_1")).await;
    stored(&service, &plan_created("evt_1")).await;
    kill_process(backend, Signal::CONT).unwrap();
}

#[tokio::test]
async fn a_database_that_is_not_migrated_refuses_nobody_for_good() {
    let db = TestDatabase::empty().await;
    let (intake, writer) = intake::new(db.service(), Source::Delivery, |_| {});
    tokio::spawn(writer.run());
    let body = Bytes::from(plan_created("evt_1").to_string());
    let envelope = Envelope::read(&body, 0).unwrap();
    let refused = intake.store(envelope.clone(), body.clone()).await;
    assert_eq!(refused, Err(IntakeError::Unavailable));

    // Without the role there is not even a connection to be had.
    let (intake, writer) = intake::new(db.options("billing_nobody"), Source::Delivery, |_| {});
    tokio::spawn(writer.run());
    assert_eq!(
        intake.store(envelope, body).await,
        Err(IntakeError::Unavailable)
    );
}

#[tokio::test]
async fn fifty_deliveries_over_two_services_are_one_event() {
    let db = TestDatabase::new().await;
    let (one, other) = (Serving::on(&db), Serving::on(&db));
    let event = plan_created("evt_1");
    let bases = [&one.base, &other.base];
    let answers = join_all((0..50).map(|i| send(bases[i % 2], &event))).await;
    let duplicates = answers.iter().filter(|(status, answer, _)| {
        assert_eq!(*status, 200, "{answer}");
        answer["duplicate"] == true
    });
    assert_eq!(duplicates.count(), 49);
    assert_eq!(db.count("webhook_events").await, 1);
}

#[tokio::test]
async fn a_dead_letter_sent_again_is_a_duplicate() {
    let service = TestService::start().await;
    service.db.organization("cus_1").await;
    let mut object = invoice("in_1", "cus_1", "sub_1", "open");
    object["total"] = json!(0.5);
    let poison = event("evt_1", "invoice.finalized", 1, object);
    service.deliver(&poison).await;
    service.settle().await;
    assert_eq!(service.db.count("webhook_dead_letter_queue").await, 1);
    assert_eq!(service.deliver(&poison).await["duplicate"], true);
    assert_eq!(service.db.count("webhook_events").await, 0);
}

#[tokio::test]
async fn while_a_secret_is_rolled_both_are_accepted() {
    let service = TestService::with(Options {
        workers: 0,
        secrets: vec!["whsec_new", SECRET],
        ..Options::default()
    })
    .await;
    for (id, secret, status) in [
        ("evt_1", "whsec_new", 200),
        ("evt_2", SECRET, 200),
        ("evt_3", "whsec_older", 400),
    ] {
        let body = plan_created(id).to_string();
        let now = jiff::Timestamp::now().as_second();
        let header = signature::sign(&SigningSecret::new(secret), body.as_bytes(), now);
        assert_eq!(
            service.deliver_raw(body, &header).await.status(),
            status,
            "{secret}"
        );
    }
}

/// What our parser takes and PostgreSQL's does not is refused by itself.
#[tokio::test]
async fn one_bad_payload_does_not_spoil_its_group() {
    let db = TestDatabase::new().await;
    let (intake, writer) = intake::new(db.service(), Source::Delivery, |_| {});
    let delivery = |id: &str, payload: Option<&'static str>| {
        let body = Bytes::from(plan_created(id).to_string());
        let envelope = Envelope::read(&body, 0).unwrap();
        intake.store(envelope, payload.map_or(body, Bytes::from))
    };
    // The writer starts when this task waits, which is when all are queued: they
    // form one group.
    tokio::spawn(writer.run());
    let deliveries = join_all([
        delivery("evt_1", None),
        delivery("evt_2", Some("{no JSON")),
        delivery("evt_3", None),
        delivery("evt_3", None),
    ]);
    let answers = deliveries.await;
    assert_eq!(answers[0], Ok(Receipt::Stored));
    assert!(
        matches!(answers[1], Err(IntakeError::Payload(_))),
        "{:?}",
        answers[1]
    );
    assert_eq!(answers[2..], [Ok(Receipt::Stored), Ok(Receipt::Duplicate)]);
    assert_eq!(db.count("webhook_events").await, 2);
}
