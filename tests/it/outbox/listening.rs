//! `events listen` delivers to a developer's machine while it runs.

use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::receiver::{Receiver, Reply, change, endpoint, service, until_count};
use crate::support::TestService;
use crate::support::program::program_on;

fn listen(service: &TestService, receiver: &Receiver, more: &[&str]) -> Child {
    let mut arguments = vec!["events", "listen", "--forward-to", &receiver.url, "--json"];
    arguments.extend(more);
    let mut command = program_on(&service.db, &arguments);
    command
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

#[tokio::test]
async fn events_are_forwarded_until_it_is_told_to_stop() {
    // An endpoint on this host needs no setting here: whoever runs the command chose it.
    let service = TestService::start().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let organization = service.organization("Acme").await;
    let listening = listen(
        &service,
        &receiver,
        &["--type", "organization.state_changed"],
    );
    until_count(&service, "outbound_endpoints WHERE source = 'listen'", 1).await;
    change(&service, organization, 8).await;
    let taken = receiver.count(1).await.remove(0);
    assert_eq!(taken.event()["data"]["features"]["projects"], 8);
    until_count(
        &service,
        "outbound_deliveries WHERE status = 'delivered'",
        1,
    )
    .await;
    kill_process(Pid::from_child(&listening), Signal::INT).unwrap();
    let output = tokio::task::spawn_blocking(move || listening.wait_with_output().unwrap());
    let output = output.await.unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        lines[0]["listening"]["secret"]
            .as_str()
            .unwrap()
            .starts_with("whsec_")
    );
    assert_eq!(lines[1]["responseStatus"], json!(200));
    assert_eq!(lines[1]["event"]["id"], taken.header("webhook-id"));
    assert_eq!(service.db.count("outbound_endpoints").await, 0);
    assert_eq!(service.db.count("outbound_deliveries").await, 0);
}

#[tokio::test]
async fn killed_it_leaves_nothing_once_its_lease_is_over() {
    let service = service().await;
    let (kept, receiver) = (
        Receiver::start(Reply::Status(200)).await,
        Receiver::start(Reply::Status(200)).await,
    );
    endpoint(&service.db, &kept, &[]).await;
    let mut listening = listen(&service, &receiver, &[]);
    until_count(&service, "outbound_endpoints WHERE source = 'listen'", 1).await;
    listening.kill().unwrap();
    listening.wait().unwrap();
    service
        .db
        .execute("UPDATE outbound_endpoints SET lease_expires_at = now() - interval '1 s' WHERE source = 'listen'")
        .await;
    until_count(&service, "outbound_endpoints", 1).await;
    service.organization("Acme").await;
    kept.count(1).await;
}
