//! Forwarded calls whose clients go away, read slowly, or come in crowds: what
//! the upstream did is counted, and what is held lasts as long as its call.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde_json::json;
use valuecanvas_billing::catalogue::OverLimit;

use super::gateway::{Upstream, service_before, settled};
use super::tenant::{Answer, EXECUTE, Tenant};
use crate::support::TestService;
use crate::support::wire::Wire;

/// Begins a call, and returns once the upstream has it.
async fn begin(service: &TestService, tenant: &Tenant, upstream: &Upstream, target: &str) -> Wire {
    let before = upstream.calls.load(Ordering::SeqCst);
    let mut wire = Wire::open(&service.base).await;
    wire.send(format!(
        "POST {target} HTTP/1.1\r\nhost: billing\r\nauthorization: Bearer {}\r\n\
         content-length: 2\r\n\r\n{{}}",
        tenant.key
    ))
    .await;
    while upstream.calls.load(Ordering::SeqCst) == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    wire
}

#[tokio::test]
async fn who_hangs_up_before_the_answer_has_used_what_the_upstream_did() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/slow").await;
    tenant
        .set_quota(&service, "agent_executions", "3", Some(OverLimit::Hard))
        .await;
    for _ in 0..3 {
        drop(begin(&service, &tenant, &upstream, &format!("{EXECUTE}?1")).await);
    }
    // Nothing is let go: the fourth finds no room, held or counted.
    let refused = tenant.execute(&service).await;
    assert_eq!(refused.problem(), (402, "QUOTA_EXCEEDED"));
    assert_eq!(settled(&service, &tenant, "agent_executions").await, "3");
    assert_eq!(upstream.calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn who_hangs_up_pays_nothing_for_what_failed() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/late-failure").await;
    drop(begin(&service, &tenant, &upstream, EXECUTE).await);
    assert_eq!(settled(&service, &tenant, "agent_executions").await, "0");
    assert_eq!(upstream.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_request_that_breaks_off_is_no_call() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/agent").await;
    let mut wire = Wire::open(&service.base).await;
    wire.send(format!(
        "POST {EXECUTE} HTTP/1.1\r\nhost: billing\r\nauthorization: Bearer {}\r\n\
         content-length: 9\r\n\r\n{{}}",
        tenant.key
    ))
    .await;
    while service.db.count("usage_reservations").await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(wire);
    assert_eq!(settled(&service, &tenant, "agent_executions").await, "0");
}

#[tokio::test]
async fn an_upstream_that_its_client_kept_waiting_did_not_fail() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/").await;
    let call = || service.get("/tools/much").bearer_auth(&tenant.key).send();
    let read = |answer: reqwest::Response| async {
        let mut chunks = answer.bytes_stream();
        while let Some(Ok(_)) = chunks.next().await {}
    };
    read(call().await.unwrap()).await;
    assert_eq!(settled(&service, &tenant, "api_calls").await, "0");
    let slow = call().await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    read(slow).await;
    assert_eq!(settled(&service, &tenant, "api_calls").await, "2.5");
    // Nor did one whose client had read enough.
    let mut enough = call().await.unwrap().bytes_stream();
    enough.next().await.unwrap().unwrap();
    drop(enough);
    assert_eq!(settled(&service, &tenant, "api_calls").await, "5");
}

#[tokio::test]
async fn what_is_held_lasts_as_long_as_its_call() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/hang").await;
    let call = begin(&service, &tenant, &upstream, EXECUTE).await;
    // As after almost a quarter of an hour.
    service
        .db
        .execute("UPDATE usage_reservations SET expires_at = now() + interval '20 s'")
        .await;
    let renewed = "usage_reservations WHERE expires_at > now() + interval '10 min'";
    while service.db.count(renewed).await == 0 {
        assert_eq!(service.db.count("usage_reservations").await, 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(call);
}

#[tokio::test]
async fn calls_under_way_are_settled_when_the_service_stops() {
    let upstream = Upstream::start().await;
    let (mut service, tenant) = service_before(&upstream, "/hang").await;
    drop(begin(&service, &tenant, &upstream, EXECUTE).await);
    assert_eq!(service.db.count("usage_reservations").await, 1);
    service.stop().await;
    assert_eq!(service.db.count("usage_reservations").await, 0);
    let counted = "usage_totals WHERE total = 1 AND reserved = 0";
    assert_eq!(service.db.count(counted).await, 1);
}

#[tokio::test]
async fn one_organizations_calls_leave_room_for_anothers() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/hang").await;
    let other = Tenant::of(&service, "Beside").await;
    tenant
        .set_quota(&service, "agent_executions", "1000", None)
        .await;
    let mut calls = Vec::new();
    while calls.len() < 256 {
        let more = (0..32).map(|_| begin(&service, &tenant, &upstream, EXECUTE));
        calls.extend(join_all(more).await);
    }
    while upstream.calls.load(Ordering::SeqCst) < 256 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = tenant.execute(&service).await;
    assert_eq!(refused.problem(), (429, "too_many_calls"));
    assert_eq!(refused.header("retry-after"), "1");
    // Nothing of the one that was refused is held.
    while service.db.count("usage_reservations").await < 256 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = service
        .get("/tools/x")
        .bearer_auth(&other.key)
        .send()
        .await
        .unwrap();
    assert_eq!(Answer::of(answer).await.ok()["target"], json!("/base/x"));
    while service.db.count("usage_reservations").await > 256 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(calls);
}

/// Four organizations have all of the memory for answers, and read none of them.
#[tokio::test]
async fn who_does_not_read_gives_way_to_who_does() {
    let upstream = Upstream::start().await;
    let (service, tenant) = service_before(&upstream, "/agent").await;
    let mut unread = Vec::new();
    for name in ["One", "Two", "Three", "Four"] {
        let many = Tenant::of(&service, name).await;
        let calls = (0..32).map(|_| call_much(&service, &many));
        unread.extend(join_all(calls).await);
    }
    for _ in 0..5 {
        let mut wire = Wire::open(&service.base).await;
        let call = "GET /tools/x HTTP/1.1\r\nhost: billing\r\n";
        wire.send(format!(
            "{call}authorization: Bearer {}\r\n\r\n",
            tenant.key
        ))
        .await;
        let reply = wire.answer().await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    drop(unread);
}

async fn call_much(service: &TestService, tenant: &Tenant) -> Wire {
    let mut wire = Wire::open(&service.base).await;
    let call = "GET /tools/much HTTP/1.1\r\nhost: billing\r\n";
    wire.send(format!(
        "{call}authorization: Bearer {}\r\n\r\n",
        tenant.key
    ))
    .await;
    while !wire.has_answer().await {}
    wire
}
