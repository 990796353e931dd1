//! Which endpoints there may be, what they get, and how their secrets change.

use serde_json::{Value, json};

use super::receiver::{Receiver, Reply, change, endpoint, events, service, until_count};
use crate::support::libraries::{LANGUAGES, ask};
use crate::support::program::{program_on, run_beside};
use crate::support::{TestDatabase, TestService};

#[tokio::test]
async fn addresses_that_only_this_service_reaches_are_refused() {
    let db = TestDatabase::new().await;
    for url in [
        "http://app.example.com/hooks",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.1.2.3/",
        "https://2130706433/",
        "https://100.64.0.1/",
        "https://me:secret@app.example.com/",
        "https://app.example.com/#x",
        "file:///etc/passwd",
    ] {
        let arguments = ["events", "endpoints", "create", "--url", url];
        let ran = run_beside(program_on(&db, &arguments)).await;
        assert_eq!(ran.status, 2, "{url}: {}", ran.stderr);
    }
    assert_eq!(db.count("outbound_endpoints").await, 0);
    let mut allowed = program_on(
        &db,
        &[
            "events",
            "endpoints",
            "create",
            "--url",
            "https://10.1.2.3/",
        ],
    );
    allowed.env("EVENTS_ALLOWED_NETWORKS", "10.1.0.0/16, 192.168.0.0/24");
    let ran = run_beside(allowed).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let mut wrong = program_on(
        &db,
        &[
            "events",
            "endpoints",
            "create",
            "--url",
            "https://10.1.2.3/",
        ],
    );
    wrong.env("EVENTS_ALLOWED_NETWORKS", "ten");
    let ran = run_beside(wrong).await;
    assert_eq!(ran.status, 2);
    assert!(
        ran.stderr.contains("EVENTS_ALLOWED_NETWORKS"),
        "{}",
        ran.stderr
    );
}

/// A name says nothing until it is looked up, when it is called.
#[tokio::test]
async fn a_name_that_leads_to_this_host_is_not_called() {
    let service = TestService::start().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let port = receiver
        .url
        .rsplit_once(':')
        .unwrap()
        .1
        .split('/')
        .next()
        .unwrap();
    let url = format!("https://localhost:{port}/hooks");
    let made = events(
        &service.db,
        &["endpoints", "create", "--url", &url, "--json"],
    )
    .await;
    let id = made.json()["id"].as_str().unwrap().to_owned();
    service.organization("Acme").await;
    until_count(&service, "outbound_deliveries WHERE attempts = 1", 1).await;
    let error = "SELECT error_message FROM outbound_deliveries";
    let error = service.db.value(error).await;
    assert!(error.contains("is not a public address"), "{error}");
    let arguments = ["events", "endpoints", "test", &id, "--json"];
    let tested = run_beside(program_on(&service.db, &arguments)).await;
    assert_eq!(tested.status, 1);
    assert!(
        tested.json()["error"]
            .as_str()
            .unwrap()
            .contains("is not a public address")
    );
    assert!(receiver.all().is_empty());
}

#[tokio::test]
async fn an_endpoint_gets_the_types_and_the_organization_that_it_asked_for() {
    let service = service().await;
    let (all, plans, one) = (
        Receiver::start(Reply::Status(200)).await,
        Receiver::start(Reply::Status(200)).await,
        Receiver::start(Reply::Status(200)).await,
    );
    let acme = service.organization("Acme").await;
    endpoint(&service.db, &all, &[]).await;
    endpoint(&service.db, &plans, &["--type", "plan.changed"]).await;
    endpoint(&service.db, &one, &["--organization", &acme.to_string()]).await;
    let beta = service.organization("Beta").await;
    change(&service, beta, 4).await;
    change(&service, acme, 9).await;
    until_count(&service, "outbound_changes", 0).await;
    until_count(&service, "outbound_deliveries WHERE status = 'pending'", 0).await;
    assert!(plans.all().is_empty(), "no plan has changed");
    assert!(!one.all().is_empty());
    for taken in one.all() {
        assert_eq!(taken.event()["subject"], json!(acme));
    }
    let subjects: Vec<Value> = all
        .all()
        .iter()
        .map(|taken| taken.event()["subject"].clone())
        .collect();
    assert!(subjects.contains(&json!(acme)) && subjects.contains(&json!(beta)));
    let wrong = events(
        &service.db,
        &[
            "endpoints",
            "create",
            "--url",
            &all.url,
            "--type",
            "plan.lost",
        ],
    )
    .await;
    assert_eq!(wrong.status, 2);
    assert!(wrong.stderr.contains("events types"), "{}", wrong.stderr);
}

#[tokio::test]
async fn while_a_secret_is_rotated_both_verify() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let (id, former) = endpoint(&service.db, &receiver, &[]).await;
    let rotated = events(&service.db, &["endpoints", "rotate", &id, "--json"])
        .await
        .json();
    let new = rotated["secret"].as_str().unwrap().to_owned();
    assert_ne!(former, new);
    let tested = events(&service.db, &["endpoints", "test", &id, "--json"]).await;
    assert_eq!(tested.json()["delivered"], true, "{}", tested.stderr);
    let taken = receiver.of_type("endpoint.test").await;
    assert_eq!(taken.header("webhook-signature").split(' ').count(), 2);
    let verifies = |secret: &str, taken: &super::receiver::Taken| {
        LANGUAGES.map(|language| {
            let headers: serde_json::Map<_, _> = taken
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())))
                .collect();
            let request = json!({"action": "receive", "secret": secret, "headers": headers, "body": taken.body});
            ask(language, "usage", &request).is_ok()
        })
    };
    assert_eq!(verifies(&former, &taken), [true, true]);
    assert_eq!(verifies(&new, &taken), [true, true]);
    // Its time is over.
    service
        .db
        .execute("UPDATE outbound_endpoints SET previous_secret_until = now() - interval '1 s'")
        .await;
    service.organization("Acme").await;
    let taken = receiver.of_type("organization.state_changed").await;
    assert_eq!(verifies(&former, &taken), [false, false]);
    assert_eq!(verifies(&new, &taken), [true, true]);
}

#[tokio::test]
async fn without_an_endpoint_nothing_is_written() {
    let service = service().await;
    let organization = service.organization("Acme").await;
    change(&service, organization, 4).await;
    until_count(&service, "outbound_changes", 0).await;
    assert_eq!(service.db.count("outbound_events").await, 0);
    let receiver = Receiver::start(Reply::Status(200)).await;
    endpoint(&service.db, &receiver, &[]).await;
    change(&service, organization, 5).await;
    receiver.count(1).await;
    // What was before is not told of.
    assert_eq!(
        service
            .db
            .value("SELECT min(sequence)::text FROM outbound_events")
            .await,
        "1"
    );
    assert_eq!(receiver.all()[0].event()["data"]["features"]["projects"], 5);
}

#[tokio::test]
async fn an_erased_organization_is_not_named_any_more() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(500)).await;
    endpoint(&service.db, &receiver, &[]).await;
    let ran = run_beside(program_on(
        &service.db,
        &[
            "organizations",
            "create",
            "--name",
            "Erika Mustermann",
            "--external-id",
            "erika",
            "--json",
        ],
    ))
    .await;
    let organization = ran.json()["id"].as_str().unwrap().to_owned();
    until_count(
        &service,
        "outbound_events WHERE body::text LIKE '%Erika Mustermann%'",
        1,
    )
    .await;
    let erase = ["organizations", "erase", &organization, "--yes"];
    let ran = run_beside(program_on(&service.db, &erase)).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    until_count(&service, "outbound_changes", 0).await;
    until_count(&service, "outbound_events", 2).await;
    let named = "outbound_events WHERE body::text ILIKE '%erika%'";
    assert_eq!(service.db.count(named).await, 0);
    let newest = "SELECT body->>'subject' FROM outbound_events ORDER BY sequence DESC LIMIT 1";
    assert_eq!(service.db.value(newest).await, organization);
}
