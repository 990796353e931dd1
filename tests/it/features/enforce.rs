//! `/api/enforce?feature=`: what a proxy lets pass.

use reqwest::Method;
use serde_json::json;
use valuecanvas_billing::catalogue::OverLimit;
use valuecanvas_billing::config::UsageConfig;
use valuecanvas_billing::features::SetFeature;

use super::{override_of, set};
use crate::metering::tenant::{Answer, Tenant};
use crate::support::TestService;
use crate::support::service::Options;

async fn open(trust_headers: bool) -> (TestService, Tenant) {
    let service = TestService::with(Options {
        usage: UsageConfig {
            trust_headers,
            ..UsageConfig::default()
        },
        ..Options::default()
    })
    .await;
    let tenant = Tenant::of(&service, "Featured").await;
    (service, tenant)
}

async fn give(service: &TestService, tenant: &Tenant, feature: &str, value: &str) {
    let command = override_of(tenant.organization, feature, value);
    set(&service.db.service_pool(), &command).await.unwrap();
}

async fn count(service: &TestService, feature: &str, outcome: &str) -> i64 {
    let series = format!("feature_checks_total{{feature=\"{feature}\",outcome=\"{outcome}\"}}");
    service.metric(&series).await.unwrap()
}

#[tokio::test]
async fn a_feature_that_is_on_lets_a_call_pass_with_its_value() {
    let (service, tenant) = open(false).await;
    for (feature, value) in [("projects", "3"), ("support", "community")] {
        let path = format!("/api/enforce?feature={feature}");
        let answer = tenant.get(&service, &path).await;
        assert_eq!((answer.status, answer.header("x-feature")), (200, value));
        assert_eq!(answer.body["feature"], feature);
        assert_eq!(answer.header("x-quota-usage"), "");
    }
    let off = tenant.get(&service, "/api/enforce?feature=sso").await;
    assert_eq!(off.problem(), (403, "feature_not_included"));
    assert_eq!(off.header("x-feature"), "");
    give(&service, &tenant, "sso", "true").await;
    let on = tenant.get(&service, "/api/enforce?feature=sso").await;
    assert_eq!((on.status, on.header("x-feature")), (200, "true"));
    assert_eq!(
        on.body,
        json!({"allowed": true, "feature": "sso", "value": true})
    );
    for (feature, value) in [("sso", "false"), ("projects", "0"), ("support", "")] {
        give(&service, &tenant, feature, value).await;
        let path = format!("/api/enforce/tools/x?feature={feature}");
        let answer = tenant.get(&service, &path).await;
        assert_eq!(answer.problem(), (403, "feature_not_included"), "{feature}");
    }
    assert_eq!(count(&service, "sso", "included").await, 1);
    assert_eq!(count(&service, "sso", "not_included").await, 2);
    assert_eq!(count(&service, "projects", "included").await, 1);
    assert_eq!(service.db.count("usage_events").await, 0);
}

#[tokio::test]
async fn an_unknown_feature_is_false_and_counted() {
    let (service, tenant) = open(false).await;
    for path in [
        "/api/enforce?feature=time_travel",
        "/api/enforce?feature=",
        "/api/enforce?feature=%00%ff&metric=api_calls",
    ] {
        let answer = tenant.get(&service, path).await;
        assert_eq!(answer.problem(), (403, "feature_not_included"), "{path}");
    }
    assert_eq!(
        service.metric("feature_checks_unknown_total").await,
        Some(3)
    );
    let metrics = service
        .get("/metrics")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(!metrics.contains("time_travel"));
    assert_eq!(service.db.count("usage_events").await, 0);
}

#[tokio::test]
async fn with_a_metric_both_must_hold() {
    let (service, tenant) = open(false).await;
    tenant
        .set_quota(&service, "api_calls", "2", Some(OverLimit::Hard))
        .await;
    let both = "/api/enforce?feature=sso&metric=api_calls&amount=2";
    let without = tenant.get(&service, both).await;
    assert_eq!(without.problem(), (403, "feature_not_included"));
    // Nothing was counted, and no decision about the quota was one.
    assert_eq!(service.db.count("usage_events").await, 0);
    let undecided = "quota_decisions_total{outcome=\"undecided\",metric=\"api_calls\"}";
    assert_eq!(service.metric(undecided).await, Some(0));
    give(&service, &tenant, "sso", "true").await;
    let allowed = tenant.get(&service, both).await;
    assert_eq!(
        (
            allowed.status,
            allowed.header("x-feature"),
            allowed.header("x-quota-usage")
        ),
        (200, "true", "2")
    );
    assert_eq!(allowed.body["metric"], "api_calls");
    let over = tenant.get(&service, both).await;
    assert_eq!(over.problem(), (402, "QUOTA_EXCEEDED"));
    assert_eq!(
        (over.header("x-feature"), over.header("x-quota-usage")),
        ("", "2")
    );
    let unknown = tenant
        .get(&service, "/api/enforce?feature=sso&metric=nothing")
        .await;
    assert_eq!(unknown.problem(), (400, "unknown_metric"));
    let level = tenant
        .get(
            &service,
            "/api/enforce?feature=support&metric=llm_tokens&id=a",
        )
        .await;
    assert_eq!(
        (level.status, level.header("x-feature")),
        (200, "community")
    );
    let again = tenant
        .get(
            &service,
            "/api/enforce?feature=support&metric=llm_tokens&id=a",
        )
        .await;
    assert_eq!(again.header("x-quota-duplicate"), "true");
    assert_eq!(again.header("x-feature"), "community");
}

#[tokio::test]
async fn an_override_that_ended_lets_nothing_pass() {
    let (service, tenant) = open(false).await;
    let command = SetFeature {
        expires_at: Some(jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)),
        ..override_of(tenant.organization, "sso", "true")
    };
    set(&service.db.service_pool(), &command).await.unwrap();
    let targets = [
        "/api/enforce?feature=sso",
        "/api/enforce?feature=sso&metric=api_calls",
    ];
    for target in targets {
        assert_eq!(tenant.get(&service, target).await.status, 200, "{target}");
    }
    let end = "UPDATE feature_overrides SET expires_at = now() - interval '1 ms'";
    service.db.execute(end).await;
    for target in targets {
        let answer = tenant.get(&service, target).await;
        assert_eq!(answer.problem(), (403, "feature_not_included"), "{target}");
    }
}

#[tokio::test]
async fn each_of_many_at_once_has_its_own_answer() {
    let (service, featured) = open(false).await;
    let bare = Tenant::of(&service, "Bare").await;
    give(&service, &featured, "sso", "true").await;
    let ask = async |tenant: &Tenant, target: &str| tenant.get(&service, target).await.status;
    let ask = &ask;
    let asked = (0..64).map(|n| {
        let tenant = if n % 2 == 0 { &featured } else { &bare };
        let target = match n % 6 {
            0 | 1 => "/api/enforce?feature=sso",
            2 | 3 => "/api/enforce?feature=sso&metric=api_calls",
            _ => "/api/enforce?metric=api_calls",
        };
        let expected = if n % 2 == 1 && n % 6 < 4 { 403 } else { 200 };
        async move { (ask(tenant, target).await, expected) }
    });
    for (status, expected) in futures_util::future::join_all(asked).await {
        assert_eq!(status, expected);
    }
    let counted = |tenant: &Tenant| {
        let of = format!(
            "usage_events WHERE organization_id = '{}'",
            tenant.organization
        );
        let db = service.db.clone();
        async move { db.count(&of).await }
    };
    assert_eq!((counted(&featured).await, counted(&bare).await), (21, 10));
}

#[tokio::test]
async fn the_header_counts_where_the_operator_trusts_the_proxy() {
    for (trust, code) in [(false, "metric_missing"), (true, "feature_not_included")] {
        let (service, tenant) = open(trust).await;
        for target in ["/api/enforce", "/api/enforce/tools/x?feature=projects"] {
            let url = format!("{}{target}", service.base);
            let request = service.client.request(Method::POST, url);
            let request = request
                .bearer_auth(&tenant.key)
                .header("x-quota-feature", "sso");
            let answer = Answer::of(request.send().await.unwrap()).await;
            if !trust && target.contains("feature=") {
                assert_eq!(answer.status, 200);
            } else {
                assert_eq!(answer.problem().1, code, "{target}");
            }
        }
    }
}

#[tokio::test]
async fn without_the_database_no_feature_is_on() {
    let (service, tenant) = open(false).await;
    // Nobody may read features any more.
    service
        .db
        .execute("REVOKE SELECT ON organization_features FROM billing_worker")
        .await;
    for target in [
        "/api/enforce?feature=projects",
        "/api/enforce?feature=projects&metric=api_calls",
    ] {
        let answer = tenant.get(&service, target).await;
        assert!(answer.status >= 500, "{target}: {answer:?}");
    }
}
