//! What callers send with forwarded calls, and what upstreams answer, that must
//! not be believed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::gateway::{Upstream, service_before, settled};
use super::tenant::{Answer, EXECUTE};
use crate::support::TestService;
use crate::support::wire::{Reply, Wire};

/// How long a call takes that others would have given up; `VCB_SLOW_CALL_SECS`
/// raises it beyond the lease of an Idempotency-Key.
fn slow_secs() -> u64 {
    let asked = std::env::var("VCB_SLOW_CALL_SECS").ok();
    asked.map_or(1, |secs| secs.parse().expect("a number"))
}

/// A request as it is written, with nothing normalized on the way.
async fn raw(service: &TestService, key: &str, target: &str, headers: &str) -> Reply {
    let mut wire = Wire::open(&service.base).await;
    wire.send(format!(
        "GET {target} HTTP/1.1\r\nhost: billing\r\nauthorization: Bearer {key}\r\n{headers}\r\n"
    ))
    .await;
    wire.answer().await
}

#[tokio::test]
async fn a_path_goes_on_as_it_came_and_nowhere_else() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/agent").await;
    for (path, target) in [
        ("/tools/a%2Fb", "/base/a%2Fb"),
        ("/tools/a%5Cb", "/base/a%5Cb"),
        ("/tools/%ff", "/base/%ff"),
        ("/tools//a//b/", "/base//a//b/"),
        ("/tools/a;v=1?x=%2e%2e/&y", "/base/a;v=1?x=%2e%2e/&y"),
        ("http://evil.example/tools/a", "/base/a"),
    ] {
        let reply = raw(&service, &tenant.key, path, "").await;
        assert_eq!(reply.status, 200, "{path} {reply:?}");
        assert_eq!(reply.json()["target"], target, "{path}");
    }
    let before = upstream.calls.load(Ordering::SeqCst);
    for path in [
        "/tools/..%5csecret",
        "/tools/%252e%252e/secret",
        "/tools/%2e%2e/secret",
        "/tools/..%2fsecret",
        "/tools/../secret",
        "/tools/a/..;/..;/secret",
        "/tools/..\\secret",
        "/tools/%c0%ae%c0%ae/secret",
        "/tools/..%255c..%255csecret",
        "http://evil.example/tools/../secret",
    ] {
        let reply = raw(&service, &tenant.key, path, "").await;
        assert!((400..500).contains(&reply.status), "{path} {reply:?}");
        let problem = reply.header("content-type");
        assert_eq!(problem, Some("application/problem+json"), "{path}");
    }
    assert_eq!(upstream.calls.load(Ordering::SeqCst), before);
    assert_eq!(settled(&service, &tenant, "api_calls").await, "15");
}

#[tokio::test]
async fn a_redirect_is_the_callers_and_is_not_counted() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/moved").await;
    let run = tenant.execute(&service).await;
    let get = tenant.get(&service, "/tools/moved").await;
    for answer in [run, get] {
        assert_eq!((answer.status, &answer.body), (302, &json!("it moved")));
        assert_eq!(answer.header("location"), "/secret");
        assert_eq!(answer.header("set-cookie"), "");
    }
    assert_eq!(upstream.calls.load(Ordering::SeqCst), 2, "nobody followed");
    assert_eq!(settled(&service, &tenant, "agent_executions").await, "0");
    assert_eq!(settled(&service, &tenant, "api_calls").await, "0");
}

#[tokio::test]
async fn an_upstream_hears_of_the_caller_from_us_alone() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/agent").await;
    let theirs = "X_Organization_Id: theirs\r\nX-Organization-Id: theirs\r\n\
                  X-Forwarded-For: 192.0.2.9\r\nX_Forwarded_For: 192.0.2.9\r\n\
                  X-Forwarded-Host: evil\r\nX-Real-IP: 192.0.2.9\r\nForwarded: for=192.0.2.9\r\n\
                  X-Quota-Usage: 0\r\nX-Quota-Amount: 0\r\nX-Original-URL: /secret\r\n\
                  X-Rewrite-URL: /secret\r\nX-Request-Id: <script>\r\nX-Own: kept\r\n";
    let reply = raw(&service, &tenant.key, "/tools/x", theirs).await;
    let seen = reply.json()["headers"].clone();
    assert_eq!(seen["x-organization-id"], tenant.organization.to_string());
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1");
    assert_eq!(seen["x-own"], "kept");
    assert_eq!(seen["x-request-id"].as_str(), reply.header("x-request-id"));
    let believed = ["theirs", "192.0.2.9", "evil", "/secret", "script"];
    let text = seen.to_string();
    assert!(believed.iter().all(|word| !text.contains(word)), "{text}");
    assert_eq!(seen["x-quota-usage"], Value::Null);
    // An organization is named by service keys, and by nobody else.
    let named = format!("X-Organization: {}\r\n", tenant.organization);
    let refused = raw(&service, &tenant.key, "/tools/x", &named).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (400, "organization_not_selectable")
    );
}

#[tokio::test]
async fn a_key_does_not_hold_a_stream_back() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/agent").await;
    let call = |path: &str, key: &str| {
        let request = service.post(path).bearer_auth(&tenant.key);
        request.header("idempotency-key", key).body("begun")
    };
    // The first part comes before the upstream has broken off.
    let broken = call("/tools/break", "broken").send().await.unwrap();
    let mut chunks = broken.bytes_stream();
    assert_eq!(chunks.next().await.unwrap().unwrap(), "begun");
    assert!(chunks.next().await.unwrap().is_err());
    assert_eq!(settled(&service, &tenant, "api_calls").await, "0");
    // What broke off settles nothing: the key may be used again at once.
    for _ in 0..200 {
        let free = "request_idempotency WHERE lease_expires_at <= now()";
        if service.db.count(free).await == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let again = call("/tools/break", "broken").send().await.unwrap();
    assert_eq!(again.status(), 200);
    assert!(again.text().await.is_err());
    assert_eq!(settled(&service, &tenant, "api_calls").await, "0");

    let first = Answer::of(call("/tools/a", "k").send().await.unwrap()).await;
    assert_eq!((first.status, first.header("x-quota-usage")), (200, "2.5"));
    let again = Answer::of(call("/tools/a", "k").send().await.unwrap()).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.body, first.body);
    assert_eq!(settled(&service, &tenant, "api_calls").await, "2.5");
}

#[tokio::test]
async fn a_key_lasts_as_long_as_its_call() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/slow").await;
    let call = || {
        let request = service.post(&format!("{EXECUTE}?{}", slow_secs()));
        let request = request
            .bearer_auth(&tenant.key)
            .timeout(Duration::from_secs(600));
        request.header("idempotency-key", "slow").body("{}").send()
    };
    let hasty = async {
        // Until just before the end the first is still at work.
        tokio::time::sleep(Duration::from_millis(slow_secs() * 1_000 - 500)).await;
        call().await.unwrap().status()
    };
    let (first, second) = tokio::join!(call(), hasty);
    assert_eq!(first.unwrap().status(), 200);
    assert_eq!(second, 409);
    assert_eq!(upstream.calls.load(Ordering::SeqCst), 1);
    assert_eq!(settled(&service, &tenant, "agent_executions").await, "1");
}

#[tokio::test]
async fn who_hangs_up_under_a_key_has_its_answer_kept() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/slow").await;
    let call = || {
        let request = service
            .post(&format!("{EXECUTE}?1"))
            .bearer_auth(&tenant.key);
        request.header("idempotency-key", "hasty").body("{}")
    };
    let hung_up = call().timeout(Duration::from_millis(300)).send().await;
    assert!(hung_up.is_err());
    for _ in 0..500 {
        if service
            .db
            .count("request_idempotency WHERE status = 200")
            .await
            == 1
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let again = Answer::of(call().send().await.unwrap()).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(upstream.calls.load(Ordering::SeqCst), 1);
    assert_eq!(settled(&service, &tenant, "agent_executions").await, "1");
}
