//! What endpoints answer, and what becomes of them.

use serde_json::json;

use super::receiver::{
    Receiver, Reply, change, endpoint, events, let_retries_be_due, service, until_count,
};
use crate::support::program::{program_on, run_beside};

#[tokio::test]
async fn a_redirect_is_a_failure() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Redirect).await;
    endpoint(&service.db, &receiver, &[]).await;
    service.organization("Acme").await;
    until_count(&service, "outbound_deliveries WHERE attempts = 1", 1).await;
    let error = "SELECT error_message FROM outbound_deliveries";
    assert!(service.db.value(error).await.contains("final address"));
    assert_eq!(receiver.all().len(), 1, "nothing follows it");
}

#[tokio::test]
async fn of_a_huge_answer_only_the_beginning_is_read() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Huge).await;
    endpoint(&service.db, &receiver, &[]).await;
    service.organization("Acme").await;
    until_count(
        &service,
        "outbound_deliveries WHERE status = 'delivered'",
        1,
    )
    .await;
    let kept = "SELECT length(response_excerpt)::text FROM outbound_deliveries";
    assert_eq!(service.db.value(kept).await, "500");
}

#[tokio::test]
async fn a_call_that_hangs_ends_and_is_tried_again() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    receiver.then(&[Reply::Hang]);
    endpoint(&service.db, &receiver, &[]).await;
    service.organization("Acme").await;
    until_count(&service, "outbound_deliveries WHERE attempts = 1", 1).await;
    let error = "SELECT error_message FROM outbound_deliveries";
    assert_eq!(service.db.value(error).await, "no answer within 10 s");
    let_retries_be_due(&service).await;
    until_count(
        &service,
        "outbound_deliveries WHERE status = 'delivered'",
        1,
    )
    .await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled_and_what_it_missed_is_recovered() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(410)).await;
    let (id, _) = endpoint(&service.db, &receiver, &[]).await;
    let organization = service.organization("Acme").await;
    until_count(
        &service,
        "outbound_endpoints WHERE disabled_at IS NOT NULL",
        1,
    )
    .await;
    assert!(service.metric("outbound_endpoints_disabled_total").await >= Some(1));
    let doctor = run_beside(program_on(&service.db, &["doctor", "--json"])).await;
    let checks = doctor.json();
    let found = checks
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "event-endpoints");
    assert_eq!(found.unwrap()["verdict"], "failed");
    assert!(
        found.unwrap()["detail"]
            .as_str()
            .unwrap()
            .contains("410 Gone")
    );

    // Nothing is sent meanwhile, but it is known.
    change(&service, organization, 5).await;
    until_count(&service, "outbound_events", 2).await;
    assert_eq!(receiver.all().len(), 1);
    receiver.always(Reply::Status(200));
    assert_eq!(
        events(&service.db, &["endpoints", "enable", &id])
            .await
            .status,
        0
    );
    let since = [
        "deliveries",
        "recover",
        "--endpoint",
        &id,
        "--since",
        "2020-01-01T00:00:00Z",
        "--json",
    ];
    let recovered = events(&service.db, &since).await;
    assert_eq!(recovered.json()["deliveries"], 1, "{}", recovered.stderr);
    until_count(
        &service,
        "outbound_deliveries WHERE status = 'delivered'",
        2,
    )
    .await;
    let again = events(&service.db, &since).await;
    assert_eq!(
        again.json()["deliveries"],
        0,
        "what arrived is not sent again"
    );
    let newest = receiver.all().pop().unwrap().event();
    assert_eq!(newest["data"]["features"]["projects"], 5);
}

#[tokio::test]
async fn an_endpoint_that_failed_for_five_days_is_disabled() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(500)).await;
    endpoint(&service.db, &receiver, &[]).await;
    service.organization("Acme").await;
    until_count(
        &service,
        "outbound_endpoints WHERE failing_since IS NOT NULL",
        1,
    )
    .await;
    assert_eq!(
        service
            .db
            .count("outbound_endpoints WHERE disabled_at IS NOT NULL")
            .await,
        0
    );
    service
        .db
        .execute("UPDATE outbound_endpoints SET failing_since = now() - interval '121 hours'")
        .await;
    let_retries_be_due(&service).await;
    until_count(
        &service,
        "outbound_endpoints WHERE disabled_at IS NOT NULL",
        1,
    )
    .await;
    let listed = events(&service.db, &["endpoints", "list", "--json"])
        .await
        .json();
    assert_eq!(listed[0]["status"], json!("disabled"));
    let entered = "billing_audit_log WHERE action = 'event_endpoint_disabled'";
    assert_eq!(service.db.count(entered).await, 1);
}

/// Two failures with a long quiet between them are no five days of failures.
#[tokio::test]
async fn an_endpoint_that_was_sent_nothing_has_not_failed_meanwhile() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(500)).await;
    let (id, _) = endpoint(&service.db, &receiver, &[]).await;
    service.organization("Acme").await;
    until_count(&service, "outbound_deliveries WHERE attempts = 1", 1).await;
    service
        .db
        .execute(
            "UPDATE outbound_endpoints SET failing_since = now() - interval '121 hours',
                    last_failed_at = now() - interval '13 hours'",
        )
        .await;
    let_retries_be_due(&service).await;
    until_count(
        &service,
        "outbound_endpoints WHERE failing_since > now() - interval '1 hour'",
        1,
    )
    .await;
    let disabled = "outbound_endpoints WHERE disabled_at IS NOT NULL";
    assert_eq!(service.db.count(disabled).await, 0);
    receiver.always(Reply::Status(200));
    let ran = events(&service.db, &["endpoints", "test", &id]).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let failing = "outbound_endpoints WHERE failing_since IS NOT NULL";
    assert_eq!(service.db.count(failing).await, 0, "the test succeeded");
}
