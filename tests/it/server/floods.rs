//! Strangers and tenants who want more than there is: the service lives, its
//! memory stays bounded, and Stripe gets in.

use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::support::TestDatabase;
use crate::support::events::sign;
use crate::support::floods::{Deliveries, Flood, connections, deliver, forget_peak, memory_mib};
use crate::support::service::WEBHOOKS;
use crate::support::serving::{Serving, serve_on, serve_under};
use crate::support::wire::Wire;

const MIB: usize = 1024 * 1024;
/// What a flood may cost: the shares of heads and bodies, connections, and what
/// the allocator has not given back of the flood before. Unbounded, each would
/// cost a MiB for each of its connections.
const COST_MIB: u64 = 180;

/// Runs a flood of each of `floods` with deliveries beside it.
async fn survives(serving: &Serving, count: usize, floods: &[Vec<u8>]) {
    let before = memory_mib(serving.pid(), "VmRSS");
    let deliveries = Deliveries::to(&serving.base);
    for bytes in floods {
        forget_peak(serving.pid());
        let flood = Flood::of(&serving.base, count, bytes.clone()).await;
        let again = Flood::of(&serving.base, count / 4, bytes.clone()).await;
        assert_eq!(
            deliver(&serving.base, &Uuid::now_v7().to_string(), 10).await,
            200
        );
        drop((flood, again));
        let most = memory_mib(serving.pid(), "VmHWM");
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]);
        assert!(
            most <= before + COST_MIB,
            "{head:?}: {before} MiB became {most} MiB"
        );
    }
    assert!(deliveries.acknowledged().await > 0);
}

fn post(path: &str, headers: &str, length: usize) -> Vec<u8> {
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: test\r\n{headers}content-length: {length}\r\n\r\n");
    let mut bytes = head.into_bytes();
    // All of it but the end.
    bytes.resize(bytes.len() + length - 1_000, b'x');
    bytes
}

#[tokio::test]
async fn bodies_that_nobody_signed_take_no_memory() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let forged = format!("stripe-signature: {}\r\n", sign(b"another body"));
    let stale = "stripe-signature: t=1700000000,v1=00\r\n";
    let chunked = format!(
        "POST {WEBHOOKS} HTTP/1.1\r\nhost: test\r\n{forged}transfer-encoding: chunked\r\n\r\n\
         f0000\r\n{}",
        "x".repeat(900_000)
    );
    let floods = [
        post(WEBHOOKS, "", MIB),
        post(WEBHOOKS, stale, MIB),
        post(WEBHOOKS, &forged, MIB),
        chunked.into_bytes(),
        post("/api/auth/login", "content-type: application/json\r\n", MIB),
    ];
    survives(&serving, connections(300), &floods).await;
}

#[tokio::test]
async fn heads_without_an_end_take_no_memory() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let long = |head: String| [head.into_bytes(), vec![b'a'; MIB - 1_000]].concat();
    let floods = [
        long("GET /healthz HTTP/1.1\r\nX-A: ".to_owned()),
        long(format!(
            "POST {WEBHOOKS} HTTP/1.1\r\nStripe-Signature: t=1,v1="
        )),
        long("GET /".to_owned()),
        format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(MIB / 6)).into_bytes(),
    ];
    survives(&serving, connections(300), &floods).await;
}

/// A large event of Stripe's has a share that strangers cannot keep, though
/// they write signatures of the right form.
#[tokio::test]
async fn a_large_delivery_gets_in_beside_forged_ones() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let forged = format!("stripe-signature: {}\r\n", sign(b"another body"));
    let flood = Flood::of(
        &serving.base,
        connections(300),
        post(WEBHOOKS, &forged, MIB),
    )
    .await;
    for n in 0..5 {
        let id = format!("evt_large_{n}");
        assert_eq!(deliver(&serving.base, &id, 900_000).await, 200);
    }
    drop(flood);
}

#[tokio::test]
async fn idle_connections_give_way_where_descriptors_are_few() {
    let db = TestDatabase::new().await;
    let count = connections(400);
    // The soft limit of systemd's, in small, is raised.
    let serving = Serving::start(&mut serve_under("ulimit -Sn 200", &db));
    let asked = Flood::of(
        &serving.base,
        count,
        *b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n",
    )
    .await;
    assert_eq!(asked.open(), count.min(3_072));
    assert_eq!(deliver(&serving.base, "evt_raised", 10).await, 200);
    drop((asked, serving));

    // A hard limit stays: whoever is idle goes, and Stripe gets in.
    let serving = Serving::start(&mut serve_under("ulimit -n 400", &db));
    assert!(serving.log().contains("few file descriptors"));
    let deliveries = Deliveries::to(&serving.base);
    for bytes in [
        &b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"[..],
        b"GET /healthz HTTP/1.1\r\nhos",
        b"",
        &post(
            "/api/auth/login",
            "content-type: application/json\r\n",
            9_000,
        ),
    ] {
        let flood = Flood::of(&serving.base, count, bytes).await;
        let id = Uuid::now_v7().to_string();
        assert_eq!(deliver(&serving.base, &id, 10).await, 200);
        let open = flood.open();
        assert!(open <= 72, "{open} for (400 - 256) / 2");
    }
    assert!(deliveries.acknowledged().await > 0);
    let mut wire = Wire::open(&serving.base).await;
    wire.send("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let metrics = wire.answer().await.body;
    assert!(metrics.contains("http_connections_limit 72\n"), "{metrics}");
    let evicted = |doing: &str| {
        let series = format!("http_connections_evicted_total{{doing=\"{doing}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
        line.expect("it exists").parse::<u64>().unwrap()
    };
    let each = ["idle", "head", "body"].map(|doing| (doing, evicted(doing)));
    assert!(each.iter().all(|(_, times)| *times > 0), "{each:?}");
}

/// Uploads that hang cost their sender, and nobody else.
#[tokio::test]
async fn bodies_of_one_credential_leave_room_for_others() {
    let db = TestDatabase::new().await;
    let serving = Serving::start(&mut serve_on(&db));
    let mut keys = Vec::new();
    for name in ["Many", "One"] {
        let organization = crate::support::service::organization(&db, name).await;
        keys.push(key_of(&db, organization).await);
    }
    let path = "/api/billing/usage/events";
    let headers =
        |key: &str| format!("content-type: application/json\r\nauthorization: Bearer {key}\r\n");
    let before = memory_mib(serving.pid(), "VmRSS");
    let flood = Flood::of(
        &serving.base,
        connections(200),
        post(path, &headers(&keys[0]), MIB),
    )
    .await;
    let events: Vec<_> = (0..1_000)
        .map(|n| {
            json!({"id": format!("b{n}"), "metric": "api_calls", "quantity": 0,
                        "metadata": {"x": "x".repeat(500)}})
        })
        .collect();
    let body = json!(events).to_string();
    assert!(body.len() > MIB / 2);
    let mut wire = Wire::open(&serving.base).await;
    let length = body.len();
    let head = headers(&keys[1]);
    wire.send(format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\n{head}content-length: {length}\r\n\r\n{body}"
    ))
    .await;
    let reply = wire.answer().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let most = memory_mib(serving.pid(), "VmHWM");
    assert!(most <= before + COST_MIB, "{before} MiB became {most} MiB");
    drop(flood);
}

async fn key_of(db: &TestDatabase, organization: Uuid) -> String {
    let key = format!("vck_{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let digest = hex::encode(Sha256::digest(key.as_bytes()));
    db.execute(&format!(
        "INSERT INTO api_keys (organization_id, id, name, prefix, key_hash, scopes)
         VALUES ('{organization}', gen_random_uuid(), 'test', '{}', '\\x{digest}', '{{usage.write}}')",
        &key[..12]
    ))
    .await;
    key
}

/// Of a page of 2 MiB, one allocation that stays would keep all of a flood's.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_is_taken_in_small_pages() {
    let db = TestDatabase::new().await;
    let serving = Serving::start(&mut serve_on(&db));
    let status = std::fs::read_to_string(format!("/proc/{}/status", serving.pid())).unwrap();
    let large = status.lines().find(|line| line.starts_with("THP_enabled:"));
    assert!(
        large.is_none_or(|line| line.ends_with('0')),
        "{large:?}: large pages are on"
    );
}
