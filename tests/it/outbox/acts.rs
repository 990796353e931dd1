//! Every act of an operator is entered in the audit log.

use serde_json::json;

use super::receiver::{Receiver, Reply, endpoint, events, service, until_count};
use crate::support::TestDatabase;
use crate::support::program::run_beside;
use crate::support::serving::serve_on;

#[tokio::test]
async fn every_act_is_entered_and_no_secret_is() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let (id, secret) = endpoint(&service.db, &receiver, &["--description", "the product"]).await;
    service.organization("Acme").await;
    until_count(
        &service,
        "outbound_deliveries WHERE status = 'delivered'",
        1,
    )
    .await;
    let delivery = service
        .db
        .value("SELECT id::text FROM outbound_deliveries")
        .await;
    for arguments in [
        &["endpoints", "rotate", &id][..],
        &["endpoints", "test", &id],
        &["endpoints", "disable", &id],
        &["endpoints", "enable", &id],
        &["deliveries", "resend", &delivery],
        &[
            "deliveries",
            "recover",
            "--endpoint",
            &id,
            "--since",
            "2020-01-01T00:00:00Z",
        ],
        &["endpoints", "remove", &id],
    ] {
        let ran = events(&service.db, arguments).await;
        assert_eq!(ran.status, 0, "{arguments:?}: {}", ran.stderr);
    }
    let entered = "SELECT string_agg(action, ' ' ORDER BY sequence) FROM billing_audit_log
                    WHERE action LIKE 'event_%'";
    assert_eq!(
        service.db.value(entered).await,
        "event_endpoint_created event_endpoint_rotated event_endpoint_tested \
         event_endpoint_disabled event_endpoint_enabled event_deliveries_resent \
         event_deliveries_recovered event_endpoint_removed"
    );
    let told = format!(
        "billing_audit_log l WHERE l::text LIKE '%{}%'",
        &secret[6..20]
    );
    assert_eq!(service.db.count(&told).await, 0);
    assert_eq!(
        service.db.count("outbound_deliveries").await,
        0,
        "they went with it"
    );
}

#[tokio::test]
async fn what_is_not_there_is_said_with_what_to_do() {
    let service = service().await;
    let id = "0192e4a0-0000-7000-8000-00000000000a";
    for arguments in [
        &["endpoints", "rotate", id][..],
        &["endpoints", "enable", id],
        &["endpoints", "test", id],
        &[
            "deliveries",
            "recover",
            "--endpoint",
            id,
            "--since",
            "2020-01-01T00:00:00Z",
        ],
    ] {
        let ran = events(&service.db, arguments).await;
        assert_eq!(ran.status, 1, "{arguments:?}");
        assert!(
            ran.stderr.contains("`events endpoints list`"),
            "{}",
            ran.stderr
        );
    }
    let backwards = [
        "deliveries",
        "recover",
        "--endpoint",
        id,
        "--since",
        "2020-01-02T00:00:00Z",
        "--until",
        "2020-01-01T00:00:00Z",
    ];
    let ran = events(&service.db, &backwards).await;
    assert_eq!(ran.status, 2);
    assert_eq!(
        events(&service.db, &["deliveries", "list", "--json"])
            .await
            .json(),
        json!([])
    );
}

/// An address may have a secret of its own, and a member of an organization has no part in
/// where its events go.
#[tokio::test]
async fn acts_are_the_operators_and_show_no_query() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let organization = service.organization("Acme").await.to_string();
    let url = format!("{}?token=hushhush", receiver.url);
    let create = [
        "endpoints",
        "create",
        "--url",
        &url,
        "--organization",
        &organization,
        "--json",
    ];
    let made = events(&service.db, &create).await;
    assert_eq!(made.status, 0, "{}", made.stderr);
    let made = made.json();
    assert_eq!(made["url"], receiver.url.as_str());
    let id = made["id"].as_str().unwrap();
    for act in ["test", "disable", "enable", "remove"] {
        let ran = events(&service.db, &["endpoints", act, id]).await;
        assert_eq!(ran.status, 0, "{act}: {}", ran.stderr);
        assert!(!ran.stdout.contains("hushhush"), "{act}: {}", ran.stdout);
    }
    let entered = "billing_audit_log l WHERE action LIKE 'event_endpoint_%'";
    assert_eq!(service.db.count(entered).await, 5);
    let shown = format!("{entered} AND l::text LIKE '%hushhush%'");
    assert_eq!(service.db.count(&shown).await, 0);
    let of_organization = format!("{entered} AND organization_id = '{organization}'");
    assert_eq!(service.db.count(&of_organization).await, 0);
    let named = format!("{entered} AND metadata->>'organizationId' = '{organization}'");
    assert_eq!(service.db.count(&named).await, 5);
}

#[tokio::test]
async fn an_address_of_the_settings_with_a_password_is_refused() {
    let db = TestDatabase::new().await;
    let mut serve = serve_on(&db);
    serve.env(
        "APPLICATION_WEBHOOK_URL",
        "https://me:hushhush@app.example.com/",
    );
    let ran = run_beside(serve).await;
    assert_ne!(ran.status, 0);
    assert!(
        ran.stderr.contains("has a user name or a password"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("hushhush"), "{}", ran.stderr);
}
