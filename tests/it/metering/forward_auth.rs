//! `/api/enforce`: proxies that ask first, as they ask.

use reqwest::Method;
use valuecanvas_billing::catalogue::OverLimit;
use valuecanvas_billing::config::{SurfaceConfig, UsageConfig};

use super::tenant::{Answer, Tenant};
use crate::support::TestService;
use crate::support::service::Options;

async fn trusting(trust_headers: bool) -> (TestService, Tenant) {
    let service = TestService::with(Options {
        usage: UsageConfig {
            trust_headers,
            ..UsageConfig::default()
        },
        ..Options::default()
    })
    .await;
    let tenant = Tenant::of(&service, "Proxied").await;
    (service, tenant)
}

/// A question, with the headers of the proxy's client.
async fn ask(
    service: &TestService,
    tenant: &Tenant,
    method: Method,
    target: &str,
    headers: &[(&'static str, &str)],
) -> Answer {
    let url = format!("{}{target}", service.base);
    let mut request = service.client.request(method, url).bearer_auth(&tenant.key);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn a_proxy_asks_by_its_query() {
    let (service, tenant) = trusting(false).await;
    let target = "/api/enforce?metric=api_calls&amount=2";
    let by_query = tenant.get(&service, target).await;
    assert_eq!(
        (by_query.status, by_query.header("x-quota-usage")),
        (200, "2")
    );
    let asked = tenant
        .get(&service, "/api/enforce?metric=api_calls&consume=false")
        .await;
    assert_eq!(asked.header("x-quota-usage"), "2");
    for (query, code) in [
        ("", "metric_missing"),
        ("?metric=nothing", "unknown_metric"),
        ("?metric=api_calls&amount=-1", "invalid_quantity"),
        ("?metric=api_calls&amount=0", "invalid_quantity"),
        ("?metric=api_calls&amount=0.0000", "invalid_quantity"),
        ("?metric=api_calls&amount=1&amount=0", "invalid_query"),
        ("?metric=api_calls&organization=x", "unknown_field"),
    ] {
        for path in ["/api/enforce", "/api/enforce/", "/api/enforce/tools/x"] {
            let answer = tenant.get(&service, &format!("{path}{query}")).await;
            assert_eq!(answer.problem(), (400, code), "{path}{query}");
        }
    }
    tenant
        .set_quota(&service, "api_calls", "0", Some(OverLimit::Hard))
        .await;
    let over = tenant.get(&service, "/api/enforce?metric=api_calls").await;
    assert_eq!(over.problem(), (402, "QUOTA_EXCEEDED"));
}

#[tokio::test]
async fn any_method_and_any_path_below_are_answered_alike() {
    let (service, tenant) = trusting(false).await;
    let mut asked = 0;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"] {
        for path in [
            "",
            "/",
            "/tools/x",
            "//a",
            "/%ff",
            "/a%2F..%5cb",
            "/api/enforce",
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let target = format!("/api/enforce{path}?metric=api_calls&amount=1");
            let answer = ask(&service, &tenant, method.clone(), &target, &[]).await;
            asked += 1;
            let usage = asked.to_string();
            assert_eq!(
                (answer.status, answer.header("x-quota-usage")),
                (200, usage.as_str()),
                "{method} {target}"
            );
        }
    }
    let head = ask(
        &service,
        &tenant,
        Method::HEAD,
        "/api/enforce/x?metric=api_calls",
        &[],
    )
    .await;
    assert_eq!(head.header("x-quota-usage"), (asked + 1).to_string());
    let anonymous = service.post("/api/enforce/x?metric=api_calls").send().await;
    assert_eq!(anonymous.unwrap().status(), 401);
}

#[tokio::test]
async fn a_clients_headers_are_not_believed() {
    let (service, tenant) = trusting(false).await;
    let target = "/api/enforce?metric=api_calls";
    for (n, headers) in (1..).zip([
        [("x-quota-amount", "0"), ("accept", "text/html")],
        [
            ("x-quota-amount", "0.0001"),
            ("x-quota-metric", "llm_tokens"),
        ],
        // One answer for all of its calls, if it were taken for ours.
        [("idempotency-key", "always"), ("x-quota-amount", "100000")],
        [("idempotency-key", "always"), ("x-quota-amount", "100000")],
    ]) {
        let answer = ask(&service, &tenant, Method::POST, target, &headers).await;
        let usage = n.to_string();
        assert_eq!(
            (answer.status, answer.header("x-quota-usage")),
            (200, usage.as_str()),
            "{headers:?}"
        );
    }
    let by_header = [("x-quota-metric", "api_calls"), ("x-quota-amount", "1")];
    for target in ["/api/enforce", "/api/enforce/tools/x"] {
        let answer = ask(&service, &tenant, Method::POST, target, &by_header).await;
        assert_eq!(answer.problem(), (400, "metric_missing"), "{target}");
    }
    let named = [("x-organization", "another")];
    let answer = ask(&service, &tenant, Method::GET, target, &named).await;
    assert_eq!(answer.problem(), (400, "organization_not_selectable"));
}

const TRAEFIK: &str = include_str!("../../../docs/examples/traefik.yaml");
const ENVOY: &str = include_str!("../../../docs/examples/envoy.yaml");

/// What a client of a proxy might send, should the proxy hand it on.
const CLIENTS: [(&str, &str); 6] = [
    ("x-quota-metric", "llm_tokens"),
    ("x-quota-amount", "0"),
    ("idempotency-key", "always"),
    ("accept", "text/html"),
    ("x-forwarded-uri", "/tools/x?amount=0"),
    ("x-forwarded-method", "DELETE"),
];

/// The text in quotes after `name` in an example.
fn setting<'a>(example: &'a str, name: &str) -> &'a str {
    let (_, after) = example.split_once(name).expect("the example has it");
    after.split('"').nth(1).expect("in quotes")
}

#[tokio::test]
async fn traefik_asks_at_the_address_of_the_example() {
    let (service, tenant) = trusting(false).await;
    let address = setting(TRAEFIK, "address:");
    let target = address.strip_prefix("http://127.0.0.1:8080").unwrap();
    tenant
        .set_quota(&service, "api_calls", "2", Some(OverLimit::Hard))
        .await;
    for (status, usage) in [(200, "1"), (200, "2"), (402, "2"), (402, "2")] {
        let answer = ask(&service, &tenant, Method::GET, target, &CLIENTS).await;
        let usage = (status, usage);
        assert_eq!((answer.status, answer.header("x-quota-usage")), usage);
    }
}

#[tokio::test]
async fn envoys_clients_add_nothing_to_its_question() {
    // Envoy puts the prefix before the path and query of the call.
    let (service, tenant) = trusting(false).await;
    let prefix = setting(ENVOY, "path_prefix:");
    for (n, client) in (1..).zip([
        "/tools/x",
        "/tools/x?amount=0&consume=false&id=1",
        "/tools/x?&metric=llm_tokens",
        "/tools/x?id=1#a",
        "/tools/x?%",
    ]) {
        let target = format!("{prefix}{client}");
        let answer = ask(&service, &tenant, Method::POST, &target, &CLIENTS).await;
        let usage = n.to_string();
        assert_eq!(
            (answer.status, answer.header("x-quota-usage")),
            (200, usage.as_str()),
            "{client}"
        );
    }
}

#[tokio::test]
async fn headers_decide_where_the_operator_says_that_the_proxy_sets_them() {
    let (service, tenant) = trusting(true).await;
    let set = [("x-quota-metric", "api_calls"), ("x-quota-amount", "2.5")];
    let target = "/api/enforce/tools/x?amount=0.1&consume=false&metric=llm_tokens&q=1";
    let answer = ask(&service, &tenant, Method::POST, target, &set).await;
    assert_eq!(
        (answer.status, answer.header("x-quota-usage")),
        (200, "2.5")
    );
    let bare = ask(&service, &tenant, Method::GET, "/api/enforce", &set).await;
    assert_eq!(bare.header("x-quota-usage"), "5");
    // What the proxy's address says comes before what headers say.
    let target = "/api/enforce?metric=api_calls&amount=1";
    let pinned = ask(&service, &tenant, Method::GET, target, &set).await;
    assert_eq!(pinned.header("x-quota-usage"), "6");
    for amount in ["0", "0.0", "-1", "x"] {
        let set = [("x-quota-metric", "api_calls"), ("x-quota-amount", amount)];
        let answer = ask(&service, &tenant, Method::GET, "/api/enforce", &set).await;
        assert_eq!(answer.problem(), (400, "invalid_quantity"), "{amount}");
    }
}

#[tokio::test]
async fn where_scripts_may_call_a_preflight_is_still_decided_about() {
    let surface = SurfaceConfig {
        cors_origins: vec!["https://app.example.com".parse().unwrap()],
        ..SurfaceConfig::default()
    };
    let service = TestService::with(Options {
        surface,
        ..Options::default()
    })
    .await;
    let tenant = Tenant::of(&service, "Preflight").await;
    let preflight = [
        ("origin", "https://app.example.com"),
        ("access-control-request-method", "GET"),
    ];
    for (n, path) in (1..).zip(["", "/", "/tools/x"]) {
        let target = format!("/api/enforce{path}?metric=api_calls");
        let answer = ask(&service, &tenant, Method::OPTIONS, &target, &preflight).await;
        assert_eq!(answer.header("x-quota-usage"), n.to_string(), "{target}");
    }
    let url = format!("{}/api/enforce/x", service.base);
    let anonymous = service.client.request(Method::OPTIONS, url).send().await;
    assert_eq!(anonymous.unwrap().status(), 401);
}
