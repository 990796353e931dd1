//! Events of an organization come to an endpoint in order, and nobody waits for others.

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::receiver::{
    Receiver, Reply, change, endpoint, events, let_retries_be_due, service, until_count,
};

fn sequences(receiver: &Receiver) -> Vec<i64> {
    let all = receiver.all();
    let sequence = |taken: &super::receiver::Taken| {
        taken.event()["sequence"].as_str().unwrap().parse().unwrap()
    };
    all.iter().map(sequence).collect()
}

#[tokio::test]
async fn what_fails_is_sent_again_before_what_follows() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    endpoint(
        &service.db,
        &receiver,
        &["--type", "organization.state_changed"],
    )
    .await;
    let organization = service.organization("Acme").await;
    receiver.count(1).await;
    receiver.then(&[Reply::Status(500), Reply::Status(503)]);
    for projects in 1..=3 {
        change(&service, organization, projects).await;
        until_count(&service, "outbound_events", projects as i64 + 1).await;
    }
    until_count(
        &service,
        "outbound_deliveries WHERE attempts = 1 AND status = 'pending'",
        1,
    )
    .await;
    assert_eq!(
        sequences(&receiver),
        [1, 2],
        "the others wait for the one that failed"
    );
    let_retries_be_due(&service).await;
    until_count(
        &service,
        "outbound_deliveries WHERE attempts = 2 AND status = 'pending'",
        1,
    )
    .await;
    let_retries_be_due(&service).await;
    until_count(
        &service,
        "outbound_deliveries WHERE status = 'delivered'",
        4,
    )
    .await;
    assert_eq!(sequences(&receiver), [1, 2, 2, 2, 3, 4]);
    let all = receiver.all();
    assert_eq!(all[1].header("webhook-id"), all[3].header("webhook-id"));
    assert_eq!(all[1].body, all[3].body, "byte for byte");
}

#[tokio::test]
async fn an_endpoint_that_hangs_delays_no_other() {
    let service = service().await;
    let slow = Receiver::start(Reply::Hang).await;
    let quick = Receiver::start(Reply::Status(204)).await;
    for receiver in [&slow, &quick] {
        endpoint(&service.db, receiver, &[]).await;
    }
    for n in 0..40 {
        service.organization(&format!("Acme {n}")).await;
    }
    // More organizations than the slow endpoint has calls.
    quick.count(40).await;
    assert!(slow.all().len() <= 32, "{}", slow.all().len());
}

#[tokio::test]
async fn an_organization_whose_events_hang_delays_no_other() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let slow = service.organization("Slow").await;
    receiver.to_subject(&slow.to_string(), Reply::Hang);
    endpoint(&service.db, &receiver, &[]).await;
    change(&service, slow, 7).await;
    receiver
        .until("the slow one's", |taken| {
            taken.event()["subject"] == json!(slow)
        })
        .await;
    let quick = service.organization("Quick").await;
    for projects in 1..=3 {
        change(&service, quick, projects).await;
    }
    receiver
        .until("the newest state", |taken| {
            let event = taken.event();
            event["subject"] == json!(quick) && event["data"]["features"]["projects"] == 3
        })
        .await;
}

#[tokio::test]
async fn what_was_given_up_lets_the_next_go_on_and_is_sent_again_when_asked() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(500)).await;
    let (id, _) = endpoint(&service.db, &receiver, &[]).await;
    service
        .db
        .execute("ALTER TABLE outbound_deliveries ALTER attempts SET DEFAULT 7")
        .await;
    service.organization("Acme").await;
    until_count(&service, "outbound_deliveries WHERE status = 'failed'", 1).await;
    receiver.always(Reply::Status(200));
    let organization = service.organization("Beta").await;
    change(&service, organization, 1).await;
    until_count(&service, "outbound_deliveries WHERE status = 'pending'", 0).await;

    let listed = events(
        &service.db,
        &[
            "deliveries",
            "list",
            "--status",
            "failed",
            "--endpoint",
            &id,
            "--json",
        ],
    )
    .await;
    let failed: Value = listed.json()[0].clone();
    assert_eq!(
        (&failed["attempts"], &failed["responseStatus"]),
        (&json!(8), &json!(500))
    );
    assert_eq!(failed["responseExcerpt"], "so it is");
    let delivery = failed["id"].as_str().unwrap();
    let ran = events(&service.db, &["deliveries", "resend", delivery, "--json"]).await;
    assert_eq!(ran.json()["resent"], json!([delivery]));
    until_count(&service, "outbound_deliveries WHERE status = 'failed'", 0).await;
    let same = |taken: &super::receiver::Taken| taken.header("webhook-id") == failed["eventId"];
    until_count(&service, "outbound_deliveries WHERE status = 'pending'", 0).await;
    assert_eq!(receiver.all().iter().filter(|taken| same(taken)).count(), 2);
    let unknown = "0192e4a0-0000-7000-8000-00000000000a";
    let ran = events(&service.db, &["deliveries", "resend", unknown]).await;
    assert_eq!(ran.status, 1);
    assert!(
        ran.stderr.contains("events deliveries list"),
        "{}",
        ran.stderr
    );
}

/// What an endpoint is told to do holds from the next event on.
#[tokio::test]
async fn an_endpoint_that_is_disabled_amid_a_turn_gets_nothing_more() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let answer = std::sync::Arc::new(tokio::sync::Notify::new());
    receiver.then(&[Reply::After(answer.clone())]);
    let (id, _) = endpoint(
        &service.db,
        &receiver,
        &["--type", "organization.state_changed"],
    )
    .await;
    let organization = service.organization("Acme").await;
    receiver.count(1).await;
    change(&service, organization, 1).await;
    until_count(&service, "outbound_deliveries", 2).await;
    let ran = events(&service.db, &["endpoints", "disable", &id]).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    answer.notify_one();
    until_count(
        &service,
        "outbound_deliveries WHERE status = 'delivered'",
        1,
    )
    .await;
    until_count(&service, "outbound_lanes WHERE lease_id IS NULL", 1).await;
    assert_eq!(receiver.all().len(), 1);
    let ran = events(&service.db, &["endpoints", "enable", &id]).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    receiver.count(2).await;
}

/// Events are recovered by time, a page after the other. A publisher that waited for another
/// began before it, and writes what follows.
#[tokio::test]
async fn the_times_of_an_organizations_events_are_in_their_order() {
    let service = service().await;
    let organization = service.organization("Acme").await;
    until_count(&service, "outbound_changes", 0).await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    endpoint(&service.db, &receiver, &[]).await;
    let options = service.db.options("postgres");
    let mut other = PgConnection::connect_with(&options).await.unwrap();
    let stream = format!("INSERT INTO outbound_streams VALUES ('{organization}', 1)");
    other.execute("BEGIN").await.unwrap();
    other.execute(AssertSqlSafe(stream)).await.unwrap();
    change(&service, organization, 1).await;
    let waits = "pg_stat_activity WHERE wait_event_type = 'Lock'
                    AND datname = current_database() AND query LIKE '%INTO outbound_streams%'";
    until_count(&service, waits, 1).await;
    let event = format!(
        "INSERT INTO outbound_events (organization_id, sequence, id, event_type, body, created_at)
         VALUES ('{organization}', 1, gen_random_uuid(), 'plan.changed', '{{}}',
                 clock_timestamp())"
    );
    other.execute(AssertSqlSafe(event)).await.unwrap();
    other.execute("COMMIT").await.unwrap();
    receiver.count(1).await;
    let written = "outbound_events WHERE sequence > 1";
    assert!(service.db.count(written).await > 0);
    let out_of_order = "outbound_events one JOIN outbound_events next
                          ON next.organization_id = one.organization_id
                         AND next.sequence > one.sequence AND next.created_at < one.created_at";
    assert_eq!(service.db.count(out_of_order).await, 0);
}
