//! `explain`: from an effect to its causes, as an operator asks.

use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::{Permission, Role};

use crate::metering::tenant::{EVENTS, Tenant};
use crate::subscriptions::world::{VISA, World};
use crate::support::events::{event, subscription};
use crate::support::program::{Ran, run_on};

/// A customer of the standard plan.
async fn subscriber() -> World {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    world
}

async fn asked(world: &World, arguments: &[&str]) -> Ran {
    run_on(
        &world.service.db,
        &[&["explain"], arguments, &["--json"]].concat(),
    )
    .await
}

async fn explained(world: &World, arguments: &[&str]) -> Value {
    let ran = asked(world, arguments).await;
    assert_eq!(ran.status, 0, "{arguments:?}: {}", ran.stderr);
    ran.json()
}

/// The sentences of one kind of cause.
fn sentences(explained: &Value, kind: &str) -> Vec<String> {
    let causes = explained["causes"].as_array().unwrap().iter();
    let causes = causes.filter(|cause| cause["kind"] == kind);
    causes
        .map(|cause| cause["sentence"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_use_that_is_billed_leads_to_rule_override_and_uses() {
    let world = subscriber().await;
    let organization = world.organization.to_string();
    let key = world
        .service
        .api_key(world.organization, &Permission::ALL)
        .await;
    let tenant = Tenant {
        organization: world.organization,
        key,
    };
    for (id, quantity) in [("a", "5000"), ("b", "100")] {
        let body = json!({"id": id, "metric": "agent_executions", "quantity": quantity});
        tenant.post(&world.service, EVENTS, &body).await.ok();
    }
    let question = [
        "--organization",
        &organization,
        "--metric",
        "agent_executions",
    ];
    let billed = explained(&world, &question).await;
    assert_eq!(
        billed["answer"],
        "5100 of 5000 agent_executions are used, so that nothing is left; more is let in, and billed."
    );
    assert_eq!(
        sentences(&billed, "rule"),
        [
            "By the plan standard (version 1), 5000 agent_executions are included, and over that it is overage at 0.1 USD a unit."
        ]
    );
    let uses = sentences(&billed, "usage");
    assert!(uses[0].contains("2 events came to 5100"), "{uses:?}");
    assert!(
        uses[1].starts_with("5000 of it is the use a at "),
        "{uses:?}"
    );
    assert!(
        uses.iter()
            .any(|one| one == "100 over the quota come to 10.00 USD so far.")
    );

    let set = [
        "quotas",
        "set",
        "--organization",
        &organization,
        "--metric",
        "agent_executions",
        "--limit",
        "5200",
        "--over-limit",
        "hard",
    ];
    assert_eq!(run_on(&world.service.db, &set).await.status, 0);
    let raised = explained(&world, &question).await;
    assert_eq!(
        raised["answer"],
        "5100 of 5200 agent_executions are used, so that 100 are left."
    );
    let overrides = sentences(&raised, "override");
    assert!(
        overrides[0].ends_with(": 5200, and over it is hard."),
        "{overrides:?}"
    );
    let entries = sentences(&raised, "audit_entry");
    assert!(entries[0].contains("quota_set"), "{entries:?}");

    // Before it was created, nothing was counted.
    let then = [&question[..], &["--at", "2020-01-01T00:00:00Z"]].concat();
    let before = explained(&world, &then).await;
    assert!(sentences(&before, "usage").is_empty(), "{before:#}");
}

#[tokio::test]
async fn a_plan_is_known_before_its_first_change_whatever_it_is_made_of_since() {
    let world = subscriber().await;
    let organization = world.organization.to_string();
    let db = &world.service.db;
    let first = "SELECT min(created_at) - interval '1 millisecond' FROM billing_audit_log
                  WHERE action = 'plan_changed'";
    // It was there for long before it subscribed.
    db.execute("UPDATE organizations SET created_at = '2020-06-01T00:00:00Z'")
        .await;
    let then = db
        .value(&format!(
            "SELECT to_char(({first}) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
        ))
        .await;
    let at = async |then: &str| {
        let arguments = ["--organization", &organization, "--at", then];
        let answer = explained(&world, &arguments).await["answer"].clone();
        answer.as_str().unwrap().to_owned()
    };
    let free = at(&then).await;
    assert!(
        free.contains("it had the plan free, as it was made with"),
        "{free}"
    );
    let early = at("2020-01-01T00:00:00Z").await;
    assert!(early.contains("there was no such organization"), "{early}");
}

#[tokio::test]
async fn a_plan_and_its_invoice_lead_to_subscription_price_and_payment() {
    let world = subscriber().await;
    let organization = world.organization.to_string();
    let plan = explained(&world, &["--organization", &organization]).await;
    let answer = plan["answer"].as_str().unwrap();
    assert!(answer.starts_with("It has the plan standard (version 1), since subscription sub_"));
    let counts = sentences(&plan, "subscription");
    assert!(counts[0].contains("counts: it is active and pays for the plan by the price"));
    assert!(counts[0].contains("of 99.00 USD"), "{counts:?}");

    let of = format!(
        "SELECT stripe_invoice_id FROM billing_invoices WHERE organization_id = '{organization}'"
    );
    let invoice = world.service.db.value(&of).await;
    let charged = explained(&world, &[&invoice]).await;
    let answer = charged["answer"].as_str().unwrap();
    assert!(
        answer.ends_with("comes to 99.00 USD, since a subscription began. It is paid."),
        "{answer}"
    );
    let lines = sentences(&charged, "line");
    let fee = lines.iter().find(|line| line.starts_with("99.00 USD"));
    assert!(
        fee.unwrap().contains("for 1 × standard, version 1"),
        "{lines:?}"
    );
    let payments = sentences(&charged, "payment");
    assert!(
        payments[0].ends_with("of 99.00 USD succeeded."),
        "{payments:?}"
    );
    assert!(!sentences(&charged, "audit_entry").is_empty());

    // In text, the answer comes first.
    let text = run_on(&world.service.db, &["explain", &invoice]).await;
    assert!(text.stdout.starts_with("Invoice "), "{}", text.stdout);
    assert!(
        text.stdout.contains("\n  - 99.00 USD for 1 × standard"),
        "{}",
        text.stdout
    );
}

#[tokio::test]
async fn an_event_that_changed_nothing_names_the_newer_one() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    for (id, at) in [("evt_newer", 1_767_225_700), ("evt_older", 1_767_225_600)] {
        let object = subscription("sub_1", &customer, "active", "standard");
        let updated = event(id, "customer.subscription.updated", at, object);
        world.service.deliver(&updated).await;
        world.service.settle().await;
    }
    let older = explained(&world, &["evt_older"]).await;
    let answer = older["answer"].as_str().unwrap();
    assert!(
        answer.contains("changed nothing: evt_newer of 2026-01-01T00:01:40Z"),
        "{answer}"
    );
    let newer = explained(&world, &["evt_newer"]).await;
    let answer = newer["answer"].as_str().unwrap();
    assert!(answer.contains("was applied to organization"), "{answer}");
    let entries = sentences(&newer, "audit_entry");
    assert!(
        entries[0].contains("by Stripe's event evt_newer"),
        "{entries:?}"
    );
}

#[tokio::test]
async fn what_is_not_there_is_said_with_what_is() {
    let world = World::start().await;
    let organization = world.organization.to_string();
    for (arguments, status, said) in [
        (&["evt_none"][..], 1, "webhooks backfill"),
        (&["in_none"], 1, "subscriptions reconcile --apply"),
        (
            &["cus_1"],
            2,
            "neither an event (evt_…) nor an invoice (in_…)",
        ),
        (&["--organization", "nobody"], 1, "organizations list"),
        (
            &["--organization", &organization, "--metric", "calls"],
            1,
            "agent_executions",
        ),
        (
            &["--organization", &organization, "--feature", "sso2"],
            1,
            "feature",
        ),
        (
            &[
                "--organization",
                &organization,
                "--at",
                "2999-01-01T00:00:00Z",
            ],
            1,
            "has not come",
        ),
        (&["--metric", "api_calls"], 2, "--organization"),
    ] {
        let ran = asked(&world, arguments).await;
        assert_eq!(ran.status, status, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn operators_ask_by_the_api_and_are_entered() {
    let world = subscriber().await;
    let operator = world.service.token(Uuid::nil(), Role::Operator).await;
    let organization = world.organization;
    let ask = async |query: &str| {
        let path = format!("/api/operator/explain?{query}");
        let asked = world.service.get(&path).bearer_auth(&operator).send();
        let answer = asked.await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap())
    };
    let query = format!("organizationId={organization}&metric=storage_gb");
    let (status, explained) = ask(&query).await;
    assert_eq!(status, 200, "{explained:#}");
    assert_eq!(explained["subject"], "storage_gb");
    for query in [
        "",
        "event=evt_1&invoice=in_1",
        "metric=api_calls",
        "feature=sso",
    ] {
        assert_eq!(ask(query).await.0, 422, "{query}");
    }
    assert_eq!(ask("event=evt_none").await.0, 404);
    let entries = "billing_audit_log WHERE action = 'explained' AND resource_id = 'storage_gb'";
    assert_eq!(world.service.db.count(entries).await, 1);
}
