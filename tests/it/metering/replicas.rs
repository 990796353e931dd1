//! Several replicas, one truth.

use futures_util::future::join_all;
use serde_json::json;
use valuecanvas_billing::catalogue::OverLimit;

use super::tenant::{CHECK, EVENTS, Tenant};
use crate::support::TestService;

/// `VCB_CONSUMERS` for a longer run.
fn consumers() -> usize {
    let given = std::env::var("VCB_CONSUMERS").ok();
    given.map_or(1_500, |text| {
        text.parse().expect("VCB_CONSUMERS is a number")
    })
}

async fn replicas(count: usize) -> Vec<TestService> {
    let first = TestService::start().await;
    let mut all = vec![first];
    for _ in 1..count {
        let next = TestService::beside(&all[0]).await;
        all.push(next);
    }
    all
}

#[tokio::test]
async fn a_hard_limit_holds_over_eight_replicas() {
    let replicas = replicas(8).await;
    let tenant = Tenant::of(&replicas[0], "Crowded").await;
    let limit = consumers() / 2;
    tenant
        .set_quota(
            &replicas[0],
            "api_calls",
            &limit.to_string(),
            Some(OverLimit::Hard),
        )
        .await;
    let calls = (0..consumers()).map(|n| tenant.consume(&replicas[n % 8], "api_calls", 1));
    let mut admitted = 0;
    for answers in join_in_parts(calls).await {
        match answers.status {
            200 => admitted += 1,
            402 => {}
            other => panic!("{other}: {:?}", answers.body),
        }
    }
    assert_eq!(admitted, limit);
    assert_eq!(
        tenant.total(&replicas[0], "api_calls").await,
        limit.to_string()
    );
    let events = replicas[0]
        .db
        .value("SELECT trim_scale(sum(quantity)) FROM usage_events")
        .await;
    assert_eq!(events, limit.to_string());
}

/// Two hundred at a time.
async fn join_in_parts<F: Future>(calls: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut calls = calls.peekable();
    let mut answers = Vec::new();
    while calls.peek().is_some() {
        let part: Vec<F> = calls.by_ref().take(200).collect();
        answers.extend(join_all(part).await);
    }
    answers
}

#[tokio::test]
async fn a_thousand_crossings_start_one_grace_period() {
    let replicas = replicas(3).await;
    let tenant = Tenant::of(&replicas[0], "Crossing").await;
    tenant.set_quota(&replicas[0], "api_calls", "0", None).await;
    let calls = (0..1_000).map(|n| tenant.consume(&replicas[n % 3], "api_calls", 1));
    for answer in join_in_parts(calls).await {
        assert_eq!(answer.header("x-quota-warning"), "true");
        answer.ok();
    }
    assert_eq!(replicas[0].db.count("grace_periods").await, 1);
    let started = "billing_audit_log WHERE action = 'grace_period_started'";
    assert_eq!(replicas[0].db.count(started).await, 1);
}

#[tokio::test]
async fn one_id_counts_once_wherever_it_arrives() {
    let replicas = replicas(4).await;
    let tenant = Tenant::of(&replicas[0], "Repeating").await;
    let sent = (0..400).map(|n| {
        let body = json!({"id": format!("e{}", n % 20), "metric": "api_calls", "quantity": 1});
        let (replica, tenant) = (&replicas[n % 4], &tenant);
        async move { tenant.post(replica, EVENTS, &body).await.ok() }
    });
    let answers = join_in_parts(sent).await;
    let recorded = answers.iter().filter(|a| a["status"] == "recorded").count();
    assert_eq!(recorded, 20);
    // The same ids for two metrics: each goes to the first.
    let torn = (0..200).map(|n| {
        let metric = if n % 2 == 0 { "api_calls" } else { "llm_tokens" };
        let body = json!({"id": format!("t{}", n / 2 % 10), "metric": metric, "quantity": 1, "consume": true});
        let (replica, tenant) = (&replicas[n % 4], &tenant);
        async move { tenant.post(replica, CHECK, &body).await }
    });
    for answer in join_in_parts(torn).await {
        assert!(
            matches!(answer.problem(), (200, _) | (409, "event_id_reused")),
            "{answer:?}"
        );
    }
    let sums = "SELECT count(*) FROM usage_totals t WHERE total <> (SELECT sum(quantity) FROM usage_events e
                 WHERE e.organization_id = t.organization_id AND e.metric = t.metric)";
    assert_eq!(replicas[0].db.value(sums).await, "0");
    assert_eq!(replicas[0].db.count("usage_events").await, 30);
}
