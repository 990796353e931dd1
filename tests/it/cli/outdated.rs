//! A schema that lacks migrations: nothing is processed, and nothing used up.

use std::sync::Arc;

use crate::support::program::{program_on, run};
use crate::support::serving::{Serving, serve_on};
use crate::support::{TestDatabase, TestService, events};

/// Before the columns that retries need.
const OLDER: &str = "20260101092000";

async fn rolled_back() -> Arc<TestDatabase> {
    let mut service = TestService::intake_only().await;
    service.db.organization("cus_1").await;
    let subscription = events::subscription("sub_1", "cus_1", "active", "standard");
    let event = events::event("evt_1", "customer.subscription.created", 100, subscription);
    service.deliver(&event).await;
    service.stop().await;
    let arguments = ["migrate", "rollback", "--to", OLDER, "--yes", "--force"];
    let undone = run(&mut program_on(&service.db, &arguments));
    assert_eq!(undone.status, 0, "{}", undone.stderr);
    service.db.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_commands_do_nothing_and_say_what_is_missing() {
    let db = rolled_back().await;
    for arguments in [
        &["webhooks", "retry"][..],
        &["grace-periods", "cleanup", "--older-than-days", "30"],
        &["retention", "run"],
        &["organizations", "create", "--name", "Acme"],
    ] {
        let refused = run(&mut program_on(&db, arguments));
        assert_eq!(refused.status, 1, "{arguments:?}: {}", refused.stderr);
        for said in [
            "20260101093000",
            "not applied; run `migrate up`",
            "nothing was done",
        ] {
            assert!(
                refused.stderr.contains(said),
                "{arguments:?}: {}",
                refused.stderr
            );
        }
    }
    assert_eq!(db.count("webhook_events WHERE NOT processed").await, 1);
    let up = run(&mut program_on(&db, &["migrate", "up"]));
    assert_eq!(up.status, 0, "{}", up.stderr);
    let retried = run(&mut program_on(&db, &["webhooks", "retry", "--json"]));
    assert_eq!(retried.json()["succeeded"], 1, "{}", retried.stderr);
    let untried = "webhook_events WHERE processed AND retry_count = 0 AND attempts = '[]'";
    assert_eq!(db.count(untried).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_wait_for_the_migrations_and_go_on_by_themselves() {
    let db = rolled_back().await;
    let serving = Serving::start(&mut serve_on(&db));
    while !serving.log().contains("not applied; run `migrate up`") {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(db.count("webhook_events WHERE NOT processed").await, 1);
    let up = run(&mut program_on(&db, &["migrate", "up"]));
    assert_eq!(up.status, 0, "{}", up.stderr);
    while db.count("webhook_events WHERE NOT processed").await > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(db.count("webhook_events WHERE retry_count > 0").await, 0);
    assert_eq!(
        db.value("SELECT plan_tier FROM organizations").await,
        "standard"
    );
    assert_eq!(serving.terminated().await.status, 0);
}
