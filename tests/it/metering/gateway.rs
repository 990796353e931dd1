//! Calls that are forwarded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use valuecanvas_billing::catalogue::OverLimit;
use valuecanvas_billing::config::UsageConfig;

use super::tenant::{Answer, EXECUTE, Tenant};
use crate::support::TestService;
use crate::support::service::Options;

/// A service of the product's, which answers as its path says.
pub struct Upstream {
    pub url: String,
    pub calls: Arc<AtomicUsize>,
}

impl Upstream {
    pub async fn start() -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let router = axum::Router::new()
            .fallback(answer)
            .with_state(calls.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper_util::service::TowerToHyperService::new(router.clone());
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service),
                );
            }
        });
        Self { url, calls }
    }
}

async fn answer(State(calls): State<Arc<AtomicUsize>>, request: Request) -> Response {
    calls.fetch_add(1, Ordering::SeqCst);
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if path.ends_with("/moved") {
        let to = [("location", "/secret"), ("set-cookie", "session=theirs")];
        return (StatusCode::FOUND, to, "it moved").into_response();
    }
    if path.ends_with("/fail") {
        return (StatusCode::INTERNAL_SERVER_ERROR, "it failed").into_response();
    }
    if path.ends_with("/break") {
        let chunks = futures_util::stream::unfold(0, |sent| async move {
            if sent == 0 {
                return Some((Ok("begun"), 1));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            Some((Err(std::io::Error::other("the wire was cut")), 2))
        });
        return Body::from_stream(chunks).into_response();
    }
    if path.ends_with("/hang") {
        std::future::pending::<()>().await;
    }
    if path.ends_with("/late-failure") {
        tokio::time::sleep(Duration::from_secs(1)).await;
        return (StatusCode::INTERNAL_SERVER_ERROR, "it failed").into_response();
    }
    if path.ends_with("/much") {
        // More than lies between, and then it breaks off.
        let chunks = futures_util::stream::unfold(0, |sent| async move {
            let chunk = axum::body::Bytes::from_static(&[b'x'; 64 * 1024]);
            match sent {
                0..480 => Some((Ok(chunk), sent + 1)),
                _ => Some((Err(std::io::Error::other("the wire was cut")), sent)),
            }
        });
        return Body::from_stream(chunks).into_response();
    }
    if path.ends_with("/stream") {
        // Each part of the request goes back as it comes.
        return Body::from_stream(body.into_data_stream()).into_response();
    }
    if path.ends_with("/slow") {
        let secs = parts.uri.query().and_then(|query| query.parse().ok());
        tokio::time::sleep(Duration::from_secs(secs.unwrap_or(30))).await;
    }
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let headers: serde_json::Map<String, Value> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())))
        .collect();
    let mut response = axum::Json(json!({
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    }))
    .into_response();
    let headers = response.headers_mut();
    headers.insert("x-of-upstream", "1".parse().unwrap());
    headers.insert("keep-alive", "timeout=5".parse().unwrap());
    response
}

pub const PLANS: &str = include_str!("../../../config/plans.toml");

pub async fn service_before(upstream: &Upstream, agents_path: &str) -> (TestService, Tenant) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let routes = format!(
        "{PLANS}\n[[enforcement.routes]]\npath = \"/tools/{{*rest}}\"\nmetric = \"api_calls\"\n\
         amount = \"2.5\"\nupstream = \"{}/base\"\n",
        upstream.url
    );
    std::fs::write(file.path(), routes).unwrap();
    let service = TestService::with(Options {
        plans_file: Some(file.path().to_owned()),
        usage: UsageConfig {
            agents_upstream: Some(format!("{}{agents_path}", upstream.url).parse().unwrap()),
            ..UsageConfig::default()
        },
        ..Options::default()
    })
    .await;
    let tenant = Tenant::of(&service, "Calling").await;
    (service, tenant)
}

/// Waits until nothing is held any more, and tells the total.
pub async fn settled(service: &TestService, tenant: &Tenant, metric: &str) -> String {
    for _ in 0..500 {
        if service.db.count("usage_reservations").await == 0 {
            return tenant.total(service, metric).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a reservation was not settled");
}

#[tokio::test]
async fn a_call_is_forwarded_without_what_is_ours() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/agent").await;
    let request = service
        .post(&format!("{EXECUTE}?trace=1"))
        .bearer_auth(&tenant.key)
        .header("cookie", "a=b")
        .header("te", "trailers")
        .header("x-organization-id", "somebody-else")
        .header("traceparent", "00-1")
        .json(&json!({"agentId": "test", "input": "test"}));
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_eq!(answer.header("x-quota-usage"), "1");
    assert_eq!(answer.header("x-of-upstream"), "1");
    assert_eq!(answer.header("keep-alive"), "");
    let seen = answer.ok();
    assert_eq!(seen["target"], "/agent?trace=1");
    assert_eq!(seen["body"], r#"{"agentId":"test","input":"test"}"#);
    let headers = &seen["headers"];
    assert_eq!(
        headers["x-organization-id"],
        tenant.organization.to_string()
    );
    assert_eq!(headers["traceparent"], "00-1");
    for ours in ["authorization", "cookie", "te"] {
        assert_eq!(headers[ours], Value::Null, "{ours}");
    }
    assert_eq!(settled(&service, &tenant, "agent_executions").await, "1");
}

#[tokio::test]
async fn what_failed_upstream_is_not_counted() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/fail").await;
    let answer = tenant.execute(&service).await;
    assert_eq!((answer.status, &answer.body), (500, &json!("it failed")));
    assert_eq!(settled(&service, &tenant, "agent_executions").await, "0");
    // Cut off half-way.
    let url = format!("{}/tools/break", service.base);
    let cut = service
        .client
        .get(url)
        .bearer_auth(&tenant.key)
        .send()
        .await
        .unwrap();
    assert_eq!(cut.status(), 200);
    assert!(cut.text().await.is_err());
    assert_eq!(settled(&service, &tenant, "api_calls").await, "0");
}

#[tokio::test]
async fn nobody_there_is_a_bad_gateway_and_costs_nothing() {
    let upstream = Upstream {
        url: "http://127.0.0.1:9".to_owned(),
        calls: Arc::default(),
    };
    let (service, tenant) = service_before(&upstream, "/").await;
    let answer = tenant.execute(&service).await;
    assert_eq!(answer.problem(), (502, "upstream_unreachable"));
    assert!(!answer.body.to_string().contains("127.0.0.1"));
    assert_eq!(settled(&service, &tenant, "agent_executions").await, "0");
}

#[tokio::test]
async fn a_configured_route_streams_both_ways() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/").await;
    let (feed, fed) = tokio::sync::mpsc::channel::<Result<&'static str, std::io::Error>>(1);
    let parts = futures_util::stream::unfold(fed, |mut fed| async move {
        fed.recv().await.map(|part| (part, fed))
    });
    let url = format!("{}/tools/stream", service.base);
    let request = service
        .client
        .put(url)
        .bearer_auth(&tenant.key)
        .body(reqwest::Body::wrap_stream(parts));
    feed.send(Ok("first ")).await.unwrap();
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["x-quota-usage"], "2.5");
    let mut chunks = response.bytes_stream();
    assert_eq!(chunks.next().await.unwrap().unwrap(), "first ");
    feed.send(Ok("second")).await.unwrap();
    assert_eq!(chunks.next().await.unwrap().unwrap(), "second");
    drop(feed);
    assert!(chunks.next().await.is_none());
    assert_eq!(settled(&service, &tenant, "api_calls").await, "2.5");
}

#[tokio::test]
async fn a_call_over_a_hard_limit_never_reaches_the_upstream() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/agent").await;
    tenant
        .set_quota(&service, "agent_executions", "1", Some(OverLimit::Hard))
        .await;
    tenant.execute(&service).await.ok();
    assert_eq!(
        tenant.execute(&service).await.problem(),
        (402, "QUOTA_EXCEEDED")
    );
    assert_eq!(upstream.calls.load(Ordering::SeqCst), 1);
    // Nor does a path that climbs, nor a caller without a credential.
    let climbing = tenant.get(&service, "/tools/%2e%2e/admin").await;
    assert_eq!(climbing.status, 404);
    let anonymous = service.get("/tools/run").send().await.unwrap();
    assert_eq!(anonymous.status(), 401);
    let below = tenant.get(&service, "/tools/a%20b/c?d=e").await.ok();
    assert_eq!(below["target"], "/base/a%20b/c?d=e");
}

#[tokio::test]
async fn a_reservation_that_a_crash_left_behind_expires() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/agent").await;
    tenant.execute(&service).await.ok();
    assert_eq!(settled(&service, &tenant, "agent_executions").await, "1");
    service
        .db
        .execute(
            "INSERT INTO usage_reservations (organization_id, id, metric, period_start, quantity,
                                             reserved_at, expires_at)
             SELECT organization_id, gen_random_uuid(), metric, period_start, 5, now(), now()
               FROM usage_totals;
             UPDATE usage_totals SET reserved = 5",
        )
        .await;
    let usage = tenant.usage(&service, "agent_executions").await;
    assert_eq!(
        (&usage["usage"], &usage["reserved"]),
        (&json!(6), &json!(5))
    );
    // The sweep of another replica finds it when that starts.
    let _other = TestService::beside_with(&service, Options::default()).await;
    assert_eq!(settled(&service, &tenant, "agent_executions").await, "1");
    let usage = tenant.usage(&service, "agent_executions").await;
    assert_eq!(usage["usage"], json!(1));
}
