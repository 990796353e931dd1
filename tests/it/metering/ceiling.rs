//! The ceiling of grace, where the catalogue has one.

use futures_util::future::join_all;
use serde_json::{Value, json};
use valuecanvas_billing::catalogue::Catalogue;
use valuecanvas_billing::metering::quotas;

use super::gateway::{PLANS, Upstream, settled};
use super::tenant::{EVENTS, Tenant};
use crate::support::TestService;
use crate::support::service::Options;

/// The free plan with four calls and twice and a half as many in grace, and
/// with executions that end at five.
fn plans(more: &str) -> tempfile::NamedTempFile {
    let plans = PLANS
        .replacen(
            "api_calls = { quota = 1_000, over_limit = \"grace\" }",
            "api_calls = { quota = 4, over_limit = \"grace\", grace_max = \"250%\" }",
            1,
        )
        .replacen(
            "agent_executions = { quota = 100, over_limit = \"grace\" }",
            "agent_executions = { quota = 3, over_limit = \"grace\", grace_max = 5 }",
            1,
        )
        .replacen(
            "llm_tokens = { aggregation = \"sum\"",
            "llm_tokens = { aggregation = \"sum\", grace_max = \"20000.5\"",
            1,
        );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{plans}\n{more}")).unwrap();
    file
}

/// Whoever was made under the shipped catalogue follows this one.
async fn tenant(service: &TestService, file: &tempfile::NamedTempFile, name: &str) -> Tenant {
    let tenant = Tenant::of(service, name).await;
    let catalogue = Catalogue::load(Some(file.path())).unwrap();
    let pool = service.db.service_pool();
    quotas::apply_catalogue(&pool, &catalogue).await.unwrap();
    tenant
}

fn options(file: &tempfile::NamedTempFile) -> Options {
    Options {
        plans_file: Some(file.path().to_owned()),
        ..Options::default()
    }
}

#[tokio::test]
async fn grace_admits_no_more_than_its_ceiling_over_replicas() {
    let file = plans("");
    let first = TestService::with(options(&file)).await;
    let second = TestService::beside_with(&first, options(&file)).await;
    let tenant = tenant(&first, &file, "Crowded").await;
    let replicas = [&first, &second];
    let calls = (0..80).map(|n| tenant.consume(replicas[n % 2], "api_calls", 1));
    let (mut admitted, mut refused) = (0, 0);
    for answer in join_all(calls).await {
        match answer.problem() {
            (200, _) => admitted += 1,
            (402, "QUOTA_EXCEEDED") => refused += 1,
            other => panic!("{other:?}: {answer:?}"),
        }
    }
    assert_eq!((admitted, refused), (10, 70));
    assert_eq!(tenant.total(&first, "api_calls").await, "10");
    assert_eq!(first.db.count("grace_periods").await, 1);
    let denied = tenant.consume(&first, "api_calls", 1).await;
    let grace = &denied.body["gracePeriod"];
    assert!(grace["expiresAt"].is_string(), "{denied:?}");
    for (name, value) in [
        ("allowed", json!(false)),
        ("metric", json!("api_calls")),
        ("usage", json!(10)),
        ("quota", json!(4)),
        ("limit", json!(4)),
        ("graceMax", json!(10)),
        ("gracePeriodExpired", json!(false)),
    ] {
        assert_eq!(denied.body[name], value, "{name}");
    }
    let series = "quota_decisions_total{outcome=\"grace_exhausted\",metric=\"api_calls\"}";
    assert!(first.metric(series).await.is_some_and(|count| count > 0));
}

#[tokio::test]
async fn one_use_may_be_too_large_for_grace_and_a_smaller_one_not() {
    let file = plans("");
    let service = TestService::with(options(&file)).await;
    let tenant = tenant(&service, &file, "Huge").await;
    let huge = tenant
        .consume(&service, "llm_tokens", 1_000_000_000_000_000)
        .await;
    assert_eq!(huge.problem(), (402, "QUOTA_EXCEEDED"));
    assert_eq!(huge.body["gracePeriod"], Value::Null);
    assert_eq!(service.db.count("grace_periods").await, 0);
    let fits = tenant.consume(&service, "llm_tokens", 20_000).await;
    assert_eq!(fits.header("x-quota-warning"), "true");
    assert_eq!(fits.ok()["graceMax"], 20_000.5);
    // What has happened is counted all the same, and nothing beside it.
    let event = json!({"id": "a", "metric": "llm_tokens", "quantity": 5_000});
    tenant.post(&service, EVENTS, &event).await.ok();
    let over = tenant.consume(&service, "llm_tokens", 0).await;
    assert_eq!(over.problem(), (402, "QUOTA_EXCEEDED"));
    assert_eq!(tenant.total(&service, "llm_tokens").await, "25000");
    // A percentage is one of the quota in force, a number stays.
    tenant.set_quota(&service, "api_calls", "8", None).await;
    tenant.consume(&service, "api_calls", 20).await.ok();
    let over = tenant.consume(&service, "api_calls", 1).await;
    assert_eq!(over.problem(), (402, "QUOTA_EXCEEDED"));
    tenant
        .set_quota(&service, "llm_tokens", "30000", None)
        .await;
    tenant.consume(&service, "llm_tokens", 5_000).await.ok();
    let over = tenant.consume(&service, "llm_tokens", 1).await;
    assert_eq!(over.problem(), (402, "QUOTA_EXCEEDED"));
}

#[tokio::test]
async fn calls_in_front_of_the_product_end_at_the_ceiling() {
    let upstream = Upstream::start().await;
    let file = plans(&format!(
        "[[enforcement.routes]]\npath = \"/tools/run\"\nmetric = \"api_calls\"\n\
         amount = \"2.5\"\nupstream = \"{}/base\"\n",
        upstream.url
    ));
    let service = TestService::with(options(&file)).await;
    let tenant = tenant(&service, &file, "Calling").await;
    let body = json!({});
    let calls = (0..9).map(|_| tenant.post(&service, "/tools/run", &body));
    let answers = join_all(calls).await;
    let passed = answers.iter().filter(|answer| answer.status == 200);
    assert_eq!(passed.count(), 4, "{answers:?}");
    assert_eq!(settled(&service, &tenant, "api_calls").await, "10");
    for n in 1..=6 {
        let answer = tenant.execute(&service).await;
        let expected = if n <= 5 { 200 } else { 402 };
        assert_eq!(answer.status, expected, "{n}: {answer:?}");
    }
    let asked = tenant
        .get(&service, "/api/enforce?metric=agent_executions")
        .await;
    assert_eq!(asked.problem(), (402, "QUOTA_EXCEEDED"));
}

#[tokio::test]
async fn who_reads_the_plans_sees_the_ceiling() {
    let file = plans("");
    let service = TestService::with(options(&file)).await;
    let tenant = tenant(&service, &file, "Reading").await;
    let plans = tenant.get(&service, "/api/billing/plans").await.ok();
    let most = |plan: usize, metric: &str| {
        let quotas = plans["data"][plan]["quotas"].as_array().unwrap();
        let quota = quotas.iter().find(|quota| quota["metric"] == metric);
        quota.unwrap().get("graceMax").cloned()
    };
    assert_eq!(most(0, "api_calls"), Some(json!(10)));
    assert_eq!(most(0, "agent_executions"), Some(json!(5)));
    assert_eq!(most(0, "llm_tokens"), Some(json!(20_000.5)));
    assert_eq!(most(0, "user_seats"), None);
    assert_eq!(most(1, "llm_tokens"), None);
    let usage = tenant.usage(&service, "api_calls").await;
    assert_eq!(usage["graceMax"], 10);
}
